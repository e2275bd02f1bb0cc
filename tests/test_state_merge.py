"""Batches, order, splits and merges change no bit of a state; rows that come twice are refused; tables stay bounded."""

import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_states import CLASSES, EVERYTHING, dump, rows, state

import kosa
from kosa.cli import main
from kosa.scoring import InputError, Rows, Setup, State, groups, pairs

ROWS = 60
CUTS = st.lists(st.integers(1, ROWS - 1), max_size=6).map(lambda cuts: [0, *sorted(set(cuts)), ROWS])


@pytest.fixture(scope="module", params=[False, True], ids=["labels", "soft"])
def whole(request: pytest.FixtureRequest) -> tuple[Rows, bytes]:
    made = rows(0, ROWS, soft=request.param)
    once = State(EVERYTHING)
    once.update(made)
    return made, dump(once)


def part(made: Rows, start: int, stop: int) -> Rows:
    return replace(made.chosen(np.arange(start, stop)), first=start, ids=made.ids[start:stop])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(cuts=CUTS, data=st.data())
def test_any_batches_order_and_merges_give_the_same_bytes(
    cuts: list[int], data: st.DataObject, whole: tuple[Rows, bytes]
) -> None:
    made, expected = whole
    pieces = data.draw(st.permutations([part(made, *ends) for ends in itertools.pairwise(cuts)]))
    states = [State(EVERYTHING) for _ in range(3)]
    for piece in pieces:
        states[data.draw(st.integers(0, 2))].update(piece)
    first, second, third = data.draw(st.permutations(states))
    if data.draw(st.booleans()):
        second.merge(third)
        first.merge(second)
    else:
        first.merge(second)
        first.merge(third)
    assert dump(first) == expected


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    losses=st.lists(st.floats(0.0, 1e150), min_size=1, max_size=30),
    weights=st.lists(st.floats(1e-30, 1e30), min_size=30, max_size=30),
)
def test_sums_are_exact_whatever_the_magnitudes(losses: list[float], weights: list[float]) -> None:
    count = len(losses)
    made = Rows(
        0,
        np.array(losses),
        np.array(losses),
        np.zeros(count, dtype=np.int64),
        np.zeros(count, dtype=np.int64),
        np.full(count, 0.5),
        weight=np.array(weights[:count]),
        brier=np.array(losses) / 1e150,
        units={"u": np.array(weights[:count])},
    )
    found = State(Setup(("a", "b"), "probs", weighted=True, per=("u",)))
    for at in reversed(range(count)):
        found.update(replace(made.chosen(np.array([at])), first=at))
    score = found.result()
    total = math.fsum(weights[:count])

    def ulps(value: float, expected: float) -> bool:
        """The expected quotient is of two rounded sums, the value is rounded once."""
        return abs(value - expected) <= 2 * math.ulp(expected)

    assert ulps(score.cross_entropy, math.fsum(w * x for w, x in zip(weights, losses, strict=False)) / total)
    assert ulps(
        score.brier, math.fsum(w * (x / 1e150) for w, x in zip(weights, losses, strict=False)) / total
    )
    squares = math.fsum(w * w for w in weights[:count])
    assert ulps(score.per[0].units, squares)


def test_ranges_are_joined_and_rows_are_counted_once() -> None:
    found = State(EVERYTHING)
    for start, count in ((20, 10), (0, 10), (40, 5), (10, 10)):
        found.update(rows(start, count))
    assert found.ranges == ((0, 30), (40, 45))
    assert found.rows == 35
    before = dump(found)
    for start, count, twice in ((0, 1, 0), (29, 2, 29), (35, 6, 40), (30, 20, 40), (44, 3, 44), (5, 3, 5)):
        with pytest.raises(
            InputError, match=rf"row {twice} \(from 0\) is there twice: these rows have been counted"
        ):
            found.update(rows(start, count))
        with pytest.raises(InputError, match=rf"row {twice} \(from 0\) is there twice"):
            found.merge(state(start, count))
    assert dump(found) == before
    with pytest.raises(InputError, match="rows are numbered -1 to 4, expected 0 to"):
        found.update(rows(0, 5).__class__(**{**vars(rows(0, 5)), "first": -1}))


def test_a_refused_merge_changes_nothing_even_if_most_of_it_would_fit() -> None:
    found, other = state(10, 10), State(EVERYTHING)
    for start in (0, 15):
        other.update(rows(start, 5))
    before = dump(found)
    with pytest.raises(InputError, match=r"row 15 \(from 0\) is there twice"):
        found.merge(other)
    assert dump(found) == before


def test_shifted_rows_are_the_same_rows_later() -> None:
    made = state(3, 20)
    later = made.shifted(100)
    assert later.ranges == ((103, 123),)
    assert later.worst.rows[0].row == made.worst.rows[0].row + 100
    assert dump(later.shifted(0)) == dump(later)
    assert dump(later) != dump(made)
    score, moved = made.result(), later.result()
    assert replace(score, worst=()) == replace(moved, worst=())
    assert dump(made) == dump(state(3, 20))


