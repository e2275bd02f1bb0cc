"""`explain`: checks the input, has the steps made, and holds what can be printed, shown or written."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kosa.explanation import dot
from kosa.explanation import html as html_page
from kosa.explanation import text as text_page
from kosa.explanation.parts import Array, Page, Step, numeral
from kosa.explanation.problem import Kind, Problem
from kosa.explanation.steps import steps
from kosa.explanation.words import LANGS, Lang, say


class _Shown:
    """What explanations have in common: steps, and three ways to look at them."""

    steps: tuple[Step, ...]
    _page: Callable[[Lang], Page]
    _lang: Lang

    def to_text(self, *, width: int = 88, encoding: str = "utf-8") -> str:
        """Plain text of signs that `encoding` has. The lines at the left margin are NumPy."""
        page = self._page(self._lang)
        if self._lang == "ja" and not text_page.encodable(page.heading, encoding):
            return f"{text_page.ENGLISH_ONLY}\n\n{text_page.render(self._page('en'), width, encoding)}"
        return text_page.render(page, width, encoding)

    def to_html(self) -> str:
        """One HTML file that needs nothing else: MathML, no script, light or dark as the system is."""
        return html_page.document(self._page(self._lang))

    def __str__(self) -> str:
        return self.to_text(encoding=getattr(sys.stdout, "encoding", None) or "utf-8")

    def _repr_html_(self) -> str:
        return html_page.fragment(self._page(self._lang))

    def _steps_as_dicts(self) -> list[dict[str, Any]]:
        return [
            {
                "name": step.name,
                "title": step.title.replace("$", ""),
                "text": [line.replace("$", "") for line in (*step.text, *step.notes)],
                "code": step.code,
                "values": {name: _jsonable(value) for name, value in step.values.items()},
            }
            for step in self.steps
        ]


@dataclass(frozen=True, repr=False)
class Explanation(_Shown):
    """Cross-entropy step by step, in nats: `losses` of each row, and `loss`, their mean."""

    steps: tuple[Step, ...]
    loss: float
    losses: Array
    _page: Callable[[Lang], Page]
    _lang: Lang

    def __repr__(self) -> str:
        return f"<kosa.Explanation: {len(self.steps)} steps, {numeral(self.loss)} nats>"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: rows, cross_entropy (nats), bits, perplexity, losses, each step with its values."""
        return {
            "rows": len(self.losses),
            "cross_entropy": _jsonable(self.loss),
            "bits": _jsonable(self.loss / math.log(2)),
            "perplexity": _jsonable(math.exp(self.loss) if self.loss < 709 else math.inf),
            "losses": _jsonable(self.losses),
            "lang": self._lang,
            "steps": self._steps_as_dicts(),
        }


