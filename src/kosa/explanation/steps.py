"""The steps from targets and predictions to the cross-entropy, each with the NumPy that does it.

N rows, K classes. One row is t, y, z; a batch is T, Y, Z. The numbers come from `kosa.definition`, not from
the code that is shown: the tests run that code and compare.
"""

import numpy as np

from kosa import definition
from kosa.explanation.gradient import differences, gradient
from kosa.explanation.parts import (
    Array,
    Equation,
    Matrix,
    Step,
    Table,
    gaps,
    literal,
    numeral,
    numerals,
    shape_text,
    times,
)
from kosa.explanation.problem import Problem


def steps(p: Problem) -> tuple[Step, ...]:
    """All steps in their order."""
    first: tuple[Step, ...]
    if p.kind == "logits":
        first = (targets(p), logits(p), softmax(p), logarithm(p))
    elif p.kind == "probs":
        first = (targets(p), probabilities(p), logarithm(p))
    else:
        first = (targets(p), logarithm(p), probabilities(p))
    last = (shapes(p), transpose(p), product(p), terms(p), result(p), outer(p))
    return (*first, *last, *((gradient(p), differences(p)) if p.kind == "logits" else ()))


def targets(p: Problem) -> Step:
    t, classes = p.name("t"), p.shape[1]
    text, code = [p.say_either("targets", "_text")], ["import numpy as np"]
    if p.index is None:
        code.append(_made("t", p.t, "targets", p))
    else:
        text.append(p.say("one_hot"))
        one_hot = f"np.eye({classes})[{list(p.index)}]"
        if p.elided:
            one_hot = f"(np.arange({classes}) == np.reshape(targets, (-1, 1))).astype(float)"
        code.append(f"{t} = {one_hot}")
    text += _off_one(p, p.t, "targets_sum")
    if p.elided:
        text.append(p.say("elided", kind=p.kind))
        code.append(f"shown = {list(p.columns)}")
        if not p.is_row:
            code.append(f"rows = {list(p.rows)}")
    shown = (p.equation(t, p.t),)
    return Step("targets", p.say_either("targets"), tuple(text), shown, "\n".join(code), {t: p.t})


def logits(p: Problem) -> Step:
    z = p.name("z")
    code = _made("z", p.given, "logits", p)
    return Step(
        "logits", p.say("logits"), (p.say("logits_text"),), (p.equation(z, p.given),), code, {z: p.given}
    )


def softmax(p: Problem) -> Step:
    y, z = p.name("y"), p.name("z")
    maximum = p.given.max(axis=1, keepdims=True)
    powers = np.exp(p.given - maximum)
    code = f"m = {z}.max(axis=1, keepdims=True)\ne = np.exp({z} - m)\n{y} = e / e.sum(axis=1, keepdims=True)"
    shown = (p.equation(f"exp({z} − m)", powers), p.equation(f"{y} = softmax({z})", p.y))
    values = {"m": maximum, "e": powers, y: p.y}
    return Step("softmax", p.say("softmax"), (p.say("softmax_text"),), shown, code, values)


def probabilities(p: Problem) -> Step:
    y = p.name("y")
    text = [p.say_either("probs", "_text"), *_off_one(p, p.y, "probs_sum")]
    code = _made("y", p.given, "probs", p)
    if p.kind == "log_probs":
        text.insert(1, p.say("from_log"))
        code = f"{y} = np.exp(log_{y})"
    return Step("probs", p.say_either("probs"), tuple(text), (p.equation(y, p.y),), code, {y: p.y})


def logarithm(p: Problem) -> Step:
    y, z = p.name("y"), p.name("z")
    values = {f"log_{y}": p.log_y}
    if p.kind == "logits":
        text = [p.say("log_softmax")]
        code = (
            f"others = np.arange({p.shape[1]}) != {z}.argmax(axis=1)[:, None]\n"
            f"R = e.sum(axis=1, keepdims=True, where=others)\n"
            f"log_{y} = ({z} - m) - np.log1p(R)"
        )
    elif p.kind == "log_probs":
        text, code = [p.say("log_given")], _made("log_y", p.given, "log_probs", p)
    else:
        text, code = [p.say("log_text")], f"log_{y} = np.log({y})"
        if p.masked:
            code = f"log_{y} = np.log({y}, where={y} > 0, out=np.full({y}.shape, -np.inf))"
    if p.masked:
        text.append(p.say("log_zero"))
        code += f"\n{p.safe_name} = np.where({p.name('t')} == 0, 0, log_{y})"
        values[p.safe_name] = p.safe
    return Step("log", p.say("log"), tuple(text), (p.equation(f"log {y}", p.log_y),), code, values)


