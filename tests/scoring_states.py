"""States in which every part holds something, for the tests of merging and of files."""

from typing import Any

import numpy as np

from kosa.scoring import PairState, Rows, Setup, State, statefile

CLASSES = ("a", "b", "猫", "\ud800")
EVERYTHING = Setup(
    CLASSES,
    "probs",
    weighted=True,
    worst=3,
    top_k=(1, 3),
    group="doc",
    per=("bytes", "words"),
    temperature=True,
)


def rows(start: int, count: int, seed: int = 1, soft: bool = False) -> Rows:
    """Rows start..start+count−1, which depend on the seed and their number alone; losses from 1e-300 to infinity."""
    parts = [_row(number, seed, soft) for number in range(start, start + count)]
    columns: dict[str, Any] = {name: np.array([part[name] for part in parts]) for name in parts[0]}
    units = {"bytes": columns.pop("bytes"), "words": columns.pop("words")}
    ids = columns.pop("ids").tolist()
    return Rows(first=start, ids=ids, units=units, clip=1e-7, **columns)


def _row(number: int, seed: int, soft: bool) -> dict[str, Any]:
    random = np.random.default_rng((seed, number))
    loss = float(10.0 ** random.uniform(-300, 150)) if number % 17 else (np.inf if number % 2 else 0.0)
    mass = random.dirichlet(np.ones(len(CLASSES)))
    row = {
        "loss": loss,
        "clipped": min(loss, 16.0),
        "label": int(np.argmax(mass)),
        "predicted": int(random.integers(len(CLASSES))),
        "confidence": float(random.random()),
        "weight": float(10.0 ** random.uniform(-20, 20)) if number % 7 else 0.0,
        "brier": float(10.0 ** random.uniform(-30, 0)),
        "among": float(random.exponential()),
        "rank": int(random.integers(len(CLASSES))),
        "ids": f"row {number}",
        "group": number // 5 % 11,
        "bytes": float(random.integers(9)),
        "words": float(random.exponential()),
        "tempered": 10.0 ** random.uniform(-9, 9, 21),
    }
    if soft:
        row |= {"mass": mass, "target_entropy": float(random.random()), "hit": float(random.random())}
    return row


def state(start: int, count: int, seed: int = 1, soft: bool = False) -> State:
    """The state of `rows`."""
    found = State(EVERYTHING)
    if count:
        found.update(rows(start, count, seed, soft))
    return found


def dump(found: State | PairState) -> bytes:
    """The content of a state's file."""
    return statefile.dump(found.stored())
