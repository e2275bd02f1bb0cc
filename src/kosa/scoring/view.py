"""How the figures of a state are wanted: checked before a data set is read, not when it has been."""

import math
import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from kosa.scoring.calibration import CONFIDENCES, check_width
from kosa.scoring.errors import InputError, InputTypeError


@dataclass(frozen=True)
class View:
    """confidence: of the interval.  bins, equal_mass: of the reliability diagram.  totals: units by their total number in
    the data set; None: every row is one.
    """

    confidence: float = 0.95
    bins: int = 15
    equal_mass: bool = False
    totals: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        confidence: Any,
        bins: Any,
        equal_mass: bool,
        totals: Mapping[str, float | None],
        counted: Collection[str],
    ) -> "View":
        """The view, if it can be had; `counted` are the units that a column counts."""
        try:
            # Beyond, the quantile would be that of 1.
            known = 0.0 < confidence < 1.0 and 0.5 + confidence / 2 < 1.0
        except TypeError:
            raise InputTypeError(
                f"`confidence` is {confidence!r}, expected a number between 0 and 1"
            ) from None
        if not known:
            raise InputError(f"`confidence` is {confidence}, expected a number between 0 and 1")
        bins = whole("bins", bins, 1)
        if not equal_mass:
            check_width(bins)
        elif bins > CONFIDENCES:
            raise InputError(
                f"`bins` is {bins}, expected at most {CONFIDENCES}, the steps that a state keeps"
            )
        for unit, number in totals.items():
            if unit in counted:
                raise InputError(f"`per`: {unit!r} is counted by a column already")
            if number is not None and not 0.0 < number < math.inf:
                raise InputError(f"`per`: {number} {unit}; expected a positive number")
        return cls(float(confidence), bins, equal_mass, totals)


def whole(name: str, value: Any, least: int) -> int:
    """A whole number that an option gives."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputTypeError(f"`{name}` is {value!r}, expected a whole number") from None
    if number < least:
        raise InputError(f"`{name}` is {number}, expected {least} or more")
    return number