def shapes(p: Problem) -> Step:
    t, y, (rows, classes) = p.name("t"), p.name("y"), p.shape
    fits = rows == classes
    alike, unlike = ("shapes_one", "shapes_row") if p.is_row else ("shapes_square", "shapes_batch")
    name = alike if fits else unlike
    shape = shape_text(p.shape)
    shown = Equation((f"{t}·log {y}:", f"{shape} · {shape}"), f"{classes} {'=' if fits else '≠'} {rows}")
    comment = "True" if fits else f"False: {t} @ log_{y} raises a ValueError"
    code = f"fits = {t}.shape[1] == log_{y}.shape[0]  # {comment}"
    text, notes = (p.say(f"{name}_text"),), (p.say("shapes_note"),)
    return Step("shapes", p.say(name), text, (shown,), code, {"fits": np.array(fits)}, notes)


def transpose(p: Problem) -> Step:
    turned = (p.shape[1], p.shape[0])
    both = f"{shape_text(p.shape)} · {shape_text(turned)} = {shape_text((p.shape[0], p.shape[0]))}"
    column = Equation((f"(log {p.name('y')})ᵀ =", p.transposed(p.safe)), shape_text(turned))
    text, code = (p.say_either("transpose", "_text"),), f"column = {p.safe_name}.T"
    shown = (column, Equation((both,)))
    return Step("transpose", p.say("transpose"), text, shown, code, {"column": p.safe.T})


def product(p: Problem) -> Step:
    return _inner_product(p) if p.is_row else _all_pairs(p)


def _inner_product(p: Problem) -> Step:
    inner = definition.dot(p.t, definition.transpose(p.safe))
    parts = ("t·(log y)ᵀ =", p.matrix(p.t), "·", p.transposed(p.safe), "=", Matrix.whole(inner))
    shown = Equation(parts, f"{shape_text(p.shape)} · {shape_text(p.shape[::-1])} = 1×1")
    text, code = (p.say("product_row_text"),), "product = t @ column"
    return Step("product", p.say("product_row"), text, (shown,), code, {"product": inner})


def _all_pairs(p: Problem) -> Step:
    count, rows = len(p.t), list(p.rows)
    # 0·log 0 = 0 also where the target of one row meets the prediction of another.
    cells = 0.0 - times(p.t[rows][:, None], p.log_y[rows]).sum(axis=2)
    part = "[rows]" if p.elided else ""
    code = f"product = -T{part} @ log_Y{part}.T"
    if p.masked:
        tall = f"T{part}[:, None]"
        code = f"product = -({tall} * np.where({tall} == 0, 0, log_Y{part})).sum(axis=2)"
    code += "\ndiagonal = np.diag(product)"
    marked = frozenset((n, n) for n in rows)
    matrix = Matrix(cells, (count, count), p.rows, p.rows, marked)
    shown = Equation(("−T·(log Y)ᵀ =", matrix), shape_text((count, count)))
    text = (p.say("product_batch_text", cells=count * count), p.say("product_batch_cost"))
    values = {"product": cells, "diagonal": np.diag(cells)}
    return Step("product", p.say("product_batch"), text, (shown,), code, values)


