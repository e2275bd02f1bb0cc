"""What a step of an explanation is made of, before it becomes text or HTML.

Formulas are strings in a small notation: `t_k` is a subscript, `x^2` a superscript, `ᵀ` the transpose. In
prose they stand between dollar signs. N rows, K classes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST_CLASSES = 12
MOST_ROWS = 8
# A row of more numbers than this is shown with four digits instead of six.
WIDE = 6


@dataclass(frozen=True)
class Matrix:
    """The shown cells of a matrix of `shape`: `values[i, j]` stands at `rows[i]`, `columns[j]`."""

    values: Array
    shape: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    marked: frozenset[tuple[int, int]] = frozenset()
    kept: frozenset[int] = frozenset()

    @classmethod
    def whole(cls, values: Array, marked: Iterable[tuple[int, int]] = ()) -> "Matrix":
        """All cells."""
        m, n = values.shape
        return cls(values, (m, n), tuple(range(m)), tuple(range(n)), frozenset(marked))

    @property
    def cells(self) -> list[list[str]]:
        """The values as text, one precision for all."""
        text = iter(numerals(self.values, 4 if len(self.columns) > WIDE else 6))
        return [[next(text) for _ in self.columns] for _ in self.rows]


@dataclass(frozen=True)
class Equation:
    """Formulas and matrices side by side; `shapes` says their shapes."""

    parts: tuple[str | Matrix, ...]
    shapes: str = ""


@dataclass(frozen=True)
class Table:
    """Columns under formulas; a row of None is a gap; `total` is the last line."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...] | None, ...]
    total: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Step:
    """What a step says, what it shows, and the NumPy that does it; `values` are what that code assigns."""

    name: str
    title: str
    text: tuple[str, ...]
    shown: tuple[Equation | Table, ...]
    code: str
    values: Mapping[str, Array] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """A heading, a summary and steps: everything that a renderer needs."""

    lang: str
    heading: str
    lead: str
    copying: str
    copying_html: str
    summary: tuple[str, ...]
    steps: tuple[Step, ...]


def numerals(values: Array, digits: int = 6) -> list[str]:
    """Numbers as text of one precision: whole, with a fixed number of decimals, or with that many digits."""
    flat = [float(v) for v in np.ravel(values)]
    sizes = [abs(v) for v in flat if v != 0 and np.isfinite(v)]
    whole = all(size == round(size) for size in sizes)
    if sizes and max(sizes) < 1e6 and (whole or min(sizes) >= 10.0 ** (2 - digits)):
        decimals = 0 if whole else digits
        fixed = [f"{v:.{decimals}f}" for v in flat if v != 0 and np.isfinite(v)]
        while decimals > 0 and all(text.endswith("0") for text in fixed):
            fixed, decimals = [text[:-1] for text in fixed], decimals - 1
        return [f"{v:.{decimals}f}" if v != 0 and np.isfinite(v) else numeral(v) for v in flat]
    return [numeral(v, digits) for v in flat]


def numeral(value: float, digits: int = 6) -> str:
    """One number; a zero has no sign."""
    return f"{value + 0.0:.{digits}g}"


def times(a: Array, b: Array) -> Array:
    """a·b entry by entry, where 0 times −∞ is 0."""
    product: Array = a * np.where(a == 0, 0.0, b)
    return product + 0.0


def shape_text(shape: tuple[int, int]) -> str:
    """2×3"""
    return f"{shape[0]}×{shape[1]}"


def gaps(indices: tuple[int, ...], length: int) -> list[int | None]:
    """`indices` with None where some of 0..length−1 are left out."""
    seen: list[int | None] = []
    expected = 0
    for index in indices:
        if index != expected:
            seen.append(None)
        seen.append(index)
        expected = index + 1
    if expected != length:
        seen.append(None)
    return seen


def chosen(importance: Array, most: int) -> tuple[int, ...]:
    """All places, or, of more than `most`, the first and last few and the most important."""
    length = len(importance)
    if length <= most:
        return tuple(range(length))
    ends = {*range(most // 3), *range(length - most // 4, length)}
    ranked = [int(k) for k in np.argsort(-importance, kind="stable") if int(k) not in ends]
    return tuple(sorted(ends | set(ranked[: most - 1 - len(ends)])))


def literal(name: str, values: Array) -> str:
    """`name = np.array([[…]])` that gives back exactly these numbers, one row a line."""
    rows = ["[" + ", ".join(_python(v) for v in row) + "]" for row in values]
    return f"{name} = np.array([" + ",\n".join(rows) + "])"


def _python(value: float) -> str:
    """A number as Python writes it, whole ones without a point."""
    value = float(value)
    if np.isinf(value):
        return "np.inf" if value > 0 else "-np.inf"
    return str(int(value)) if value == round(value) and abs(value) < 1e15 else repr(value)
