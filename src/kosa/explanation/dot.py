"""The matrix product, cell by cell."""

import numpy as np

from kosa import definition
from kosa.explanation.parts import (
    MOST_CLASSES,
    MOST_ROWS,
    Array,
    Equation,
    Matrix,
    Step,
    Table,
    chosen,
    literal,
    numeral,
    shape_text,
)
from kosa.explanation.words import Lang, say


def misfit(left: Array, right: Array, lang: Lang) -> str | None:
    """Why the two do not multiply, and the command that would; None if they do."""
    (m, n), (rows, columns) = left.shape, right.shape
    if n == rows:
        return None
    facts = {"left": shape_text((m, n)), "right": shape_text((rows, columns)), "n": n, "rows": rows}
    message = say(lang, "dot_misfit", **facts)
    if n == columns:
        remedy = f'kosa explain --dot "{_typed(left)}" "{_typed(right.T)}"'
        return message + say(lang, "dot_transpose_right", shape=shape_text((columns, rows)), remedy=remedy)
    if m == rows:
        remedy = f'kosa explain --dot "{_typed(left.T)}" "{_typed(right)}"'
        return message + say(lang, "dot_transpose_left", shape=shape_text((n, m)), remedy=remedy)
    return message


def steps(left: Array, right: Array, lang: Lang) -> tuple[Step, ...]:
    """The two matrices, the rule of the shapes, each cell as an inner product, the result."""
    (m, n), columns = left.shape, right.shape[1]
    product = definition.dot(left, right)
    both = f"{shape_text((m, n))} · {shape_text((n, columns))} = {shape_text((m, columns))}"

    def step(name: str, text: str, shown: Equation | Table, code: str, values: dict[str, Array]) -> Step:
        notes = (say(lang, "shapes_note"),) if name == "shapes" else ()
        return Step(name, say(lang, f"dot_{name}"), (text,), (shown,), code, values, notes)

    return (
        step(
            "left",
            say(lang, "dot_matrix_text", m=m, n=n),
            Equation(("A =", _matrix(left)), shape_text((m, n))),
            f"import numpy as np\n{literal('A', left)}",
            {"A": left},
        ),
        step(
            "right",
            say(lang, "dot_matrix_text", m=n, n=columns),
            Equation(("B =", _matrix(right)), shape_text((n, columns))),
            literal("B", right),
            {"B": right},
        ),
        step(
            "shapes",
            say(lang, "dot_shapes_text", m=m, n=n, l=columns),
            Equation((both,)),
            "fits = A.shape[1] == B.shape[0]  # True",
            {"fits": np.array(True)},
        ),
        step(
            "cells",
            say(lang, "dot_cells_text"),
            _cells(left, right, product),
            f"cell = lambda i, j: sum(A[i, k] * B[k, j] for k in range({n}))\n"
            f"cells = np.array([[cell(i, j) for j in range({columns})] for i in range({m})])",
            {"cells": product},
        ),
        step(
            "result",
            say(lang, "dot_result_text"),
            Equation((_matrix(left), "·", _matrix(right), "=", _matrix(product)), both),
            "product = A @ B",
            {"product": product},
        ),
    )


def _matrix(values: Array) -> Matrix:
    """The shown cells of a matrix."""
    (m, n), most = values.shape, (MOST_ROWS, MOST_CLASSES)
    rows, columns = (chosen(np.zeros(length), limit) for length, limit in zip((m, n), most, strict=True))
    return Matrix(values[np.ix_(rows, columns)], (m, n), rows, columns)


def _cells(left: Array, right: Array, product: Array) -> Table:
    """c_12 = 1·8 + 2·10 + 3·12 = 64, a line for each cell that is shown."""
    shown = _matrix(product)
    comma = "," if max(product.shape) > 9 else ""
    return Table(
        ("", "", "", "", ""),
        tuple(
            (
                f"$c_{i + 1}{comma}{j + 1}$",
                "$=$",
                f"${_sum(left[i], right[:, j])}$",
                "$=$",
                numeral(product[i, j]),
            )
            for i in shown.rows
            for j in shown.columns
        ),
    )


def _sum(row: Array, column: Array) -> str:
    """1·7 + 2·9 + 3·11, the middle left out of a long one."""
    factors = [f"{_factor(a)}·{_factor(b)}" for a, b in zip(row, column, strict=True)]
    if len(factors) > MOST_ROWS:
        factors = [*factors[:3], "…", *factors[-2:]]
    return " + ".join(factors)


def _factor(value: float) -> str:
    text = numeral(value)
    return f"({text})" if text.startswith("-") else text


def _typed(matrix: Array) -> str:
    """A matrix as the command line takes it."""
    return "; ".join(" ".join(numeral(value, 15) for value in row) for row in matrix)