def terms(p: Problem) -> Step:
    each = times(p.t, p.safe)
    sums = each.sum(axis=1)
    shown: tuple[Equation | Table, ...]
    if p.is_row:
        picked = list(p.columns)
        columns = [numerals(v[0, picked]) for v in (p.t, p.y, p.log_y, each)]
        rows = _with_gaps(p.columns, p.shape[1], columns)
        shown = (Table(("$k$", "$t_k$", "$y_k$", "$log y_k$", "$t_k log y_k$"), rows, _total(sums[0])),)
    else:
        column = Matrix(sums[list(p.rows), None], (len(sums), 1), p.rows, (0,))
        shown = (
            p.equation("T∘log Y", each),
            Equation(("Σ_k T_nk log Y_nk =", column), shape_text((len(sums), 1))),
        )
    code = f"terms = {p.name('t')} * {p.safe_name}\nsums = terms.sum(axis=1)"
    values = {"terms": each, "sums": sums}
    return Step("terms", p.say_either("terms"), (p.say_either("terms", "_text"),), shown, code, values)


def result(p: Problem) -> Step:
    text, bits = [p.say_either("result", "_text")], p.losses / np.log(2)
    if np.isinf(p.losses).any():
        text.append(p.say("infinite"))
    if p.is_row:
        text.append(p.summary)
        code, values = "loss = -sums[0]\nbits = loss / np.log(2)", {"loss": p.losses[0], "bits": bits[0]}
        return Step("result", p.say("result_row"), tuple(text), (), code, values)
    picked = list(p.rows)
    rows = _with_gaps(p.rows, len(p.t), [numerals(p.losses[picked]), numerals(bits[picked])])
    total = (p.say("mean"), numeral(p.losses.mean()), numeral(bits.mean()))
    shown = Table(("$n$", p.say("nats"), p.say("bits")), rows, total)
    code = "losses = -sums\nbits = losses / np.log(2)\nmean = losses.mean()"
    values = {"losses": p.losses, "bits": bits, "mean": p.losses.mean()}
    return Step("result", p.say("result_batch"), tuple(text), (shown,), code, values)


def outer(p: Problem) -> Step:
    t, y, classes, picked = p.name("t"), p.name("y"), p.shape[1], list(p.columns)
    # Only what is shown is computed: K×K numbers of a large vocabulary would not fit into memory.
    cells = times(p.t[:, picked, None], p.log_y[:, None, picked]).sum(axis=0)
    part = "[:, shown]" if p.elided else ""
    code = f"outer = {t}{part}.T @ log_{y}{part}"
    if p.masked:
        tall = f"{t}{part}[:, :, None]"
        code = f"outer = ({tall} * np.where({tall} == 0, 0, log_{y}{part}[:, None, :])).sum(axis=0)"
    marked = frozenset((k, k) for k in picked) if p.is_row else frozenset()
    matrix = Matrix(cells, (classes, classes), p.columns, p.columns, marked, p.kept)
    shown = Equation((f"{t}ᵀ·log {y} =", matrix), shape_text((classes, classes)))
    return Step("outer", p.say("outer"), (p.say_either("outer", "_text"),), (shown,), code, {"outer": cells})


def _made(letter: str, values: Array, argument: str, p: Problem) -> str:
    """The line that makes an array: its numbers, or, where they are too many to read, what was passed."""
    name = "log_" + p.name("y") if letter == "log_y" else p.name(letter)
    if p.elided:
        return f"{name} = np.atleast_2d(np.asarray({argument}, dtype=float))"
    return literal(name, values)


def _with_gaps(
    places: tuple[int, ...], length: int, columns: list[list[str]]
) -> tuple[tuple[str, ...] | None, ...]:
    """Lines of a table, each under its place, None where places are left out."""
    lines = zip((str(place) for place in places), *columns, strict=True)
    return tuple(None if place is None else next(lines) for place in gaps(places, length))


def _total(value: float) -> tuple[str, ...]:
    return ("$Σ$", "", "", "", numeral(value))


def _off_one(p: Problem, values: Array, sentence: str) -> list[str]:
    """A remark on the first row whose entries do not sum to 1."""
    totals = values.sum(axis=1)
    # Predictions are often typed or stored with few digits: what sums to 1 within 1e-4 needs no remark.
    off = np.flatnonzero(np.abs(totals - 1) > 1e-4)
    if not len(off):
        return []
    return [p.say_either(sentence, row=int(off[0]), total=numeral(totals[off[0]]))]
