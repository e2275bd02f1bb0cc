"""From labels as they are written to class numbers 0..K−1."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kosa.scoring.errors import InputError, InputTypeError, LabelError, Place, listing

_INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True)
class Coded:
    """A column of strings as its distinct values and, for each row, which one it is.

    `untyped` marks text from a file without types (CSV), where `3` may be a number as well as a name.
    """

    values: tuple[str, ...]
    codes: NDArray[Any]
    untyped: bool = False

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str | int:
        """One row's label; untyped text that reads as an integer is one."""
        value = self.values[int(self.codes[row])]
        return int(value) if self.untyped and _INTEGER.fullmatch(value) else value


@dataclass(frozen=True)
class Classes:
    """The K classes: their names, and whether the user gave them."""

    names: tuple[str, ...]
    given: bool = False

    @classmethod
    def choose(
        cls, count: int, given: Sequence[str] | None, carried: Sequence[str] | None, binary: bool = False
    ) -> "Classes":
        """The names given, else those of the columns, else the numbers 0..K−1."""
        if given is not None:
            names = tuple(str(name) for name in given)
            if len(names) != count:
                shape = "a binary prediction has 2" if binary else f"the predictions have {count}"
                raise InputError(f"`classes` names {len(names)} classes, but {shape}")
            if len(set(names)) != len(names):
                raise InputError(f"`classes` names a class twice: {listing(names)}")
            return cls(names, given=True)
        if carried is not None:
            return cls(tuple(carried))
        return cls(tuple(str(index) for index in range(count)))

    @cached_property
    def index(self) -> dict[str, int]:
        """Class number by name."""
        return {name: number for number, name in enumerate(self.names)}

    @cached_property
    def integers(self) -> dict[int, int] | None:
        """Class number by integer name, where every name is an integer."""
        if not all(_INTEGER.fullmatch(name) for name in self.names):
            return None
        return {int(name): number for number, name in enumerate(self.names)}

    @cached_property
    def _direct(self) -> bool:
        """Whether the integer names are 0..K−1 in order, so that number and name agree."""
        return self.integers == {number: number for number in range(len(self.names))}

    def decode(
        self, labels: "NDArray[Any] | Coded", place: Place, used: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Class numbers of labels; the first label that is no class is an error that names row and value.

        Rows that are not `used` may have any label; one that is no class becomes class 0 there.
        """
        numbers = self._numbers(labels, place, used)
        return numbers if used is None or used.all() else np.where(used | (numbers >= 0), numbers, 0)

    def _numbers(
        self, labels: "NDArray[Any] | Coded", place: Place, used: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        """Class numbers of labels, −1 where a row that is not used has none."""
        if isinstance(labels, Coded):
            found = [self._number(value, labels.untyped, place) for value in labels.values]
            numbers: NDArray[np.int64] = np.array(found, dtype=np.int64)[labels.codes]
            self._refuse(numbers < 0, lambda row: labels[row], place, used)
            return numbers
        if labels.dtype.kind == "b" and len(self.names) == 2:
            return labels.astype(np.int64)
        if labels.dtype.kind not in "iu":
            raise InputTypeError(
                f"{place.name}: the labels are {labels.dtype.name}, expected integers or strings; cast them, "
                "or give one column per class (or a list column) for a soft target"
            )
        if self.integers is not None and not self._direct:
            if not self.given:
                self._ambiguous(place)
            values, codes = np.unique(labels, return_inverse=True)
            numbers = np.array([self.integers.get(int(value), -1) for value in values], dtype=np.int64)[codes]
            self._refuse(numbers < 0, lambda row: int(labels[row]), place, used)
            return numbers
        none = (labels < 0) | (labels >= len(self.names))
        self._refuse(none, lambda row: int(labels[row]), place, used)
        return np.where(none, -1, labels.astype(np.int64)) if none.any() else labels.astype(np.int64)

    def _number(self, value: str, untyped: bool, place: Place) -> int:
        """The class number of one written label; −1 where it is none."""
        if untyped and _INTEGER.fullmatch(value):
            number = int(value)
            if self.integers is not None:
                if not self._direct and not self.given:
                    self._ambiguous(place)
                return self.integers.get(number, -1)
            return number if 0 <= number < len(self.names) else -1
        return self.index.get(value, -1)

    def _ambiguous(self, place: Place) -> None:
        """Columns p1, p2, p3: is label 1 the first column or the second? A guess is wrong half the time."""
        numbers = ",".join(str(number) for number in range(len(self.names)))
        names = ",".join(self.names)
        if len(self.names) > 8:
            numbers, names = f"0,1,…,{len(self.names) - 1}", ",".join(self.names[:3]) + ",…"
        raise InputError(
            f"{place.name}: integer labels, and columns numbered {names}: a label may be a column's number or "
            f"its position; give `classes` {names} for the number or {numbers} for the position"
        )

    def _refuse(
        self, bad: NDArray[np.bool_], value: Any, place: Place, used: NDArray[np.bool_] | None
    ) -> None:
        if used is not None:
            bad = bad & used
        if not bad.any():
            return
        row = int(np.argmax(bad))
        label = value(row)
        if isinstance(label, int):
            known = (
                f"the classes are {listing(self.names)}"
                if self.given and self.integers is not None
                else f"the {len(self.names)} classes are numbered 0 to {len(self.names) - 1}"
            )
            raise LabelError(f"{place.row(row)}: label {label} is out of range; {known}")
        hint = "" if self.given else "; `classes` gives them other names"
        raise LabelError(
            f"{place.row(row)}: unknown label {label!r}; the classes are {listing(self.names)}{hint}"
        )
