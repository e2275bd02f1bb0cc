"""Files of every format: the same figures from each, in small pieces, and a clear word about each damaged one."""

import gzip
import json
import os
import re
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

import kosa
from kosa.scoring import InputError, Score
from kosa.scoring.textfiles import lines

ROWS, CLASSES = 500, 3
RANDOM = np.random.default_rng(1)
# Written with 4 digits, so that text files hold the same numbers.
LOGITS = RANDOM.standard_normal((ROWS, CLASSES)).round(4)
LABELS = RANDOM.integers(0, CLASSES, ROWS)
WEIGHTS = RANDOM.random(ROWS).round(4)
NAMES = [f"row {number}" for number in range(ROWS)]
EXPECTED = kosa.score(LABELS, logits=LOGITS, weight=WEIGHTS, id=np.array(NAMES))
COLUMNS = {
    "z0": LOGITS[:, 0],
    "note": ['"quoted", and\nbroken'] * ROWS,
    "y": LABELS,
    "z1": LOGITS[:, 1],
    "w": WEIGHTS,
    "z2": LOGITS[:, 2],
    "name": NAMES,
}
WIDE = pa.table(COLUMNS)
FLAT = pa.array(LOGITS.ravel())
LISTS = WIDE.select(["y", "w", "name"]).append_column(
    "z", pa.ListArray.from_arrays(np.arange(0, FLAT.__len__() + 1, CLASSES, dtype=np.int32), FLAT)
)
FIXED = WIDE.select(["y", "w", "name"]).append_column("z", pa.FixedSizeListArray.from_arrays(FLAT, CLASSES))
LARGE = LISTS.set_column(3, "z", LISTS["z"].cast(pa.large_list(pa.float64())))


def stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=60)


def csv(table: pa.Table, path: Path, delimiter: str = ",") -> None:
    options = pa.csv.WriteOptions(delimiter=delimiter)
    with pa.output_stream(str(path)) as file:  # compresses by the ending
        pa.csv.write_csv(table, file, options)


def jsonl(table: pa.Table, path: Path) -> None:
    with pa.output_stream(str(path)) as file:
        file.write("".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode())


def npz(path: Path, save: Callable[..., None] = np.savez, **arrays: np.ndarray) -> Path:
    save(path, y=LABELS, w=WEIGHTS, name=np.array(NAMES), **arrays)
    return path


WRITERS: dict[str, tuple[pa.Table, Callable[[pa.Table, Path], None]]] = {
    "wide.parquet": (WIDE, lambda table, path: pa.parquet.write_table(table, path, row_group_size=177)),
    "lists.parquet": (LISTS, pa.parquet.write_table),
    "fixed.parquet": (FIXED, pa.parquet.write_table),
    "large.pq": (LARGE, pa.parquet.write_table),
    "wide.feather": (WIDE, lambda table, path: pa.feather.write_feather(table, str(path), chunksize=77)),
    "plain.arrow": (
        LISTS,
        lambda t, path: pa.feather.write_feather(t, str(path), "uncompressed", chunksize=77),
    ),
    "fixed.ipc": (FIXED, lambda table, path: pa.feather.write_feather(table, str(path))),
    "wide.arrows": (WIDE, stream),
    "lists.arrows": (LISTS, stream),
    "wide.csv": (WIDE, csv),
    "wide.csv.gz": (WIDE, csv),
    "wide.csv.bz2": (WIDE, csv),
    "wide.tsv": (WIDE, lambda table, path: csv(table, path, "\t")),
    "wide.jsonl": (WIDE, jsonl),
    "lists.ndjson": (LISTS, jsonl),
    "lists.jsonl.gz": (LISTS, jsonl),
}


def check(found: Score) -> None:
    """Text keeps the numbers, so all figures are equal to the last bit but those of the clip's type."""
    assert found == EXPECTED


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("batch_size", [None, 13])
def test_every_table_format(name: str, batch_size: int | None, tmp_path: Path) -> None:
    table, write = WRITERS[name]
    write(table, tmp_path / name)
    spec = "z*" if table is WIDE else "z"
    check(kosa.score(tmp_path / name, "y", logits=spec, weight="w", id="name", batch_size=batch_size))


