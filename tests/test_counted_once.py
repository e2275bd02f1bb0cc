"""Each row counts once and keeps its own name, however files are named, cut and merged."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kosa
from kosa.scoring import InputError, State

# 60 rows in each of two files whose ids both begin with 0: two row groups a file, five worst rows.
_COUNT = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(8)
    for name in ("a", "b"):
        z = rng.normal(size=(_COUNT, 3)) * 3
        columns = {f"z{k}": z[:, k] for k in range(3)} | {"y": rng.integers(0, 3, _COUNT)}
        ids = {"id": np.arange(_COUNT), "flag": np.arange(_COUNT) % 2 == 0}
        pq.write_table(pa.table(columns | ids), tmp_path / f"{name}.parquet", row_group_size=_COUNT // 2)
    np.save(tmp_path / "logits.npy", z)
    np.save(tmp_path / "targets.npy", columns["y"])
    return tmp_path


def test_ids_that_count_from_0_in_each_file_stay_as_they_are(folder: Path) -> None:
    paths = [folder / "a.parquet", folder / "b.parquet"]
    one = kosa.score(paths, target="y", logits="z*", id="id")
    states = []
    for path in paths:
        kept = path.with_suffix(".state")
        kosa.score(path, target="y", logits="z*", id="id", state=kept)
        states.append(State.load(kept))
    merged = State(states[0].setup)
    merged.merge(states[0].shifted(0))
    merged.merge(states[1].shifted(_COUNT))
    assert merged.result().worst == one.worst
    assert [row.id for row in one.worst] == [row.row % _COUNT for row in one.worst]
    assert any(row.row >= _COUNT for row in one.worst)


def test_rows_without_ids_are_named_by_their_numbers_after_a_shift(folder: Path) -> None:
    kosa.score(folder / "a.parquet", target="y", logits="z*", state=folder / "a.state")
    rows = State.load(folder / "a.state").shifted(1000).result().worst
    assert [row.id for row in rows] == [row.row for row in rows]
    assert min(row.row for row in rows) >= 1000


def test_ids_that_are_truth_values_survive_a_state_file(folder: Path) -> None:
    path, kept = folder / "a.parquet", folder / "flag.state"
    found = kosa.score(path, target="y", logits="z*", id="flag", state=kept)
    assert {row.id for row in found.worst} <= {"True", "False"}
    assert State.load(kept).result().worst == found.worst


def test_a_file_that_is_named_twice_is_refused(folder: Path) -> None:
    path = folder / "a.parquet"
    with pytest.raises(InputError, match="named twice; its rows would count twice"):
        kosa.score([path, path], target="y", logits="z*")
    with pytest.raises(InputError, match=r"a\.parquet.* are the same file"):
        kosa.score([path, f"{folder}/../{folder.name}/a.parquet"], target="y", logits="z*")
    assert kosa.score([path, folder / "b.parquet"], target="y", logits="z*").rows == 2 * _COUNT


def test_arrays_side_by_side_are_one_data_set(folder: Path) -> None:
    with pytest.raises(InputError, match=r"logits\.npy' and '.*targets\.npy' are columns of one data set"):
        kosa.score(f"{folder}/*.npy", target="targets", logits="logits")
    assert kosa.score(folder / "logits.npy", target="targets", logits="logits").rows == _COUNT
