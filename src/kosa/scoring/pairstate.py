"""The state of a comparison: those of both sets of predictions, and of their differences, of the same rows."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from kosa.scoring import statefile
from kosa.scoring.coverage import Source, joined
from kosa.scoring.errors import InputError
from kosa.scoring.paired import Paired
from kosa.scoring.result import Score
from kosa.scoring.rows import Rows
from kosa.scoring.setup import Setup
from kosa.scoring.state import HOLDS, State

COMPARES = "comparison"
_ANY = "B"  # what predictions of several names are called


class PairState:
    """A against B for the rows seen so far: the state of each, and their differences. As a `State` it merges, is kept in
    a file, and gives the same bits for any batches, order or merges.

    ours, theirs: the states of A and B, of equal weights and groups.  paired: the differences.  name: what B is called.
    """

    def __init__(self, ours: Setup, theirs: Setup, name: str = _ANY) -> None:
        self.ours, self.theirs, self.paired = State(ours), State(theirs), Paired(ours)
        self.name = name
        self.notes: dict[str, Any] = {}

    @property
    def states(self) -> tuple[State, ...]:
        """The states of A and of B."""
        return self.ours, self.theirs

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self.ours.rows

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The numbers of the rows seen, as ranges [start, end)."""
        return self.ours.ranges

    def update(self, ours: Rows, theirs: Rows) -> None:
        """Add a batch of the same rows under A and under B, or change nothing: rows that do not fit are an InputError."""
        if (ours.first, len(ours)) != (theirs.first, len(theirs)):
            raise InputError(
                f"rows {ours.first} to {ours.first + len(ours) - 1} of A against rows {theirs.first} to "
                f"{theirs.first + len(theirs) - 1} of B; expected the same rows"
            )
        self.theirs.check(theirs)
        self.ours.update(ours)
        self.theirs.update(theirs)
        if len(ours):
            self.paired.update(ours, theirs)

    def merge(self, other: Self) -> None:
        """Add what another state has seen."""
        self.require_equal(other)
        # Whatever may be refused is refused before anything is changed.
        joined(self.theirs.sources, other.theirs.sources)
        self.ours.merge(other.ours)
        self.theirs.merge(other.theirs)
        self.paired.merge(other.paired)
        if self.name != other.name:
            self.name = _ANY

    def require_equal(self, other: Self) -> None:
        """Refuse to merge what is of different data, naming the differences."""
        self.ours.setup.require_equal(other.ours.setup)
        self.theirs.setup.require_equal(other.theirs.setup)

    def shifted(self, offset: int) -> Self:
        """The same rows, numbered `offset` later."""
        found = type(self)(self.ours.setup, self.theirs.setup, self.name)
        found.paired.merge(self.paired)
        found.paired.groups.shift(offset)
        found.ours, found.theirs = self.ours.shifted(offset), self.theirs.shifted(offset)
        found.notes = dict(self.notes)
        return found

    def cover(self, ours: tuple[Source, ...], theirs: tuple[Source, ...]) -> None:
        """Note which rows of which files these are."""
        self.ours.cover(ours)
        self.theirs.cover(theirs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file; see State.save."""
        statefile.save(self.stored(), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "PairState":
        """Read a state from a file; see State.load."""
        return statefile.parse(Path(path).read_bytes(), str(path), {COMPARES: cls.restored})

    def stored(self) -> dict[str, Any]:
        """What `restored` reads: JSON values and arrays."""
        return {
            "holds": COMPARES,
            "name": self.name,
            "notes": self.notes,
            "a": self.ours.stored(),
            "b": self.theirs.stored(),
            "pair": self.paired.stored(),
        }

    @classmethod
    def restored(cls, values: dict[str, Any]) -> "PairState":
        """The state that was stored; ValueError, TypeError or LookupError where it cannot be."""
        ours, theirs = State.restored(values["a"]), State.restored(values["b"])
        name, notes = values["name"], values["notes"]
        if type(name) is not str or not isinstance(notes, dict):
            raise ValueError("no name of predictions")
        if ours.ranges != theirs.ranges or ours.setup.weighted != theirs.setup.weighted:
            raise ValueError("states of other rows")
        found = cls(ours.setup, theirs.setup, name)
        found.ours, found.theirs, found.notes = ours, theirs, notes
        found.paired = Paired.restored(values["pair"], ours.setup, ours.rows)
        if (found.paired.classes.rows != ours.classes.rows).any():
            raise ValueError("differences of other rows")
        return found

    def result(
        self,
        *,
        confidence: float = 0.95,
        bins: int = 15,
        equal_mass: bool = False,
        totals: Mapping[str, float | None] | None = None,
    ) -> Score:
        """The figures of A, whose `against` is the comparison with B; arguments as of State.result."""
        view: dict[str, Any] = {
            "confidence": confidence,
            "bins": bins,
            "equal_mass": equal_mass,
            "totals": totals,
        }
        found, other = self.ours.result(**view), self.theirs.result(**view)
        return replace(found, against=self.paired.result(self.name, other, confidence))


AnyState = State | PairState


def load_any(path: str | os.PathLike[str]) -> AnyState:
    """A state of either kind from a file; errors as State.load has them."""
    return parse_any(Path(path).read_bytes(), str(path))


def parse_any(content: bytes, name: str) -> AnyState:
    """A state of either kind from a file's content; `name` is what an error calls it."""
    kinds: dict[str, Callable[[dict[str, Any]], AnyState]]
    kinds = {HOLDS: State.restored, COMPARES: PairState.restored}
    return statefile.parse(content, name, kinds)


def merge_any(whole: AnyState, other: AnyState) -> None:
    """Add to a state what another one of its kind has seen."""
    if type(whole) is not type(other):
        raise InputError("one is of one set of predictions, the other a comparison of two: they do not merge")
    whole.merge(other)  # type: ignore[arg-type]
