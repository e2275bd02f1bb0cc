"""States of comparisons: the same bits whatever the batches, order and merges; in files; what is damaged is one error."""

import base64
import itertools
import json
import math
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_states import CLASSES, EVERYTHING, dump, rows, state
from test_state_file import JSON, places, refused, with_body

from kosa.scoring import InputError, PairState, Rows, Setup, State
from kosa.scoring.pairstate import load_any, parse_any

ROWS = 60
THEIRS = replace(EVERYTHING, classes=CLASSES[::-1], worst=2)
CUTS = st.lists(st.integers(1, ROWS - 1), max_size=6).map(lambda cuts: [0, *sorted(set(cuts)), ROWS])


def both(start: int, count: int, soft: bool = False) -> tuple[Rows, Rows]:
    """The same rows under A and B: losses from 1e-300 to infinity, some equal; A's weights and groups."""
    ours, theirs = rows(start, count, soft=soft), rows(start, count, seed=2, soft=soft)
    tie = (np.arange(start, start + count) % 6) == 0
    label = len(CLASSES) - 1 - ours.label
    return ours, replace(
        theirs,
        label=label,
        loss=np.where(tie, ours.loss, theirs.loss),
        weight=ours.weight,
        group=ours.group,
        units=ours.units,
    )


def pair(start: int, count: int, soft: bool = False) -> PairState:
    found = PairState(EVERYTHING, THEIRS, "b.parquet")
    if count:
        found.update(*both(start, count, soft))
    return found


def part(made: Rows, start: int, stop: int) -> Rows:
    return replace(made.chosen(np.arange(start, stop)), first=start, ids=made.ids[start:stop])


@pytest.fixture(scope="module", params=[False, True], ids=["labels", "soft"])
def whole(request: pytest.FixtureRequest) -> tuple[tuple[Rows, Rows], bytes]:
    return both(0, ROWS, request.param), dump(pair(0, ROWS, request.param))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(cuts=CUTS, data=st.data())
def test_any_batches_order_and_merges_give_the_same_bytes(
    cuts: list[int], data: st.DataObject, whole: tuple[tuple[Rows, Rows], bytes]
) -> None:
    (ours, theirs), expected = whole
    states = [pair(0, 0) for _ in range(3)]
    for ends in data.draw(st.permutations(list(itertools.pairwise(cuts)))):
        states[data.draw(st.integers(0, 2))].update(part(ours, *ends), part(theirs, *ends))
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
    ours=st.lists(st.floats(0.0, 1e150), min_size=2, max_size=30),
    theirs=st.lists(st.floats(0.0, 1e150), min_size=30, max_size=30),
    weights=st.lists(st.floats(1e-30, 1e30), min_size=30, max_size=30),
)
def test_sums_are_exact_whatever_the_magnitudes(
    ours: list[float], theirs: list[float], weights: list[float]
) -> None:
    count = len(ours)
    setup = Setup(("a", "b"), "probs", weighted=True)
    found = PairState(setup, setup)
    for at in reversed(range(count)):
        mine, other = (
            Rows(
                at,
                np.array([losses[at]]),
                np.array([losses[at]]),
                np.array([at % 2]),
                np.array([0]),
                np.array([0.5]),
                weight=np.array([weights[at]]),
            )
            for losses in (ours, theirs)
        )
        found.update(mine, other)
    against = found.result().against
    differences = [w * (a - b) for w, a, b in zip(weights, ours, theirs, strict=False)]
    expected = math.fsum(differences) / math.fsum(weights[:count])
    assert abs(against.difference - expected) <= 2 * math.ulp(expected)
    contributions = math.fsum(entry.contribution for entry in against.classes)
    assert contributions == pytest.approx(expected, rel=1e-12, abs=1e-12 * max(map(abs, differences)))


def test_loaded_is_what_was_saved_and_goes_on(tmp_path: Path) -> None:
    made, path = pair(0, 60), tmp_path / "a.state"
    made.notes = {"猫": None}
    made.save(path)
    back = PairState.load(path)
    assert (back.rows, back.ranges, back.notes, back.name) == (60, ((0, 60),), made.notes, "b.parquet")
    assert dump(back) == dump(made) == path.read_bytes()
    assert load_any(path).result() == made.result()
    for one in (back, made):
        one.update(*both(60, 9))
        one.merge(pair(69, 9))
    assert dump(back) == dump(made)


