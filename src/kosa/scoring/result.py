"""The figures of a data set, and the ways to show them."""

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class ClassScore:
    """The rows whose target is one class (of a soft target: the most probable class).

    rows: how many of positive weight.  weight: Σw over them.  cross_entropy: Σ w·loss / Σw and accuracy:
    Σ w·[predicted = target] / Σw over them; NaN where Σw is 0.
    """

    name: str
    rows: int
    weight: float
    cross_entropy: float
    accuracy: float


@dataclass(frozen=True)
class WorstRow:
    """A row of large loss: `row` counts from 0 over all files; `id` is the id column's value, else `row`."""

    row: int
    id: int | str | None
    label: str
    loss: float
    predicted: str | None
    probability: float


@dataclass(frozen=True)
class Score:
    """The figures of a data set of predictions. n = rows, w = a row's weight (1 without weights), unit nats.

    rows: all rows read; those of weight 0 count here and nowhere else.
    cross_entropy: Σ w·loss / Σw, exact: infinite if one target has probability 0.
    bits: cross_entropy / log 2, over the same Σw.
    perplexity: exp(cross_entropy); infinite where that overflows float64.
    log_perplexity: its logarithm, which never does: cross_entropy.
    standard_error: of the mean loss m: √( n/(n−1) · Σ w²(loss − m)² ) / Σw over the n rows with w > 0, the
        linearised error of a ratio of sums; s/√n without weights. NaN for fewer than two rows or an infinite
        loss.
    weight: Σw.
    accuracy: Σ w·[most probable class = target's] / Σw; the first of equally probable classes counts.
    target_entropy: Σ w·(−Σ_k t_k log t_k) / Σw: what the best possible predictions would score; 0 for labels.
    kl_divergence: cross_entropy − target_entropy, over the same Σw.
    prior_cross_entropy: what predicting this data set's own class frequencies q for every row would score:
        Σ w·(−Σ_k t_k log q_k) / Σw, with q_k = Σ w·t_k / ΣΣ w·t_j.
    skill: 1 − cross_entropy / prior_cross_entropy: 0 is no better than the frequencies, 1 is perfect; NaN
        where the data set has one class only.
    zero_probability_rows: rows of infinite loss: probability 0 at (a class of) the target.
    clip, clip_name: the clip: the machine epsilon of the predictions' float type (float32's for narrower
        ones).
    clipped_cross_entropy: Σ w·loss / Σw with each probability below the clip raised to it, as scikit-learn's
        log_loss does; finite where the exact figure is not.
    predictions: what they were said to be: logits, probs or log_probs.
    classes: one entry per class.  worst: the rows of largest loss, worst first.
    """

    rows: int
    cross_entropy: float
    bits: float
    perplexity: float
    log_perplexity: float
    standard_error: float
    weight: float
    accuracy: float
    target_entropy: float
    kl_divergence: float
    prior_cross_entropy: float
    skill: float
    zero_probability_rows: int
    clip: float
    clip_name: str
    clipped_cross_entropy: float
    predictions: str
    classes: tuple[ClassScore, ...]
    worst: tuple[WorstRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """The figures in the order above, ready for JSON: strings "inf", "-inf" and "nan" for such."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def to_json(self, *, ascii_only: bool = False) -> str:
        """`to_dict` as JSON text, valid for any parser; `float("inf")` reads its strings back."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=ascii_only, allow_nan=False)

    def __str__(self) -> str:
        from kosa.scoring.table import text

        return text(self)

    def __rich__(self) -> Any:
        from kosa.scoring.table import rich_view

        return rich_view(self)

    def _repr_html_(self) -> str:
        from kosa.scoring.table import html

        return html(self)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [{name: _plain(item) for name, item in asdict(entry).items()} for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
