"""Rows on their way from a source to their losses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from kosa.scoring.classes import Coded
from kosa.scoring.errors import Place


@dataclass(frozen=True)
class Batch:
    """Rows as they are read.

    predictions: (N, K), perhaps as a `convert.Apart`, or (N,) for a binary prediction.
    targets: (N,) labels, (N, K) distributions, or coded strings.
    weights: (N,) or None.  ids: N of anything, or None.  place: where the rows come from.  first: number of
    the first row in the whole data set.  fraction: of the data set's bytes read so far, NaN where that is not
    known.  group: (N,) names of groups, or None.  units: (N,) counts by unit.
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
