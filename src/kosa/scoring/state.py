"""The state of one set of predictions: it is updated, merges, is kept in a file, and gives the figures."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kosa.scoring import statefile
from kosa.scoring.figures import figures
from kosa.scoring.result import Score
from kosa.scoring.setup import Setup
from kosa.scoring.stored import restore, stored
from kosa.scoring.sums import Sums
from kosa.scoring.view import View

HOLDS = "predictions"


class State(Sums):
    """The figures of the rows seen so far. Their result is the same bits for any batches, order or merges.

    `sources` are the files, and which of their rows, that were scored, where that is known: what covers rows of one file
    twice does not merge. `notes` are JSON values of the caller's own; they are saved with the state and never merged. One
    thread at a time may use a state.
    """

    @property
    def states(self) -> "tuple[State, ...]":
        """This one; a comparison has two."""
        return (self,)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file, which at any moment is the old one or the new one, never a part.

        Raises:
            InputError: another process is writing it.
            OSError: it cannot be written; a file that was there is left as it was.
        """
        statefile.save(self.stored(), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "State":
        """Read a state from a file.

        Raises:
            InputError: it is damaged, cut off, no state, one of a newer Kosa, or one of a comparison; names the file.
            OSError: it cannot be read.
        """
        return statefile.parse(Path(path).read_bytes(), str(path), {HOLDS: cls.restored})

    def stored(self) -> dict[str, Any]:
        """What `restored` reads: JSON values and arrays."""
        return {"holds": HOLDS} | stored(self)

    @classmethod
    def restored(cls, values: dict[str, Any]) -> "State":
        """The state that was stored; ValueError, TypeError or LookupError where it cannot be."""
        state = cls(Setup.from_json(values["setup"]))
        restore(state, values)
        return state

    def result(
        self,
        *,
        confidence: float = 0.95,
        bins: int = 15,
        equal_mass: bool = False,
        totals: Mapping[str, float | None] | None = None,
    ) -> Score:
        """The figures.

        Args:
            confidence: of the interval of the cross-entropy.
            bins: how many bins the reliability diagram and the calibration error have.
            equal_mass: bins of about equal weight, not of equal width.
            totals: units of perplexity by the total number in the data set; None: every row is one.

        Raises:
            InputError: no rows, or no weight; options that do not fit.
        """
        return figures(self, View.of(confidence, bins, equal_mass, totals or {}, self.setup.per))
