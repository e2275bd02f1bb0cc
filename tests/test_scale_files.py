"""Many files as one data set: which they are, in what order, what is said of the bad one, and damage of every kind."""

import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kosa
from kosa.scoring import InputError
from kosa.scoring.arrowfiles import ParquetFile
from kosa.scoring.columns import Selection

ROWS, CLASSES = 240, 4
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.standard_normal((ROWS, CLASSES)).astype(np.float32)
LABELS = RANDOM.integers(0, CLASSES, ROWS)
WHOLE = kosa.score(LABELS, logits=LOGITS)


def table(rows: slice = slice(None), **replaced: Any) -> pa.Table:
    columns = {"y": LABELS[rows]} | {f"z{k}": LOGITS[rows, k] for k in range(CLASSES)} | replaced
    return pa.table({name: column for name, column in columns.items() if column is not None})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files whose names sort in the order of their rows, and what else lies in such folders."""
    for number, start in enumerate(range(0, ROWS, 80)):
        pq.write_table(
            table(slice(start, start + 80)), tmp_path / f"part-{number}.parquet", row_group_size=30
        )
    (tmp_path / "_SUCCESS").write_bytes(b"")
    (tmp_path / ".part-0.parquet.crc").write_bytes(b"crc")
    (tmp_path / "notes.txt").write_text("no predictions")
    return tmp_path


def score(source: Any, **options: Any) -> kosa.scoring.Score:
    return kosa.score(source, "y", logits="z*", **options)


# Which files


def test_directories_and_globs_are_their_files_in_sorted_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert score(folder) == WHOLE
    assert score(folder / "part-*.parquet") == WHOLE
    assert score([folder / "part-0.parquet", str(folder / "part-[12].parquet")]) == WHOLE
    monkeypatch.chdir(folder.parent)
    assert score(f"{folder.name}/**/*.parquet") == WHOLE


def test_a_file_whose_name_looks_like_a_glob_is_itself(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "a[1].parquet")
    pq.write_table(table(slice(0, 9)), tmp_path / "a1.parquet")
    assert score(tmp_path / "a[1].parquet") == WHOLE


def test_globs_and_directories_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\*\.parquet' matches no file"):
        score(tmp_path / "no*.parquet")
    with pytest.raises(InputError, match="is a directory without files of predictions"):
        score(tmp_path)


def test_datasets_and_lists_of_tensors(folder: Path) -> None:
    dataset = pyarrow.dataset.dataset([str(path) for path in sorted(folder.glob("*.parquet"))])
    assert score(dataset) == WHOLE
    assert kosa.score(torch.tensor(LABELS), logits=torch.tensor(LOGITS, requires_grad=True)) == WHOLE
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.tensor(LABELS), torch.tensor(LOGITS)), batch_size=37
    )
    assert kosa.score(loader, logits=True) == WHOLE
    half = torch.tensor(LOGITS, dtype=torch.bfloat16)
    assert kosa.score(LABELS, logits=half) == kosa.score(LABELS, logits=half.float().numpy())


# The bad one is named


@pytest.mark.parametrize(
    ("replaced", "text"),
    [
        ({"z2": None}, r"part-2.parquet' and '.*part-0.parquet' differ in these columns: 'z2'"),
        ({"y": None}, r"part-2.parquet' has no column 'y' for `target`"),
        ({"z1": ["text"] * 80}, r"part-2.parquet': column 'z1' holds string, expected numbers"),
        (
            {"z1": np.where(np.arange(80) == 41, np.nan, 0)},
            r"row 41 \(from 0\) of '.*part-2.parquet': `logits` hold NaN",
        ),
        ({"y": np.full(80, 9)}, r"row 0 \(from 0\) of '.*part-2.parquet': label 9 is out of range"),
    ],
    ids=["a column missing", "the target missing", "another type", "NaN", "a label that is no class"],
)
def test_what_is_wrong_with_the_third_file_names_it(
    folder: Path, replaced: dict[str, Any], text: str
) -> None:
    pq.write_table(table(slice(160, None), **replaced), folder / "part-2.parquet", row_group_size=30)
    with pytest.raises(InputError, match=text):
        score(folder)


def test_probabilities_after_logits_are_refused_where_they_begin(folder: Path) -> None:
    probs = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    pq.write_table(table(), folder / "part-2.parquet")
    for path in folder.glob("part-[01].parquet"):
        pq.write_table(table(**{f"z{k}": probs[:, k] for k in range(CLASSES)}), path)
    with pytest.raises(InputError, match=r"row 0 \(from 0\) of '.*part-2.parquet': `probs` hold"):
        kosa.score(folder, "y", probs="z*")


@pytest.mark.parametrize("group", [0, 3, 7])
def test_a_corrupt_page_names_file_and_row_group(tmp_path: Path, group: int) -> None:
    path = tmp_path / "a.parquet"
    # Without checksums zeros in a page of plain floats would be as good as any other numbers.
    pq.write_table(table(), path, row_group_size=30, use_dictionary=False, write_page_checksum=True)
    column = pq.ParquetFile(path).metadata.row_group(group).column(2)
    data = bytearray(path.read_bytes())
    at = column.data_page_offset + column.total_compressed_size - 9
    data[at] ^= 1
    path.write_bytes(data)
    rows = f"rows {30 * group} to {30 * group + 29}"
    with pytest.raises(
        InputError, match=rf"a.parquet': row group {group} \(from 0; {rows}\) cannot be read as Parquet"
    ):
        score(path)


def test_a_parquet_file_cut_short_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"a.parquet' .* its end, .* is missing; the file was cut short"):
        score(path)


@pytest.mark.parametrize("batch_size", [1, 7, 100, None])
def test_figures_do_not_depend_on_batches_or_row_groups(tmp_path: Path, batch_size: int | None) -> None:
    for size in (13, 240):
        pq.write_table(table(), tmp_path / "a.parquet", row_group_size=size)
        assert score(tmp_path / "a.parquet", batch_size=batch_size) == WHOLE


def test_columns_of_other_widths_and_more_than_a_cache_line(tmp_path: Path) -> None:
    """Columns are scored where they lie: also of several types, and more of them than go side by side."""
    for classes, kind in ((3, np.float64), (70, np.float16), (4200, np.float32)):
        logits = RANDOM.standard_normal((11, classes)).astype(kind)
        labels = RANDOM.integers(0, classes, 11)
        columns = {f"z{k:04}": logits[:, k].astype(np.float64 if k == 1 else kind) for k in range(classes)}
        pa.feather.write_feather(
            pa.table({"y": labels} | columns), str(tmp_path / "a.arrow"), compression="uncompressed"
        )
        found, want = score(tmp_path / "a.arrow"), kosa.score(labels, logits=logits.astype(np.float64))
        assert found.cross_entropy == pytest.approx(want.cross_entropy, rel=1e-14)
        assert found.brier == pytest.approx(want.brier, rel=1e-14)


# Fuzz


def written(tmp: Path) -> dict[str, tuple[bytes, str]]:
    """Small files of every format, and the spec of their predictions."""
    lists = pa.table({"y": LABELS[:60], "z": pa.array(LOGITS[:60].tolist(), pa.list_(pa.float32()))})
    wide = table(slice(0, 60))
    texts = lists.set_column(0, "y", pa.array([str(label) for label in LABELS[:60]]))
    pq.write_table(wide, tmp / "a.parquet", row_group_size=25)
    pq.write_table(texts, tmp / "b.parquet", compression="none", use_dictionary=False)
    pa.feather.write_feather(texts, str(tmp / "a.arrow"), compression="uncompressed")
    pa.feather.write_feather(lists, str(tmp / "b.arrow"), compression="lz4")
    with pa.OSFile(str(tmp / "a.arrows"), "wb") as file, pa.ipc.new_stream(file, lists.schema) as writer:
        writer.write_table(lists, max_chunksize=20)
    pa.csv.write_csv(wide, str(tmp / "a.csv"))
    (tmp / "a.jsonl").write_text(
        "".join(f'{{"y": {y}, "z": {z.tolist()}}}\n' for y, z in zip(LABELS[:60], LOGITS, strict=False))
    )
    np.savez(tmp / "a.npz", y=LABELS[:60], z=LOGITS[:60])
    np.savez_compressed(tmp / "b.npz", y=LABELS[:60], z=LOGITS[:60])
    records = np.zeros(60, dtype=[("y", "i8"), ("z", "f4", (CLASSES,))])
    records["y"], records["z"] = LABELS[:60], LOGITS[:60]
    np.save(tmp / "a.npy", records)
    found = {
        path.name: (path.read_bytes(), "z*" if path.name in ("a.parquet", "a.csv") else "z")
        for path in tmp.iterdir()
    }
    assert len(found) == 10
    return found


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    """Bytes changed, taken away or put in, most often where headers and footers are."""
    where = st.one_of(st.floats(0, 1), st.floats(0, 0.1), st.floats(0.9, 1))
    kind = st.sampled_from(["change", "insert", "remove", "cut"])
    return draw(st.lists(st.tuples(kind, where, st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))


def test_damaged_files_are_refused_or_scored_and_nothing_else(tmp_path: Path) -> None:
    files = written(tmp_path)

    @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(name=st.sampled_from(sorted(files)), damage=damages())
    def check(name: str, damage: list[tuple[str, float, bytes]]) -> None:
        data, spec = files[name]
        for kind, where, content in damage:
            at = int(where * len(data))
            after = {
                "change": at + len(content),
                "insert": at,
                "remove": at + len(content),
                "cut": len(data),
            }[kind]
            data = data[:at] + (content if kind in ("change", "insert") else b"") + data[after:]
        path = tmp_path / f"damaged-{name}"
        path.write_bytes(data)
        try:
            said = f"damaged, but {kosa.score(path, 'y', logits=spec).rows} rows"
        except InputError as error:
            said = str(error)
        assert re.search("damaged|no rows", said), "the error names no file"

    with warnings.catch_warnings():
        # A file object that an exception holds on to is closed with it, whenever that is.
        warnings.simplefilter("ignore", ResourceWarning)
        check()


def test_pages_of_columns_with_dots_in_their_names_are_planned_for(tmp_path: Path) -> None:
    held = []
    for mark in ("_", "."):
        lists = pa.array([[1.0, 2.0]] * 100)
        table = pa.table({f"z{mark}0": np.arange(100.0), f"z{mark}list": lists})
        pq.write_table(table, tmp_path / "dots.parquet")
        reader = ParquetFile(str(tmp_path / "dots.parquet"))
        held.append(reader.held(Selection("logits", tuple(table.column_names), (), None, None, None)))
    assert held[0] == held[1]


_SHORTENED = """
import os, sys
from kosa.scoring.columns import Selection
from kosa.scoring.errors import InputError
from kosa.scoring.files import open_file
reader = open_file(sys.argv[1])
chunks = reader.chunks(Selection("logits", ("z",), ("y",), None, None, None), 1000)
next(chunks)
os.truncate(sys.argv[1], os.path.getsize(sys.argv[1]) // 3)
try:
    for columns, _ in chunks:
        sum(map(len, columns.values()))
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("form", "text"), [("parquet", "row group 1 (from 0"), ("arrow", "has become shorter while it was read")]
)
def test_a_file_that_becomes_shorter_is_an_error(form: str, text: str, tmp_path: Path) -> None:
    # In a process of its own: reading on in a map would end it without a word.
    table = pa.table({"z": np.random.default_rng(1).normal(size=100_000), "y": np.arange(100_000)})
    path = tmp_path / f"z.{form}"
    if form == "parquet":
        pq.write_table(table, path, row_group_size=20_000, compression="none", use_dictionary=False)
    else:
        pa.feather.write_feather(table, path, compression="uncompressed", chunksize=20_000)
    done = subprocess.run(
        [sys.executable, "-c", _SHORTENED, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert text in done.stdout
