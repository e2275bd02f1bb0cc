"""States know which rows of which files they are of: what was counted is not counted again, whatever it is called."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_against import command

import kosa
from kosa.scoring import InputError, PairState, State
from kosa.scoring.coverage import Source, fingerprint, joined

RANDOM = np.random.default_rng(4)
LOGITS, LABELS = RANDOM.standard_normal((600, 3)), RANDOM.integers(0, 3, 600)


def write(path: Path, start: int, stop: int) -> Path:
    columns = {f"z{k}": LOGITS[start:stop, k] for k in range(3)}
    pq.write_table(pa.table({"y": LABELS[start:stop], **columns}), path, row_group_size=50)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a, b and c are thirds of a data set; part.state is an interrupted run of a and b, whole.state the finished one."""
    monkeypatch.chdir(tmp_path)
    for name, start in (("a", 0), ("b", 200), ("c", 400)):
        write(tmp_path / f"{name}.parquet", start, start + 200)

    def interrupt(rows: int, fraction: float) -> None:
        if rows >= 250:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="interrupted after 250 rows"):
        score("part.state", "a.parquet", "b.parquet", batch_size=30, progress=interrupt)
    shutil.copy("part.state", "whole.state")
    score("whole.state", "a.parquet", "b.parquet", batch_size=30)
    score("c.state", "c.parquet")
    return tmp_path


def score(state: str, *files: str, **options: Any) -> kosa.scoring.Score:
    return kosa.score(list(files), "y", logits="z*", state=state, **options)


def ranges(state: str) -> list[tuple[str, int, int]]:
    sources = State.load(state).sources
    return sorted((Path(source.name).name, source.start, source.stop) for source in sources)


def test_a_state_says_which_rows_it_is_of(folder: Path) -> None:
    assert ranges("part.state") == [("a.parquet", 0, 200), ("b.parquet", 0, 50)]
    assert ranges("whole.state") == [("a.parquet", 0, 200), ("b.parquet", 0, 200)]
    size, digest = fingerprint("c.parquet")
    (source,) = State.load("c.state").sources
    assert (source.bytes, source.sha256) == (size, digest)
    assert source.columns == "logits z0,z1,z2 for y"
    stored = json.loads((folder / "c.state").read_text().split("\n")[1])
    assert stored["sources"] == [["c.parquet", size, digest, "logits z0,z1,z2 for y", 0, 200]]


@pytest.mark.parametrize(
    ("states", "text"),
    [
        (
            "part.state whole.state",
            "'whole.state' and 'part.state': rows 0 to 199 (from 0) of 'a.parquet' are there twice",
        ),
        (
            "c.state whole.state part.state",
            "'part.state' and 'whole.state': rows 0 to 199 (from 0) of 'a.parquet'",
        ),
        (
            "all.state c.state",
            "'c.state' and 'all.state': rows 0 to 199 (from 0) of 'c.parquet' are there twice",
        ),
    ],
)
def test_the_same_rows_of_a_file_do_not_count_twice(
    folder: Path, states: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = command(monkeypatch, capsys, "merge whole.state c.state -o all.state")
    assert (status, err) == (0, "")
    status, out, err = command(monkeypatch, capsys, f"merge {states}")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert text in err
    assert "both states have counted them; `--allow-overlap` counts them again" in err
    status, out, err = command(monkeypatch, capsys, f"merge {states} --allow-overlap --json -")
    assert (status, err) == (0, "")
    assert json.loads(out)["rows"] == sum(State.load(state).rows for state in states.split())


def test_different_files_of_the_same_name_and_size_are_appended(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "x").mkdir()
    shutil.copy("b.parquet", "x/a.parquet")
    score("a.state", "a.parquet")
    score("x.state", "x/a.parquet")
    status, _, err = command(monkeypatch, capsys, "merge a.state x.state -o ab.state")
    assert (status, err) == (0, "")
    assert State.load("ab.state").result() == State.load("whole.state").result()


def test_a_file_is_known_again_wherever_it_lies_and_whatever_it_is_called(folder: Path) -> None:
    shutil.copy("a.parquet", "copy.parquet")
    score("copy.state", "copy.parquet")
    found = State.load("copy.state").shifted(1000)
    before = found.rows
    with pytest.raises(InputError, match=r"rows 0 to 199 \(from 0\) of 'a.parquet' are there twice"):
        found.merge(State.load("whole.state"))
    assert found.rows == before


def test_other_columns_of_a_file_are_other_rows(folder: Path) -> None:
    both = pq.read_table("a.parquet")
    for k in range(3):
        both = both.append_column(f"q{k}", both[f"z{k}"])
    pq.write_table(both, "both.parquet")
    score("z.state", "both.parquet")
    kosa.score("both.parquet", "y", logits="q*", state="q.state", classes=["0", "1", "2"])
    found = State.load("z.state")
    found.merge(State.load("q.state").shifted(200))
    assert found.rows == 400
    assert len(found.sources) == 2


def test_comparisons_know_the_rows_of_both_sides(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A1 and A2 against the same B: B's rows would count twice; parts that follow each other are one comparison."""
    for name, start in (("d", 0), ("e", 200)):
        write(folder / f"{name}.parquet", start, start + 200)
        table = pq.read_table(f"{name}.parquet")
        pq.write_table(table.set_column(1, "z0", [np.zeros(200)]), f"{name}.parquet")
    score("ad.state", "a.parquet", against="d.parquet")
    score("be.state", "b.parquet", against="e.parquet")
    score("dd.state", "d.parquet", against="d.parquet")
    whole = score("x.state", "a.parquet", "b.parquet", against=["d.parquet", "e.parquet"])
    status, out, err = command(monkeypatch, capsys, "merge ad.state be.state -o all.state")
    assert (status, err) == (0, "")
    assert "Against B" in out
    assert PairState.load("all.state").result() == whole
    for states, text in (
        ("ad.state dd.state", "rows 0 to 199 (from 0) of 'd.parquet' are there twice"),
        ("all.state be.state", "rows 0 to 199 (from 0) of 'b.parquet' are there twice"),
        ("ad.state c.state", "one is of one set of predictions, the other a comparison of two"),
    ):
        status, _, err = command(monkeypatch, capsys, f"merge {states}")
        assert (status, err.count("\n")) == (2, 1)
        assert text in err


def test_rows_that_overlap_in_part_are_named_and_parts_are_joined() -> None:
    def of(start: int, stop: int, sha: str = "x", name: str = "f") -> tuple[Source, ...]:
        return (Source(name, 10, sha, "logits z for y", start, stop),)

    with pytest.raises(InputError, match=r"rows 7 to 9 \(from 0\) of 'f' are there twice"):
        joined(of(0, 10), of(7, 30))
    assert joined(of(0, 10), of(10, 30)) == joined(of(10, 30), of(0, 10)) == of(0, 30)
    assert len(joined(of(0, 10), of(0, 10, "y"))) == 2
    assert len(joined(of(0, 10), of(5, 10), overlapping=True)) == 2


def test_large_files_are_told_apart_by_pieces(tmp_path: Path) -> None:
    content = bytearray(RANDOM.bytes(3 << 20))
    prints = set()
    for change in (None, 0, len(content) - 1, len(content) // 15 * 7 - 10):
        if change is not None:
            content[change] ^= 1
        (tmp_path / "f").write_bytes(content)
        prints.add(fingerprint(str(tmp_path / "f")))
    assert len(prints) == 4
