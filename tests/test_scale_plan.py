"""What a run takes is said beforehand and kept; the parts that it is cut into are all its rows, each once."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kosa
from kosa.scoring import InputError, memory, parts

RANDOM = np.random.default_rng(0)
LOGITS, LABELS = RANDOM.standard_normal((3000, 5)).astype(np.float32), RANDOM.integers(0, 5, 3000)


def table() -> pa.Table:
    return pa.table({"y": LABELS} | {f"z{k}": LOGITS[:, k] for k in range(5)})


def score(source: Any, **options: Any) -> kosa.scoring.Score:
    return kosa.score(source, "y", logits="z*", **options)


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 5e8), ("1.5 GiB", 1.5 * 2**30), ("2g", 2e9), (1000, 1000), ("7", 7), ("1_000k", 1e6)],
)
def test_numbers_of_bytes(text: str | int, size: float) -> None:
    assert memory.in_bytes(text) == size


def test_too_little_memory_is_said_with_what_it_takes(tmp_path: Path) -> None:
    columns = {f"z{k}": RANDOM.standard_normal(70_000).astype(np.float32) for k in range(40)}
    pq.write_table(pa.table({"y": np.zeros(70_000, int)} | columns), tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"`memory` of 250 MB a process is too little: .* it takes \d+ MB or more"
    ) as told:
        score(tmp_path / "a.parquet", memory="250MB")
    enough = int(str(told.value).split(" it takes ")[1].split(" MB")[0]) + 1
    assert 260 < enough < 400
    assert score(tmp_path / "a.parquet", memory=f"{enough}MB") == score(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="is too little"):
        score(tmp_path / "a.parquet", memory=f"{enough}MB", batch_size=70_000)


def test_less_memory_takes_smaller_batches(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    caplog.set_level("INFO", "kosa")
    steps: dict[str, list[int]] = {"235MB": [], "300MB": []}
    for size, seen in steps.items():
        score(
            tmp_path / "a.parquet", memory=size, progress=lambda rows, fraction, seen=seen: seen.append(rows)
        )
    assert len(steps["235MB"]) >= len(steps["300MB"]) == 1
    assert "at most about" in caplog.text


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is told by Linux alone")
def test_resident_memory_stays_below_what_was_said(tmp_path: Path) -> None:
    """60 MB of lists, read in a process of its own."""
    values = RANDOM.standard_normal((30_000, 500)).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 500).cast(pa.list_(pa.float32()))
    pq.write_table(pa.table({"y": np.zeros(30_000, int), "z": lists}), tmp_path / "a.parquet")
    program = f"""
import kosa
kosa.score({str(tmp_path / "a.parquet")!r}, "y", logits="z", memory="350MB")
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert 100e6 < int(out) * 1024 < 350e6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is told by Linux alone")
def test_columns_with_dictionaries_stay_below_what_was_said(tmp_path: Path) -> None:
    """80 columns, whose dictionaries are as large as a writer makes them, each read by its own reader."""
    values = RANDOM.standard_normal((280_000, 10), dtype=np.float32)
    columns = {f"z{k}": np.roll(values[:, k % 10], k) for k in range(80)}
    table = pa.table({"y": np.zeros(len(values), int), **columns})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    program = f"""
import logging, sys, kosa
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
kosa.score({str(tmp_path / "a.parquet")!r}, "y", logits="z*", batch_size=2000)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    said = int(out.split("at most about ")[1].split(" MB")[0]) * 10**6
    assert 0.7 * said < int(out.split()[-1]) * 1024 < said


class Pieces:
    """A file that says how many rows its row groups have."""

    size, name = 1 << 30, "a"

    def __init__(self, *pieces: int) -> None:
        self.pieces = list(pieces)


class Unknown:
    """A file that must be read to know how many rows it has."""

    size, name = 1 << 30, "b"


@pytest.mark.parametrize(
    ("file", "read", "reach"),
    [(0, 0, 0), (0, 3, 3), (0, 3, 15), (0, 5, 5), (0, 22, 22), (1, 0, 0), (2, 0, 0), (3, 11, 11), (4, 0, 2)],
)
def test_parts_cover_each_row_once(file: int, read: int, reach: int) -> None:
    readers: Any = [Pieces(5, 0, 7, 9, 1), Pieces(), Pieces(0), Unknown(), Pieces(3)]
    found = list(parts.cut(readers, file, read, reach))
    for number, rows in ((0, 22), (1, 0), (2, 0), (4, 3)):
        start = read if number == file else 0
        seen = [row for part in found if part.file == number for row in range(part.start, part.stop)]
        assert seen == (list(range(start, rows)) if number >= file else [])
    assert [part.file for part in found if part.last] == list(range(file, 5))
    assert found[0].start == read
    assert found[0].stop is None or found[0].stop >= min(reach, 22)
    assert all(
        part.start == (read if file == 3 else 0) and part.stop is None for part in found if part.file == 3
    )


@pytest.mark.parametrize(("begin", "reach"), [(0, 0), (4, 9), (12, 12), (24, 34), (30, 30), (33, 34)])
def test_parts_of_two_data_sets_are_the_same_rows(begin: int, reach: int) -> None:
    ours: Any = [Pieces(5, 7), Unknown(), Pieces(9, 1)]
    theirs: Any = [Pieces(3, 0), Unknown(), Pieces(), Pieces(12, 3)]
    counts = [12, 12, 10], [3, 16, 0, 15]

    def rows(stretch: list[parts.Part], of: list[int]) -> list[int]:
        return [row + sum(of[: part.file]) for part in stretch for row in range(part.start, part.stop)]

    found = list(parts.cut_both(ours, counts[0], theirs, counts[1], begin, reach))
    seen: list[int] = []
    for number, (mine, other) in enumerate(found):
        assert rows(mine, counts[0]) == rows(other, counts[1])
        seen += rows(mine, counts[0])
        assert number or seen[-1] >= min(reach, 34) - 1
        # The file that must be read from its start is read once.
        assert {part.stop for part in other if part.file == 1} <= {16}
        assert all(
            (part.stop == of) == part.last
            for part, of in zip(mine, [counts[0][p.file] for p in mine], strict=True)
        )
    assert seen == list(range(begin, 34))
    assert len(found) == {0: 3, 4: 3, 12: 3, 24: 1, 30: 2, 33: 1}[begin]
