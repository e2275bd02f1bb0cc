"""A batch of rows after their losses have been computed."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kosa.scoring.classes import Coded
from kosa.scoring.errors import InputError, InputTypeError
from kosa.scoring.exact import Floats, Integers
from kosa.scoring.temperature import COLUMNS

MOST_WEIGHT = 1e100  # so that neither its square nor its product with a loss overflows


@dataclass(frozen=True)
class Rows:
    """A batch of rows after their losses have been computed; one of weight 0 is only counted, whatever its values.

    first: number of the first row in the whole data set.  loss, clipped: (N,) nats, exact and with
    probabilities raised to the clip.  label: (N,) class of the target, of a soft target the most probable.
    predicted, confidence: (N,) most probable class (−1: NaN) and its probability c.  weight: (N,) or None for
    1.  target_entropy: (N,) nats, or None for 0.  mass: (N, K) soft targets, or None where `label` says all.
    ids: N names, or None for row numbers.  brier: (N,) Σ_k (p_k − t_k)², or None where nobody computed it.
    hit: (N,) the target's mass on the predicted class; None: 1 where predicted = label, else 0.  among: (N,)
    nats lost among the classes that were not predicted, −Σ_{k≠predicted} t_k·log(p_k/(1 − c)); None: 0.
    rank: (N,) how many classes come before the target's, most probable first; for top-k.  group: N names of
    groups.  units: N counts by unit.  tempered: (N, 21), see `temperature.py`.  clip: what probabilities were raised to
    for `clipped`; 0: to nothing.
    """

    first: int
    loss: Floats
    clipped: Floats
    label: Integers
    predicted: Integers
    confidence: Floats
    weight: Floats | None = None
    target_entropy: Floats | None = None
    mass: Floats | None = None
    ids: Any = None
    brier: Floats | None = None
    hit: Floats | None = None
    among: Floats | None = None
    rank: Integers | None = None
    group: "NDArray[Any] | Coded | None" = None
    units: dict[str, Floats] = field(default_factory=dict)
    tempered: Floats | None = None
    clip: float = 0.0

    def __len__(self) -> int:
        return len(self.loss)

    def check(self, classes: int) -> None:
        """Refuse what the kernels, which look no index up, would read or write out of bounds."""
        arrays = {
            item.name: getattr(self, item.name) for item in fields(self) if item.name != "ids"
        } | self.units
        for name, values in arrays.items():
            if isinstance(values, np.ndarray | Coded) and len(values) != len(self.loss):
                raise InputError(f"`{name}` has {len(values)} rows, `loss` {len(self.loss)}")
        self._check_floats(arrays)
        if not 0.0 <= self.clip < 1.0:
            raise InputError(f"`clip` is {self.clip}, expected a probability below 1")
        if not len(self.loss):
            return
        rank_end = np.iinfo(np.int64).max
        indices = {"label": (self.label, 0, classes), "predicted": (self.predicted, -1, classes)}
        if self.rank is not None:
            indices["rank"] = (self.rank, 0, rank_end)
        if isinstance(self.group, Coded):
            indices["group"] = (self.group.codes, 0, len(self.group.values))
        for name, (index, least, end) in indices.items():
            if index.dtype.kind not in "iu" or index.min() < least or index.max() >= end:
                raise InputError(f"`{name}` holds what is none of {least} to {end - 1}")
        for name, matrix, width in (("mass", self.mass, classes), ("tempered", self.tempered, COLUMNS)):
            if matrix is not None and matrix.shape != (len(self.loss), width):
                raise InputError(f"`{name}` has shape {matrix.shape}, expected {(len(self.loss), width)}")

    def _check_floats(self, arrays: dict[str, Any]) -> None:
        limited = {"weight", *self.units}
        for name, values in arrays.items():
            if name in ("first", "label", "predicted", "rank", "group") or not isinstance(values, np.ndarray):
                continue
            # What is exact is the bits of a float64: those of another type would be read as others.
            if values.dtype != np.float64 or values.ndim != 1 + (name in ("mass", "tempered")):
                raise InputTypeError(
                    f"`{name}` is {values.dtype.name} of {values.ndim} axes, expected float64 a row"
                )
            bad = ~((values >= 0) & (values <= MOST_WEIGHT)) if name in limited else None
            if bad is not None and name != "weight" and self.weight is not None:
                bad &= self.weight > 0
            if bad is not None and bad.any():
                raise InputError(f"`{name}` holds what is none of 0 to {MOST_WEIGHT:g}")

    def chosen(self, index: Integers) -> "Rows":
        """Some of the rows; their numbers are lost, and their ids."""
        taken: dict[str, Any] = {
            item.name: getattr(self, item.name)[index]
            for item in fields(self)
            if isinstance(getattr(self, item.name), np.ndarray) and item.name != "ids"
        }
        if isinstance(self.group, Coded):
            taken["group"] = Coded(self.group.values, self.group.codes[index])
        return replace(
            self, **taken, ids=None, units={unit: count[index] for unit, count in self.units.items()}
        )