def test_rows_without_what_the_setup_wants_are_refused_and_change_nothing() -> None:
    found = state(0, 5)
    before, made = dump(found), rows(5, 3)
    for changes, reason in (
        ({"rank": None}, "`top_k`: these rows have no rank"),
        ({"tempered": None}, "`temperature`: these rows have no losses at other"),
        ({"group": None}, "`group`: these rows have no 'doc'"),
        ({"group": np.zeros(3)}, "`group` holds float64, expected one string or integer a row"),
        ({"units": {"words": np.ones(3)}}, "`per`: these rows have no 'bytes'"),
        ({"weight": None}, "`weight`: some batches have weights and others have none"),
        ({"label": np.array([0, 4, 1])}, "`label` holds what is none of 0 to 3"),
        ({"label": np.array([0, -1, 1])}, "`label` holds what is none of 0 to 3"),
        ({"label": np.zeros(3)}, "`label` holds what is none of 0 to 3"),
        ({"predicted": np.array([0, -2, 1])}, "`predicted` holds what is none of -1 to 3"),
        ({"rank": np.array([0, -1, 1])}, "`rank` holds what is none of 0 to"),
        ({"group": groups.Coded(("a",), np.array([0, 1, 0]))}, "`group` holds what is none of 0 to 0"),
        ({"brier": np.zeros(2)}, "`brier` has 2 rows, `loss` 3"),
        ({"units": {"bytes": np.zeros(3), "words": np.zeros(4)}}, "`words` has 4 rows, `loss` 3"),
        ({"mass": np.zeros((3, 5))}, r"`mass` has shape \(3, 5\), expected \(3, 4\)"),
        ({"tempered": np.zeros((3, 20))}, r"`tempered` has shape \(3, 20\), expected \(3, 21\)"),
    ):
        with pytest.raises(InputError, match=reason):
            found.update(replace(made, **changes))
    assert dump(found) == before
    found.update(made)
    assert found.rows == 8


def drawn(start: int, count: int) -> np.ndarray:
    """Losses and weights of the rows from `start` on."""
    return 1.0 + np.random.default_rng((1, start)).random((2, count))


def grouped(start: int, names: list[str], weighted: bool) -> State:
    count = len(names)
    loss, weight = drawn(start, count)
    found = State(Setup(("a", "b"), "probs", weighted=weighted, group="doc"))
    found.update(
        Rows(
            start,
            loss,
            loss,
            np.zeros(count, dtype=np.int64),
            np.zeros(count, dtype=np.int64),
            np.full(count, 0.5),
            weight=weight if weighted else None,
            brier=loss,
            group=groups.Coded(tuple(names), np.arange(count)),
        )
    )
    return found