@pytest.mark.parametrize("batch_size", [None, 13])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(batch_size: int | None, save: Callable[..., None], order: str, tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", save, z=np.asarray(LOGITS, order=order))
    check(kosa.score(str(path), "y", logits="z", weight="w", id="name", batch_size=batch_size))


@pytest.mark.parametrize("batch_size", [None, 13])
def test_npy_of_records(batch_size: int | None, tmp_path: Path) -> None:
    records = np.empty(ROWS, dtype=[("y", ">i4"), ("z", "f8", (CLASSES,)), ("w", "f8"), ("name", "U8")])
    records["y"], records["z"], records["w"], records["name"] = LABELS, LOGITS, WEIGHTS, NAMES
    np.save(tmp_path / "a.npy", records)
    check(kosa.score(tmp_path / "a.npy", "y", logits="z", weight="w", id="name", batch_size=batch_size))


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_with_the_other_columns_beside_it(order: str, tmp_path: Path) -> None:
    columns = {"z": np.asarray(LOGITS, order=order), "y": LABELS, "w": WEIGHTS, "name": np.array(NAMES)}
    for name, array in columns.items():
        np.save(tmp_path / f"{name}.npy", array)
    check(kosa.score(tmp_path / "z.npy", "y", logits="z", weight="w", id="name", batch_size=13))


def test_several_files_of_several_formats_are_one_data_set(tmp_path: Path) -> None:
    paths = []
    for start, name in ((0, "wide.parquet"), (200, "wide.csv"), (350, "wide.jsonl"), (350, "wide.arrows")):
        part = WIDE.slice(start, {0: 200, 200: 150, 350: 0 if name == "wide.jsonl" else 150}[start])
        if not len(part):
            continue
        WRITERS[name][1](part, tmp_path / name)
        paths.append(tmp_path / name)
    without_ids = kosa.score(LABELS, logits=LOGITS, weight=WEIGHTS)
    found = kosa.score(paths, "y", logits="z*", weight="w", batch_size=37)
    assert found == without_ids
    assert max(row.row for row in found.worst) >= 200  # numbered over all files


def test_columns_stand_in_the_first_files_order(tmp_path: Path) -> None:
    pa.parquet.write_table(WIDE.slice(0, 100), tmp_path / "a.parquet")
    backward = WIDE.select(["name", "z2", "z1", "w", "z0", "y"]).slice(100)
    pa.parquet.write_table(backward, tmp_path / "b.parquet")
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    check(kosa.score(paths, "y", logits="z*", weight="w", id="name"))


def test_a_column_that_a_later_file_lacks(tmp_path: Path) -> None:
    pa.parquet.write_table(WIDE, tmp_path / "a.parquet")
    pa.parquet.write_table(WIDE.drop_columns(["z1"]), tmp_path / "b.parquet")
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    with pytest.raises(InputError, match=r"b\.parquet' and .*a\.parquet' differ in these columns: 'z1'"):
        kosa.score(paths, "y", logits="z*")
    with pytest.raises(InputError, match=r"b\.parquet' has no column 'z1' for `logits`"):
        kosa.score(paths, "y", logits="z0,z1,z2")


def test_half_precision_and_integer_columns(tmp_path: Path) -> None:
    half = LOGITS.astype(np.float16)
    whole = pa.table({"y": LABELS, **{f"z{k}": (9 * LOGITS[:, k]).astype(np.int16) for k in range(CLASSES)}})
    table = pa.table({"y": LABELS, **{f"z{k}": half[:, k] for k in range(CLASSES)}})
    pa.feather.write_feather(table, str(tmp_path / "half.arrow"))
    pa.parquet.write_table(whole, tmp_path / "whole.parquet")
    assert kosa.score(tmp_path / "half.arrow", "y", logits="z*") == kosa.score(LABELS, logits=half)
    expected = kosa.score(LABELS, logits=(9 * LOGITS).astype(np.int16))
    assert kosa.score(tmp_path / "whole.parquet", "y", logits="z*") == expected


def test_untyped_labels_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("y,z_cat,z_dog\ncat,1,2\n1,2.5,1\ndog,inf,1\n".replace("inf", "3"))
    expected = kosa.score([0, 1, 1], logits=[[1.0, 2.0], [2.5, 1.0], [3.0, 1.0]], classes=["cat", "dog"])
    assert kosa.score(path, "y", logits="z_*") == expected
    path.write_text("y,p\nTrue,0.5\nfalse,0.25\n1,0.75\n0.5,0.5\n")
    assert kosa.score(path, "y", probs="p") == kosa.score([1.0, 0.0, 1.0, 0.5], probs=[0.5, 0.25, 0.75, 0.5])
    path.write_text("y,p\nspam,0.5\nham,0.25\n")
    expected = kosa.score([1, 0], probs=[0.5, 0.25], classes=["ham", "spam"])
    assert kosa.score(path, "y", probs="p", classes=["ham", "spam"]) == expected
    with pytest.raises(IndexError, match=r"row 0 \(from 0\) of .*: target 'spam' of a binary prediction"):
        kosa.score(path, "y", probs="p")


def test_ids_of_a_csv_stay_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,y,p\n007,1,0.5\nNA,0,0.75\n")
    score = kosa.score(tmp_path / "a.csv", "y", probs="p", id="id")
    assert [row.id for row in score.worst] == ["NA", "007"]


def test_json_lines_may_mix_whole_numbers_and_fractions(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"y": 1, "p": 1}\n\n{"p": 0.25, "y": 0}\n{"y": 0.5, "p": 0.5, "more": [1]}')
    assert kosa.score(path, "y", probs="p") == kosa.score([1.0, 0.0, 0.5], probs=[1.0, 0.25, 0.5])
    path.write_text('{"y": 0, "l": [0, -Infinity]}\n')
    assert kosa.score(path, "y", log_probs="l").cross_entropy == 0.0


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_text_is_cut_at_line_ends(size: int) -> None:
    text = b"a\nbcdefgh\n\nij\nk"
    for given in (text, text + b"\n"):
        found = list(lines(pa.BufferReader(given), size))
        assert b"".join(found) == given
        assert all(piece.endswith(b"\n") for piece in found[:-1])
    assert list(lines(pa.BufferReader(b""), size)) == []


def test_rows_longer_than_a_block(tmp_path: Path) -> None:
    # 40,000 numbers of 60 characters: 2.4 MB in a row, more than two blocks of text.
    values = [f"-1.{number:058d}" for number in range(40_000)]
    names = ",".join(f"z{number}" for number in range(40_000))
    (tmp_path / "a.csv").write_text(f"y,{names}\n" + f"3,{','.join(values)}\n" * 2)
    (tmp_path / "a.jsonl").write_text(f'{{"y": 3, "z": [{",".join(values)}]}}\n' * 2)
    for name, spec in (("a.csv", "z*"), ("a.jsonl", "z")):
        score = kosa.score(tmp_path / name, "y", logits=spec)
        assert score.cross_entropy == pytest.approx(np.log(40_000), rel=1e-12)


@pytest.mark.parametrize("name", [*WRITERS, "a.npz", "z.npy"])
def test_progress_goes_from_nothing_to_the_whole(name: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    if name in WRITERS:
        table, write = WRITERS[name]
        write(table, one / name)
    else:
        np.save(one / "z.npy", LOGITS)
        np.save(one / "y.npy", LABELS)
        npz(one / "a.npz", z=LOGITS)
    shutil.copytree(one, two)
    seen: list[tuple[int, float]] = []
    paths, spec = [one / name, two / name], "z*" if name.startswith("wide") else "z"
    kosa.score(paths, "y", logits=spec, batch_size=50, progress=lambda *now: seen.append(now))
    assert seen == sorted(seen)
    told = dict(seen)
    # A stream has an end mark behind its last batch.
    assert [told[ROWS], told[2 * ROWS]] == pytest.approx([0.5, 1.0], abs=1e-3)
    if not re.search("csv|tsv|json", name):  # a text of this size is one block, and so is a file's fixed.ipc
        assert seen[0][1] <= (0.5 if name.endswith(("ipc", "arrow")) else 0.1)


# What is refused


def refused(
    match: str, path: Path, target: str = "y", kind: type[Exception] = InputError, **options: object
) -> None:
    with pytest.raises(kind, match=match):
        kosa.score(path, target, **(options or {"logits": "z*"}))


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"wide.csv", "wide.tsv"}))
@pytest.mark.parametrize("kept", [0.1, 0.9])
def test_truncated_files(name: str, kept: float, tmp_path: Path) -> None:
    table, write = WRITERS[name]
    path = tmp_path / name
    write(table, path)
    data = path.read_bytes()
    cut = int(len(data) * kept)
    if "json" in name and not name.endswith("gz"):
        cut = data.rindex(b":", 0, cut)  # a cut between two lines leaves a whole file
    path.write_bytes(data[:cut])
    refused(re.escape(repr(str(path))), path, logits="z*" if table is WIDE else "z")