@dataclass(frozen=True, repr=False)
class ProductExplanation(_Shown):
    """A matrix product cell by cell."""

    steps: tuple[Step, ...]
    product: Array
    _page: Callable[[Lang], Page]
    _lang: Lang

    def __repr__(self) -> str:
        return f"<kosa.ProductExplanation: {self.product.shape[0]}×{self.product.shape[1]}>"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the product and each step with its values and code."""
        return {"product": _jsonable(self.product), "lang": self._lang, "steps": self._steps_as_dicts()}


def explain(
    targets: ArrayLike,
    *,
    probs: ArrayLike | None = None,
    logits: ArrayLike | None = None,
    log_probs: ArrayLike | None = None,
    lang: Lang = "en",
) -> Explanation:
    """Show how the cross-entropy E = −t·(log y)ᵀ of one row, or of a small batch, comes about.

    Args:
        targets: class indices (an integer for one row, N of them for a batch), or the distributions
            themselves: K numbers, or N×K. One-hot rows may be integers here.
        probs, logits, log_probs: the predictions, exactly one of them: K numbers, or N×K for a batch.
        lang: "en" or "ja".

    Returns:
        An Explanation with `steps`, `loss` (nats, the mean of a batch), `losses`, `to_text()`, `to_html()`
        and `to_dict()`. `print` shows the text, a notebook the HTML. Of more than 12 classes or 8 rows, the
        ends and the ones that matter most are shown.

    Raises:
        ValueError: shapes that do not fit; predictions or targets that are no probabilities or no numbers.
        TypeError: class indices that are not integers.
        IndexError: a class index outside 0..K−1.

    >>> import kosa
    >>> kosa.explain([0, 1, 0], probs=[0.2, 0.7, 0.1])
    <kosa.Explanation: 9 steps, 0.356675 nats>
    """
    _check_lang(lang)
    kind, given = _given(probs, logits, log_probs)
    if given.ndim not in (1, 2) or given.size == 0:
        raise ValueError(f"`{kind}` must be K numbers, or N×K for a batch, but has shape {given.shape}.")
    rows = np.atleast_2d(given)
    t, index = _targets(targets, given, kind)
    _check_values(rows, kind)

    def page(wanted: Lang) -> Page:
        problem = Problem(t, rows, kind, index, wanted)
        return Page(
            lang=wanted,
            heading=say(wanted, "heading"),
            lead=problem.say_either("lead"),
            copying=say(wanted, "copying"),
            copying_html=say(wanted, "copying_html"),
            summary=(problem.summary,),
            steps=steps(problem),
        )

    losses = Problem(t, rows, kind, index, lang).losses
    return Explanation(page(lang).steps, float(losses.mean()), losses, page, lang)


def explain_product(left: ArrayLike, right: ArrayLike, *, lang: Lang = "en") -> ProductExplanation:
    """Show the matrix product of `left` (m×n) and `right` (n×l) cell by cell; ValueError if there is none."""
    _check_lang(lang)
    a, b = _matrix(left, "left"), _matrix(right, "right")
    why_not = dot.misfit(a, b, lang)
    if why_not is not None:
        raise ValueError(why_not)

    def page(wanted: Lang) -> Page:
        return Page(
            lang=wanted,
            heading=say(wanted, "dot_heading"),
            lead=say(wanted, "dot_lead"),
            copying=say(wanted, "copying"),
            copying_html=say(wanted, "copying_html"),
            summary=(),
            steps=dot.steps(a, b, wanted),
        )

    made = page(lang).steps
    return ProductExplanation(made, np.asarray(made[-1].values["product"]), page, lang)


def _check_lang(lang: str) -> None:
    if lang not in LANGS:
        raise ValueError(f"`lang` must be 'en' or 'ja', not {lang!r}.")


def _numbers(values: ArrayLike, name: str) -> Array:
    """`values` as float64. A copy: pages are made when they are asked for."""
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(f"`{name}` must be numbers, in rows of one length: {error}") from None


def _matrix(values: ArrayLike, name: str) -> Array:
    """A matrix of finite numbers; a vector is a row."""
    matrix = np.atleast_2d(_numbers(values, name))
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"`{name}` must be a vector or a matrix, but has shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise ValueError(f"`{name}` must be finite numbers, but holds {matrix[~np.isfinite(matrix)][0]}.")
    return matrix


def _given(
    probs: ArrayLike | None, logits: ArrayLike | None, log_probs: ArrayLike | None
) -> tuple[Kind, Array]:
    """The predictions and what they are."""
    kinds: dict[Kind, ArrayLike | None] = {"probs": probs, "logits": logits, "log_probs": log_probs}
    passed = [(kind, values) for kind, values in kinds.items() if values is not None]
    if len(passed) != 1:
        raise ValueError(f"Pass exactly one of `probs`, `logits` and `log_probs`, not {len(passed)}.")
    kind, values = passed[0]
    return kind, _numbers(values, kind)


def _targets(targets: ArrayLike, predictions: Array, kind: str) -> tuple[Array, tuple[int, ...] | None]:
    """Targets as N×K rows, and the class indices if that is what they were."""
    try:
        given = np.asarray(targets)
    except ValueError as error:
        raise ValueError(f"`targets` must be in rows of one length: {error}") from None
    classes = predictions.shape[-1]
    rows = np.atleast_2d(predictions).shape
    if given.shape == predictions.shape or (
        given.ndim in (1, 2) and np.atleast_2d(given).shape == rows and classes > 1
    ):
        t = np.atleast_2d(_numbers(given, "targets"))
        bad = np.argwhere(~((t >= 0) & np.isfinite(t)))
        if len(bad):
            n, k = bad[0]
            raise ValueError(
                f"`targets` must be finite and not negative, but row {n}, class {k} is {t[n, k]}."
            )
        return t, None
    if given.shape not in (predictions.shape[:-1], rows[:1]):
        raise ValueError(
            f"`targets` has shape {given.shape} and `{kind}` {predictions.shape}: pass one number for each "
            f"prediction, or one class index for each row."
        )
    if given.dtype.kind not in "iu":
        raise TypeError(f"`targets` of one number a row are class indices: integers, not {given.dtype}.")
    index = np.atleast_1d(given)
    outside = np.flatnonzero((index < 0) | (index >= classes))
    if len(outside):
        n = outside[0]
        raise IndexError(f"`targets` must be class indices 0 to {classes - 1}, but row {n} is {index[n]}.")
    one_hot = (np.arange(classes) == index[:, None]).astype(np.float64)
    return one_hot, tuple(int(k) for k in index)


def _check_values(rows: Array, kind: Kind) -> None:
    """Refuse predictions of which there is nothing to explain."""
    wrong = np.isnan(rows) | (rows == np.inf)
    if kind == "probs":
        wrong |= rows < 0
    if wrong.any():
        n, k = np.argwhere(wrong)[0]
        expected = "finite and not negative" if kind == "probs" else "numbers below infinity"
        message = f"`{kind}` must be {expected}, but row {n}, class {k} is {rows[n, k]}."
        if kind == "probs" and np.isfinite(rows).all():
            message += " Logits are passed as `logits`, log-probabilities as `log_probs`."
        raise ValueError(message)
    if kind == "logits" and np.isneginf(rows).all(axis=1).any():
        raise ValueError("`logits` has a row that is -inf throughout: there is no class left to predict.")


def _jsonable(value: object) -> Any:
    """What JSON has. It has no infinity: "inf" and "-inf" stand for it, and `float` reads them back."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