@pytest.mark.parametrize("weighted", [False, True])
def test_too_many_groups_fall_into_buckets(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MOST_GROUPS", 8)
    names = [f"d{n}" for n in range(20)]
    few, more = grouped(0, names[:8], weighted), grouped(8, names[4:12], weighted)
    last = grouped(16, names[10:20], weighted)  # too many by itself; the others are so together
    assert len(few.result().groups) == 8
    both = few.shifted(0)
    both.merge(more)
    assert both.result().group_count == -1
    found = []
    for order in ((few, more, last), (last, few, more), (more, last, few)):
        merged = State(few.setup)
        for one in order:
            merged.merge(one)
        found.append(dump(merged))
        score = merged.result()
        assert score.group_count == -1
        assert score.groups == ()
    assert found[0] == found[1] == found[2]
    # By hand: buckets are clusters.
    bucket = np.array([crc32(name.encode()) % 8 for name in names[:8] + names[4:12] + names[10:]])
    draws = [drawn(start, count) for start, count in ((0, 8), (8, 8), (16, 10))]
    losses, weights = (np.concatenate([draw[at] for draw in draws]) for at in (0, 1))
    if not weighted:
        weights = np.ones(len(losses))
    mean = math.fsum(weights * losses) / math.fsum(weights)
    count = len(set(bucket))
    spread = sum((weights * (losses - mean))[bucket == number].sum() ** 2 for number in set(bucket))
    assert score.clusters == count
    assert score.standard_error == pytest.approx(
        math.sqrt(count / (count - 1) * spread) / math.fsum(weights), rel=1e-12
    )


def test_too_many_confused_pairs_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MOST_PAIRS", 9)
    random = np.random.default_rng(2)
    probs, labels = random.dirichlet(np.ones(4), 200), random.integers(0, 4, 200)
    few = kosa.score(labels[:8], probs=probs[:8])
    many = kosa.score(labels, probs=probs)
    assert 0 < few.confused_pairs <= 9
    assert len(few.confusions) == few.confused_pairs
    assert (many.confused_pairs, many.confusions) == (-1, ())
    for size in (1, 70):
        assert kosa.score(labels, probs=probs, batch_size=size) == many


def test_pairs_of_many_classes_are_found_too() -> None:
    # More classes than the table of places is made for.
    random = np.random.default_rng(3)
    logits, labels = random.standard_normal((300, 2100)), random.integers(0, 2100, 300)
    once = kosa.score(labels, logits=logits, worst=1)
    assert once.confused_pairs == len({*zip(labels.tolist(), logits.argmax(axis=1).tolist(), strict=True)})
    assert once.confusions[0].loss == pytest.approx(once.worst[0].loss, rel=1e-12)
    assert kosa.score(labels, logits=logits, worst=1, batch_size=41) == once


def saved(folder: Path) -> list[str]:
    names = []
    for number, (start, count) in enumerate(((0, 20), (20, 30), (50, 10))):
        state(start, count).save(folder / f"{number}.state")
        names.append(f"{number}.state")
    return names


def kosa_merge(folder: Path, *arguments: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys; {before}; sys.argv[1:] = {['merge', *arguments]!r}; from kosa.cli import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )


def test_merge_needs_neither_engine_nor_reader(tmp_path: Path) -> None:
    names = saved(tmp_path)
    blocked = "[sys.modules.__setitem__(name, None) for name in ('numba', 'pyarrow', 'torch', 'scipy')]"
    done = kosa_merge(tmp_path, *reversed(names), "--json", "-", "-o", "all.state", before=blocked)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == state(0, 60).result().to_dict()
    assert (tmp_path / "all.state").read_bytes() == dump(state(0, 60))
    shown = kosa_merge(tmp_path, *names, before=blocked)
    assert "cross-entropy" in shown.stdout


def test_merge_appends_runs_that_both_begin_with_row_0(tmp_path: Path) -> None:
    state(0, 20, seed=1).save(tmp_path / "a.state")
    state(0, 30, seed=2).save(tmp_path / "b.state")
    done = kosa_merge(tmp_path, "a.state", "b.state", "-o", "c.state", "--json", "c.json")
    assert done.returncode == 0
    whole = State.load(tmp_path / "c.state")
    assert whole.ranges == ((0, 50),)
    expected = state(0, 20, seed=1)
    expected.merge(state(0, 30, seed=2).shifted(20))
    assert dump(whole) == dump(expected)
    assert json.loads((tmp_path / "c.json").read_text())["rows"] == 50


def test_merge_shows_figures_as_asked(tmp_path: Path) -> None:
    names = saved(tmp_path)
    done = kosa_merge(
        tmp_path, *names, "--json", "-", "--per", "sentences=7", "--bins", "mass:3", "--confidence", "0.5"
    )
    expected = state(0, 60).result(totals={"sentences": 7.0}, bins=3, equal_mass=True, confidence=0.5)
    assert json.loads(done.stdout) == expected.to_dict()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["0.state", "0.state"],
            "'0.state' and '0.state' are the same state: its rows would be counted twice",
        ),
        (["0.state", "copy.state"], "'copy.state' and '0.state' are the same state"),
        (
            ["1.state", "overlap.state"],
            "row 40 (from 0) is there twice: these rows have been counted already",
        ),
        (
            ["0.state", "other.state"],
            "states of different data do not merge: `--classes` is ('a', 'b', '猫', ",
        ),
        (["0.state", "cut.state"], "'cut.state' is a damaged state file"),
        (["0.state", "nope.state"], "cannot read or write 'nope.state': No such file or directory"),
        (["0.state", "-o", "nowhere/x"], "cannot write 'nowhere/x': there is no directory 'nowhere'"),
        (["0.state", "--per", "bytes=5"], "`--per`: 'bytes' is counted by a column already"),
        (["0.state", "--per", "lines=x"], "`--per` 'lines=x': 'x' is no number"),
        (["0.state", "--per", "lines=0"], "`--per`: 0.0 lines; expected a positive number"),
        (["0.state", "--per", "=5"], "`--per` '=5'; expected each unit once"),
        (["0.state", "--bins", "11"], "`--bins` is 11, but bins of equal width must divide"),
        (["0.state", "--bins", "x"], "`--bins` is 'x'; expected a whole number, or mass: and one"),
        (["0.state", "--confidence", "1"], "'--confidence'"),
        (["empty.state"], "no rows: there is nothing to score"),
        ([], "Missing argument 'STATE...'"),
    ],
)
def test_bad_input_of_merge_is_one_line_and_status_2(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved(tmp_path)
    content = (tmp_path / "0.state").read_bytes()
    (tmp_path / "copy.state").write_bytes(content)
    (tmp_path / "cut.state").write_bytes(content[:-100])
    state(40, 20).save(tmp_path / "overlap.state")
    State(EVERYTHING).save(tmp_path / "empty.state")
    State(replace(EVERYTHING, classes=CLASSES[:2])).save(tmp_path / "other.state")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kosa", "merge", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("kosa: ")
    assert err.count("\n") == 1
    assert reason in err