def test_truncated_csv_is_known_by_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("y,z0,z1\n0,1,2\n1,3")
    refused("a.csv' cannot be read as CSV: .*Expected 3 columns, got 2", tmp_path / "a.csv")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncated_npz(save: Callable[..., None], tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", save, z=LOGITS)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refused("a.npz' cannot be read as NPZ: File is not a zip file", path, logits="z")


def test_corrupt_npz_and_npy(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", z=LOGITS)
    data = bytearray(path.read_bytes())
    data[data.index(LOGITS[100].tobytes())] ^= 0xFF
    path.write_bytes(data)
    refused("a.npz' cannot be read as NPZ: Bad CRC-32", path, logits="z")
    np.save(tmp_path / "z.npy", LOGITS)
    np.save(tmp_path / "y.npy", LABELS)
    whole = (tmp_path / "z.npy").read_bytes()
    (tmp_path / "z.npy").write_bytes(whole[:5000])
    refused("z.npy' cannot be read as NPY", tmp_path / "z.npy", logits="z")


def test_corrupt_page_of_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(WIDE.select(["y", "z0", "z1"]), path, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    column = pa.parquet.ParquetFile(path).metadata.row_group(0).column(1)
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    refused(r"a.parquet': row group 0 \(from 0; rows 0 to 499\) cannot be read as Parquet", path)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.csv", b"", "a.csv' is empty (0 bytes)"),
        ("a.parquet", b"", "a.parquet' is empty (0 bytes)"),
        ("a.csv", b"y,z0,z1\n", "no rows: there is nothing to score"),
        ("a.jsonl", b"\n\n", "a.jsonl' has no columns"),
        ("a.csv", b"y,z0,z1\n0,1,2\n\n1,abc,3\n", "row 1 (from 0) of "),
        ("a.csv", b"y,z0,z1\n0,1,2\n1,2,\n", "a.csv': column 'z1' is null; every row needs a value"),
        ("a.csv", b"y,z0,z1\n0,1,2\n,2,3\n", "a.csv': column 'y' is null; every row needs a value"),
        ("a.csv", b"y,z0,z1\n0,1,2\n1,2,nan\n", "a.csv': `logits` hold NaN for class 1"),
        ("a.csv", b"y,z0,z1\n0,1,2\n7,2,3\n", "a.csv': label 7 is out of range"),
        ("a.csv", b"y,z_a,z_b\na,1,2\nc,2,3\n", "a.csv': unknown label 'c'; the classes are 'a', 'b'"),
        ("a.csv", b"y,z0,z0\n0,1,2\n", "a.csv': column 'z0' for `logits` stands there more than once"),
        ("a.csv", b"y,z0,z1\n0,1,\xff\n", "a.csv"),
        ("a.jsonl", b'{"y": 0, "z": [1, 2]}\n{"y": 1, "z": [1, 2, 3]}\n', "row 1 (from 0) of "),
        (
            "a.jsonl",
            b'{"y": 0, "z": [1, 2]}\n{"y": 1, "z": [1, null]}\n',
            "row 1 (from 0) of ",
        ),
        ("a.jsonl", b'{"y": 0, "z": [1, 2]}\n{"y": 1, "z": null}\n', "row 1 (from 0) of "),
        ("a.jsonl", b'{"y": 0, "z": [1, 2]}\n{"y": 1}\n', "column 'z' is null; every row needs a value"),
        ("a.jsonl", b'{"y": 0, "z": []}\n', "the list in column 'z' is empty"),
        ("a.jsonl", b'{"y": 0, "z": [1, "a"]}\n', "a.jsonl' cannot be read as JSON Lines: JSON parse error"),
        ("a.jsonl", b'{"y": 0, "z": [1, 2]}\nhello\n', "row 1 (from 0) of "),
        ("a.json", b'[{"y": 0, "z": [1, 2]}]', "a.json' is a JSON array; expected JSON Lines"),
        ("a.parquet", b"hello, world", "does not begin as its ending .parquet promises"),
        ("a.npz", b"hello, world", "does not begin as its ending .npz promises"),
        ("a.dat", b"hello, world", "neither its first bytes nor its name say what it is"),
        ("a", b"hello, world", "neither its first bytes nor its name say what it is"),
        ("a.feather", b"FEA1aaaa", "is Feather version 1, which is no longer read"),
        ("a.arrow", b"ARROW1\0\0abc", "a.arrow' cannot be read as an Arrow IPC file"),
        ("a.arrows", b"\xff\xff\xff\xffabcdefgh", "a.arrows' cannot be read as an Arrow IPC stream"),
        ("a.npy", b"\x93NUMPY\x01\x00", "a.npy' cannot be read as NPY"),
        ("a.npz", b"PK\x03\x04abcdefgh", "a.npz' cannot be read as NPZ: File is not a zip file"),
        ("a.csv.gz", b"hello, world", "a.csv.gz' cannot be read as CSV"),
    ],
)
def test_files_that_cannot_be_scored(name: str, content: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for options in ({}, {"batch_size": 1}):
        refused(re.escape(text), path, kind=ValueError, logits="z*", **options)


def test_a_value_that_is_no_number_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("y,z0,z1\n" + "0,1,2\n" * 300_000 + "1,2,oops\n" + "0,1,2\n")  # past the first block
    refused(r"row 300000 \(from 0\) of .*a.csv': column 'z1' holds 'oops', expected a number", path)


def test_items_that_are_null_are_named_with_their_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"y": 0, "z": [1, 2]}\n{"y": 1, "z": [1, null]}\n')
    refused(r"row 1 \(from 0\) of .*: item 1 of the list in column 'z' is null", path, logits="z")


@pytest.mark.parametrize(
    ("line", "text"), [('{"y": 0, "z": [1', "cannot be read as JSON"), ('{"y": 0}', "column 'z' is null")]
)
def test_rows_of_json_lines_are_counted_past_the_first_block(line: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"y": 0, "z": [1, 2]}\n' * 100_000 + line + "\n")  # 2.2 MB, blocks are of 1 MiB
    refused(rf"^row 100000 \(from 0\) of .*{text}", path, logits="z")


def test_rows_are_counted_within_their_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("y,z0,z1\n" + "0,1,2\n" * 10)
    (tmp_path / "b.csv").write_text("y,z0,z1\n" + "0,1,2\n" * 4 + "5,1,2\n")
    for size in (None, 3):
        with pytest.raises(IndexError, match=r"^row 4 \(from 0\) of .*b\.csv': label 5 is out of range"):
            kosa.score([tmp_path / "a.csv", tmp_path / "b.csv"], "y", logits="z*", batch_size=size)


def test_nulls_of_typed_files_are_named_with_their_row(tmp_path: Path) -> None:
    for name, spoilt in {
        "y": pa.array([0, None, 1]),
        "z0": pa.array([1.0, None, 1.0]),
        "w": pa.array([1.0, None, 1.0]),
        "s": pa.array(["0", None, "1"]),
    }.items():
        good = {
            "y": [0, 1, 1],
            "z0": [1.0, 2.0, 3.0],
            "z1": [1.0, 2.0, 4.0],
            "w": [1.0, 1.0, 1.0],
            "s": ["0"] * 3,
        }
        pa.parquet.write_table(pa.table({**good, name: spoilt}), tmp_path / "a.parquet")
        text = rf"row 1 \(from 0\) of .*a\.parquet': column '{name}' is null; every row needs a value"
        refused(text, tmp_path / "a.parquet", target="s" if name == "s" else "y", logits="z*", weight="w")
    fixed = pa.array([[1.0, 2.0], None, [1.0, 2.0]], pa.list_(pa.float32(), 2))
    pa.parquet.write_table(pa.table({"y": [0, 1, 1], "z": fixed}), tmp_path / "a.parquet")
    refused(r"row 1 \(from 0\) of .*: column 'z' is null", tmp_path / "a.parquet", logits="z")


def test_columns_of_a_type_that_does_not_fit(tmp_path: Path) -> None:
    pa.parquet.write_table(WIDE, tmp_path / "a.parquet")
    pa.parquet.write_table(LISTS, tmp_path / "b.parquet")
    for options, text in (
        ({"logits": "note"}, "column 'note' holds string, expected numbers"),
        ({"logits": "z*", "weight": "name"}, "column 'name' holds string, expected numbers"),
    ):
        refused(text, tmp_path / "a.parquet", kind=TypeError, **options)
    refused("the labels are float64, expected integers", tmp_path / "a.parquet", "w", TypeError, logits="z*")
    refused("column 'z' holds lists, expected one number a row", tmp_path / "b.parquet", logits="z,w")
    table = LISTS.append_column("v", LISTS["z"])
    pa.parquet.write_table(table, tmp_path / "c.parquet")
    refused("'v' holds lists, expected one number", tmp_path / "c.parquet", logits="z", weight="v")
    refused("'z' holds lists, expected one number", tmp_path / "c.parquet", logits="z,v")


def test_arrays_of_numpy_files_that_do_not_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", y=LABELS[:9], z=LOGITS)
    refused("the arrays have different numbers of rows: 'z' 500, 'y' 9", tmp_path / "a.npz", logits="z")
    np.savez(tmp_path / "b.npz", y=LABELS, z=LOGITS.reshape(ROWS, CLASSES, 1))
    refused("column 'z' has 3 axes, expected 1 or 2", tmp_path / "b.npz", logits="z")
    np.savez(tmp_path / "c.npz", y=np.array([0, None], dtype=object), z=LOGITS[:2])
    refused("array 'y' holds Python objects", tmp_path / "c.npz", kind=TypeError, logits="z")
    np.savez(tmp_path / "d.npz", y=np.int64(3), z=LOGITS)
    refused("array 'y' is a single value; expected one a row", tmp_path / "d.npz", logits="z")
    np.save(tmp_path / "z.npy", LOGITS)
    refused("has no column 'y' for `target`", tmp_path / "z.npy", logits="z")
    np.save(tmp_path / "y.npy", np.int64(3))
    refused("array 'y' is a single value; expected one a row", tmp_path / "z.npy", logits="z")
    np.save(tmp_path / "y.npy", LABELS[:9])
    refused("the arrays have different numbers of rows", tmp_path / "z.npy", logits="z")


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    refused("is not a regular file; write the predictions to a file first", tmp_path / "pipe.csv")
    refused("is a directory without files of predictions", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.parquet"):
        kosa.score(tmp_path / "nowhere.parquet", "y", logits="z*")


# Memory


@pytest.mark.parametrize(
    "name", ["wide.csv", "lists.ndjson", "a.npz", "z.npy", "wide.feather", "wide.parquet"]
)
def test_no_file_is_held_whole(name: str, tmp_path: Path) -> None:
    """What NumPy and Python hold at once is a few batches, however long the file."""
    rows = 60_000
    random = np.random.default_rng(2)
    logits, labels = (
        random.standard_normal((rows, 40)).astype(np.float32).round(3),
        random.integers(0, 40, rows),
    )
    table = pa.table({"y": labels, **{f"z{number}": logits[:, number] for number in range(40)}})
    path = tmp_path / name
    if name == "wide.feather":
        pa.feather.write_feather(table, str(path))
    elif name.startswith("wide"):
        WRITERS[name][1](table, path)
    elif name == "a.npz":
        np.savez(path, y=labels, z=logits)
    elif name == "z.npy":
        np.save(path, logits)
        np.save(tmp_path / "y.npy", labels)
    else:
        with path.open("w") as file:
            file.writelines(f'{{"y": {y}, "z": {z}}}\n' for y, z in zip(labels, logits.tolist(), strict=True))
    spec = "z*" if name.startswith("wide") else "z"
    kosa.score(path, "y", logits=spec, batch_size=1000)
    pool = pa.default_memory_pool()
    before, most = pa.total_allocated_bytes(), 0

    def watch(rows: int, fraction: float) -> None:
        nonlocal most
        most = max(most, pool.bytes_allocated() - before)

    tracemalloc.start()
    kosa.score(path, "y", logits=spec, batch_size=1000, progress=watch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A batch has 1000·40 numbers, 0.3 MB in float64; a block of text is 1 MiB. The array has 9.6 MB, its text 16 MB.
    assert peak < (6e6 if name == "lists.ndjson" else 4e6)
    assert most < 100e6


def test_gzip_by_another_hand(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write("y,z0,z1\r\n0,1,2\r\n1,2,3\r\n")
    found = kosa.score(tmp_path / "a.csv.gz", "y", logits="z*")
    assert found.cross_entropy == kosa.score([0, 1], logits=[[1.0, 2.0], [2.0, 3.0]]).cross_entropy


def test_npz_members_that_are_no_arrays_are_left_alone(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", z=LOGITS)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("readme.txt", "hello")
    check(kosa.score(path, "y", logits="z", weight="w", id="name"))
