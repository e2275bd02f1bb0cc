"""The last steps from logits: the gradient y − t, and central differences that confirm it."""

import numpy as np

from kosa import definition
from kosa.explanation.parts import Array, Equation, Matrix, Step, numeral, shape_text
from kosa.explanation.problem import Problem

# Central differences lose h²·E'''/6 to curvature and about 1e-16·|E|/h to rounding: 1e-5 balances them.
STEP = 1e-5
AGREE = 1e-6


def gradient(p: Problem) -> Step:
    t, y = p.name("t"), p.name("y")
    slopes = definition.gradient(p.t, p.given)
    formula, code = f"{y} − {t}", f"gradient = {y} - {t}"
    if not np.allclose(p.t.sum(axis=1), 1, rtol=0, atol=1e-9):
        formula = f"(Σ_k {t}_{'k' if p.is_row else 'nk'})·{formula}"
        code = f"gradient = {t}.sum(axis=1, keepdims=True) * {y} - {t}"
    text = [p.say("gradient_text", formula=formula)]
    if not p.is_row:
        text.append(p.say("gradient_sum"))
    shown = p.equation(f"∂E/∂{p.name('z')} = {formula}", slopes)
    return Step("gradient", p.say("gradient"), tuple(text), (shown,), code, {"gradient": slopes})


def differences(p: Problem) -> Step:
    title = p.say("differences")
    if np.isinf(p.losses).any():
        return Step("differences", title, (p.say("differences_infinite"),), (), "")
    cells = np.array([[_slope(p, n, k) for k in p.columns] for n in p.rows])
    exact = definition.gradient(p.t, p.given)[np.ix_(p.rows, p.columns)]
    gap = float(np.abs(cells - exact).max())
    if gap < AGREE:
        # A bound and not the gap itself, which is rounding and differs from one run of the code to another.
        bound = max(10.0 ** np.ceil(np.log10(gap * 2 + 1e-300)), 1e-10)
        note = p.say("differences_agree", bound=numeral(bound))
    else:
        note = p.say("differences_coarse", gap=numeral(gap, 2))
    matrix = Matrix(cells, p.shape, p.rows, p.columns, kept=p.kept)
    shown = Equation(("(E(z + h) − E(z − h)) / 2h =", matrix), shape_text(p.shape))
    text, values = (p.say("differences_text", h=numeral(STEP)),), {"differences": cells}
    return Step("differences", title, text, (shown,), _code(p), values, (note,))


def _slope(p: Problem, n: int, k: int) -> float:
    """The central difference of row n's loss in its k-th logit."""
    bump: Array = STEP * (np.arange(p.shape[1]) == k)
    up, down = (definition.loss(p.t[n], logits=p.given[n] + move, reduction="sum") for move in (bump, -bump))
    return float(up - down) / (2 * STEP)


def _code(p: Problem) -> str:
    """The loss as a function of the logits, and its central differences, each on a line of its own."""
    t, z, (rows, classes) = p.name("t"), p.name("z"), p.shape
    below = f"np.logaddexp.reduce({z}, axis=1, keepdims=True) - {z}"
    terms = f"{t} * np.where({t} == 0, 0, {below})" if p.masked else f"{t} * ({below})"
    ks = "shown" if p.elided else f"range({classes})"
    lines = [f"h = {STEP}", f"E = lambda {z}: ({terms}).sum()"]
    if p.is_row:
        lines += [
            f"bump = lambda k: h * (np.arange({classes}) == k)",
            "slope = lambda k: (E(z + bump(k)) - E(z - bump(k))) / (2 * h)",
            f"differences = np.array([[slope(k) for k in {ks}]])",
        ]
    else:
        ns = "rows" if p.elided else f"range({rows})"
        lines += [
            f"bump = lambda n, k: h * np.outer(np.arange({rows}) == n, np.arange({classes}) == k)",
            "slope = lambda n, k: (E(Z + bump(n, k)) - E(Z - bump(n, k))) / (2 * h)",
            f"differences = np.array([[slope(n, k) for k in {ks}] for n in {ns}])",
        ]
    return "\n".join(lines)