def test_either_kind_says_what_it_is(tmp_path: Path) -> None:
    pair(0, 5).save(tmp_path / "two.state")
    state(0, 5).save(tmp_path / "one.state")
    with pytest.raises(InputError, match=r"two.state' holds a comparison of two; expected one set of pred"):
        State.load(tmp_path / "two.state")
    with pytest.raises(InputError, match=r"one.state' holds one set of predictions; expected a comparison"):
        PairState.load(tmp_path / "one.state")


def test_a_name_that_differs_is_b(tmp_path: Path) -> None:
    first, second = pair(0, 5), pair(5, 5)
    second.name = "c.parquet"
    first.merge(second)
    assert first.result().against.name == "B"


def test_shifted_rows_are_the_same_rows_later() -> None:
    made = pair(3, 20)
    later = made.shifted(100)
    assert later.ranges == ((103, 123),)
    assert later.theirs.worst.rows[0].row == made.theirs.worst.rows[0].row + 100
    assert [entry.name for entry in later.result().against.groups] == [
        entry.name for entry in made.result().against.groups
    ]
    assert dump(made) == dump(pair(3, 20))


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    found = pair(0, 5)
    before, (ours, theirs) = dump(found), both(5, 3)
    for mine, other, reason in (
        (ours, part(theirs, 0, 2), "rows 5 to 7 of A against rows 0 to 1 of B; expected the same rows"),
        (ours, replace(theirs, label=np.array([0, 4, 1])), "`label` holds what is none of 0 to 3"),
        (replace(ours, rank=None), theirs, "`top_k`: these rows have no rank"),
        (replace(ours, first=4), replace(theirs, first=4), r"row 4 \(from 0\) is there twice"),
    ):
        with pytest.raises(InputError, match=reason):
            found.update(mine, other)
    with pytest.raises(InputError, match=r"row 3 \(from 0\) is there twice"):
        found.merge(pair(3, 4))
    other = PairState(EVERYTHING, replace(THEIRS, worst=3))
    with pytest.raises(
        InputError, match="states of different data do not merge: `worst` is 2 here and 3 there"
    ):
        found.merge(other)
    assert dump(found) == before


@pytest.fixture(scope="module")
def content() -> bytes:
    return dump(pair(0, 60))


def test_truncated_and_changed_files_are_errors(content: bytes) -> None:
    for size in [*range(100), *range(100, len(content) - 1, 997), len(content) - 1]:
        assert "state file" in refused(content[:size])
    for at in [*range(0, 160, 7), *range(160, len(content), 997)]:
        changed = bytearray(content)
        changed[at] ^= 1
        refused(bytes(changed))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_whatever_stands_in_a_file_it_is_a_state_or_one_error(data: st.DataObject, content: bytes) -> None:
    stored = json.loads(content.split(b"\n")[1])
    way = data.draw(
        st.sampled_from([way for way in places(stored) if way and (len(way) < 3 or way[0] == "pair")])
    )
    inner: Any = stored
    for key in way[:-1]:
        inner = inner[key]
    if data.draw(st.booleans()):
        numbers = np.arange(data.draw(st.integers(0, 5)), dtype=np.int64) - 1
        packed = base64.b64encode(zlib.compress(numbers.tobytes())).decode()
        inner[way[-1]] = {"dtype": "int64", "shape": [len(numbers)], "data": packed}
    elif data.draw(st.booleans()):
        inner[way[-1]] = data.draw(JSON)
    else:
        del inner[way[-1]]
    made = with_body(stored)
    try:
        found = parse_any(made, "some.state")
    except InputError:
        assert refused(made) == "'some.state' is a damaged state file: its content does not fit together"
    else:
        assert parse_any(dump(found), "again").rows == found.rows
        with suppress(InputError):
            assert found.result().rows == found.rows
