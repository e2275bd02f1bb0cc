"""Language models: tokens of which nothing but their own log-probability is known; how tokens lie in the data."""

import math
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from kosa.scoring.batch import Batch
from kosa.scoring.errors import InputError
from kosa.scoring.rows import Rows
from kosa.scoring.scores import Figures, Split

KIND = "token_log_probs"
CLASSES = ("token",)
S = TypeVar("S", bound=Figures)


@dataclass(frozen=True)
class Tokens:
    """How tokens lie in the data.

    documents: a row is a document, and its columns hold a list with an entry for each token; always so where
    the log-probabilities of tokens are lists.  padding: the target, or log-probability, of places that hold
    no token; NaN is NaN, None a null, and "" says that every place holds one.  mask: the column that is 0 (or
    false) at places that hold none.  force: take what is no log-probability for one.
    """

    documents: bool = False
    padding: float | str | None = ""
    mask: str | None = None
    force: bool = field(default=False, compare=False)

    @classmethod
    def of(
        cls, documents: bool, padding: str | float | None, mask: str | None, force: bool = False
    ) -> "Tokens":
        """From what the user said: `padding` is a number, "nan" or "null", or None for none."""
        if padding is None:
            return cls(documents, "", mask, force)
        if padding == "null":
            return cls(documents, None, mask, force)
        try:
            return cls(documents, float(padding), mask, force)
        except ValueError:
            raise InputError(f"`padding` is {padding!r}, expected a number, nan or null") from None

    @property
    def pads(self) -> bool:
        """Whether some places may hold no token."""
        return self.padding != "" or self.mask is not None


def evaluate_tokens(batch: Batch, clip: float) -> Rows:
    """Losses of tokens of which nothing but their own log-probability is known."""
    values = batch.predictions.astype(np.float64)
    count = len(values)
    loss = np.where(values == 0, 0.0, -values)
    return Rows(
        batch.first,
        loss,
        np.minimum(loss, -math.log(clip)),
        np.zeros(count, dtype=np.int64),
        np.full(count, -1, dtype=np.int64),
        np.full(count, np.nan),
    )


def without_predictions(score: S) -> S:
    """A score less the figures that need to know what was predicted: they would be of nothing."""
    nan = math.nan
    unknown = Split(score.cross_entropy, nan, nan, nan)
    return replace(
        score,
        accuracy=nan,
        brier=nan,
        prior_cross_entropy=nan,
        skill=nan,
        calibration_error=nan,
        bins=(),
        loss_split=unknown,
        confidence_split=replace(unknown, total=nan),
        confusions=(),
        confused_pairs=0,
        classes=(),
        groups=tuple(replace(entry, accuracy=nan) for entry in score.groups),
    )
