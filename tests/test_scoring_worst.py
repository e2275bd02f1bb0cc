"""The worst rows: which they are depends on no batches, order or merges, and small batches find them in little time."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from kosa.scoring import Rows, Setup, State, worst

N = 400
RANDOM = np.random.default_rng(8)


def rows(loss: Any, first: int = 0, weight: Any = None) -> Rows:
    size = len(loss)
    zeros = np.zeros(size, dtype=np.int64)
    return Rows(first, loss, loss, zeros, zeros, np.full(size, 0.5), weight=weight)


def state(most: int, weighted: bool = False) -> State:
    return State(Setup(("a", "b"), "logits", weighted=weighted, worst=most))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("most", [0, 1, 7, 150, N])
@pytest.mark.parametrize("order", ["forward", "backward", "mixed"])
def test_they_are_the_first_of_the_largest(most: int, order: str, weighted: bool) -> None:
    # Few distinct losses, so that most rows have equals; NaN is as bad as infinity.
    loss = RANDOM.choice(
        [0.0, 0.5, 1.0, 1.5, 2.0, math.inf, math.nan], N, p=[0.5, 0.2, 0.1, 0.1, 0.06, 0.03, 0.01]
    )
    weight = RANDOM.integers(0, 2, N).astype(float) if weighted else np.ones(N)
    rank = np.where(np.isnan(loss), math.inf, loss)
    expected = [row for row in np.lexsort((np.arange(N), -rank)).tolist() if weight[row] > 0][:most]
    parts = list(pairwise([0, *np.sort(RANDOM.choice(np.arange(1, N), 30, replace=False)).tolist(), N]))
    parts = {"forward": parts, "backward": parts[::-1], "mixed": parts[::2] + parts[1::2]}[order]
    found, other = state(most, weighted), state(most, weighted)
    for at, (start, stop) in enumerate(parts):
        part = rows(loss[start:stop], start, weight[start:stop] if weighted else None)
        (other if at % 3 == 2 else found).update(part)
    found.merge(other)
    assert [row.row for row in found.worst.rows] == expected
    assert [row.row for row in found.shifted(5).worst.rows] == [row + 5 for row in expected]


def test_what_comes_after_a_shift_is_compared_with_the_shifted() -> None:
    found = state(2)
    found.update(rows(np.ones(4)))
    later = found.shifted(10)
    later.update(rows(np.ones(3), first=4))
    assert [row.row for row in later.worst.rows] == [4, 5]


@pytest.mark.parametrize("equal", [False, True])
def test_small_batches_neither_sort_every_time_nor_look_at_equals(
    equal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    make = worst._kept

    def counted(batch: Rows, index: int) -> worst.Kept:
        looked.append(index)
        return make(batch, index)

    sizes: list[int] = []

    def sorting(values: list[worst.Kept], key: Any) -> list[worst.Kept]:
        sizes.append(len(values))
        return sorted(values, key=key)

    monkeypatch.setattr(worst, "_kept", counted)
    monkeypatch.setattr(worst, "sorted", sorting, raising=False)
    found, loss = state(500), np.zeros(20_000) if equal else RANDOM.exponential(size=20_000)
    for start in range(0, len(loss), 10):
        found.update(rows(loss[start : start + 10], start))
    assert len(found.worst.rows) == 500
    # Of random losses k·(1 + log(N/k)) are among the worst so far, and some more at the last sort.
    assert len(looked) <= (1000 if equal else 3500)
    assert sum(sizes) <= 3 * len(looked)
