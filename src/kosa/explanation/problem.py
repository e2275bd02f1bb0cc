"""What is explained: checked targets and predictions, and what follows from them. N rows, K classes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from kosa import definition
from kosa.explanation.parts import (
    MOST_CLASSES,
    MOST_ROWS,
    Array,
    Equation,
    Matrix,
    chosen,
    numeral,
    shape_text,
)
from kosa.explanation.words import Lang, say

Kind = Literal["logits", "probs", "log_probs"]


@dataclass(frozen=True)
class Problem:
    """N×K targets and predictions; `index` are the classes if that is how the targets were given."""

    t: Array
    given: Array
    kind: Kind
    index: tuple[int, ...] | None
    lang: Lang

    @property
    def shape(self) -> tuple[int, int]:
        return self.t.shape[0], self.t.shape[1]

    @property
    def is_row(self) -> bool:
        return len(self.t) == 1

    @cached_property
    def log_y(self) -> Array:
        if self.kind == "logits":
            return definition.log_softmax(self.given)
        with np.errstate(divide="ignore"):
            return self.given if self.kind == "log_probs" else np.log(self.given)

    @cached_property
    def y(self) -> Array:
        if self.kind == "logits":
            return definition.softmax(self.given)
        return np.exp(self.given) if self.kind == "log_probs" else self.given

    @cached_property
    def losses(self) -> Array:
        return np.asarray(definition.loss(self.t, **{self.kind: self.given}, reduction="none"))

    @property
    def masked(self) -> bool:
        """Whether some log y is −∞, so that 0·log 0 has to be spelled out."""
        return bool(np.isinf(self.log_y).any())

    @cached_property
    def safe(self) -> Array:
        """log y with 0 in the place of every log 0 that a target of 0 meets."""
        return np.where(self.t == 0, 0.0, self.log_y) if self.masked else self.log_y

    @property
    def safe_name(self) -> str:
        """The variable of the shown code that holds `safe`."""
        return f"log_{self.name('y')}" + ("_0" if self.masked else "")

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """The rows shown: the ends and the worst."""
        return chosen(self.losses, MOST_ROWS)

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """The classes shown: the ends, those with the greatest targets, then the likeliest."""
        return chosen(self.t.max(axis=0) * 2 + self.y.max(axis=0), MOST_CLASSES)

    @property
    def kept(self) -> frozenset[int]:
        """The classes that even a narrow page shows."""
        return frozenset(k for k in self.columns if self.t[:, k].any())

    @property
    def elided(self) -> bool:
        return (len(self.rows), len(self.columns)) != self.shape

    def name(self, letter: str) -> str:
        """t, y and z of one row are T, Y and Z of a batch."""
        return letter if self.is_row else letter.upper()

    def say(self, name: str, **values: object) -> str:
        """The sentence of that name, with the shape and the names of the vectors."""
        names = {letter: self.name(letter) for letter in "tyz"}
        facts = {"rows": self.shape[0], "classes": self.shape[1], "shape": shape_text(self.shape), **names}
        return say(self.lang, name, **{**facts, **values})

    def say_either(self, name: str, suffix: str = "", **values: object) -> str:
        """The sentence that has one form for a row and another for a batch."""
        return self.say(f"{name}_{'row' if self.is_row else 'batch'}{suffix}", **values)

    @property
    def summary(self) -> str:
        """The result in one sentence."""
        mean = float(self.losses.mean())
        return self.say_either("summary", nats=numeral(mean), bits=numeral(mean / np.log(2)))

    def matrix(self, values: Array) -> Matrix:
        """The shown cells of N×K values."""
        cells = values[np.ix_(self.rows, self.columns)]
        return Matrix(cells, self.shape, self.rows, self.columns, kept=self.kept)

    def transposed(self, values: Array) -> Matrix:
        """The same cells as K×N."""
        cells = values[np.ix_(self.rows, self.columns)].T
        return Matrix(cells, (self.shape[1], self.shape[0]), self.columns, self.rows)

    def equation(self, left: str, values: Array) -> Equation:
        return Equation((f"{left} =", self.matrix(values)), shape_text(self.shape))
