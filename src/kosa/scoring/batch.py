"""Rows on their way from a source to their losses."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from kosa.scoring.classes import Coded
from kosa.scoring.errors import Place, TokenPlace


@dataclass(frozen=True)
class Batch:
    """Rows as they are read.

    predictions: (N, K), perhaps as a `convert.Apart`, or (N,) for a binary prediction.
    targets: (N,) labels, (N, K) distributions, or coded strings.
    weights: (N,) or None.  ids: N of anything, or None.  place: where the rows come from.  first: number of
    the first row in the whole data set.  fraction: of the data set's bytes read so far, NaN where that is not
    known.  group: (N,) names of groups, or None.  units: (N,) counts by unit.  read: how many rows of their file have
    been read when these end (of a file of documents, documents), None where they end in the middle of one.
    reach: the same for the end of all that was read with them.
    """

    predictions: NDArray[Any]
    targets: "NDArray[Any] | Coded"
    weights: NDArray[Any] | None
    ids: Any
    place: Place
    first: int
    carried: tuple[str, ...] | None = None
    fraction: float = float("nan")
    group: "NDArray[Any] | Coded | None" = None
    units: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    read: int | None = None
    reach: int = 0

    def __len__(self) -> int:
        return len(self.predictions)

    def part(self, start: int, stop: int | None = None) -> "Batch":
        """Some consecutive rows."""
        if start == 0 and (stop is None or stop == len(self)):
            return self
        rows = slice(start, stop)
        return replace(
            self,
            predictions=self.predictions[rows],
            targets=_rows(self.targets, rows),
            weights=_rows(self.weights, rows),
            ids=_rows(self.ids, rows),
            group=_rows(self.group, rows),
            units={unit: count[rows] for unit, count in self.units.items()},
            place=self.place.after(start),
            first=self.first + start,
            read=self.read if stop is None else None,
        )


class Documents(dict[str, Any]):
    """Columns of the tokens of some documents: of how many, and where the tokens are."""

    def __init__(self, columns: Mapping[str, Any], count: int, place: TokenPlace) -> None:
        super().__init__(columns)
        self.count, self.place = count, place


def _rows(column: Any, rows: slice) -> Any:
    if isinstance(column, Coded):
        return replace(column, codes=column.codes[rows])
    return None if column is None else column[rows]
