"""What comparing A with B, row by row, gives."""

from dataclasses import dataclass

from kosa.scoring.result import Score


@dataclass(frozen=True)
class PairScore:
    """The rows of one class of the target, or of one group, under A and under B.

    rows: how many of positive weight.  weight: Σw over them.  difference: Σ w·(loss of A − loss of B) / Σw over
    them, in nats; negative where A is better.  contribution: the same sum over the Σw of all rows: the
    contributions of all classes sum to the difference of all rows.  wins: share of their weight where A's loss
    is the lower.
    """

    name: str
    rows: int
    weight: float
    difference: float
    contribution: float
    wins: float


@dataclass(frozen=True)
class Comparison:
    """Predictions A against predictions B for the same rows: d = loss of A − loss of B, in nats.

    name: what B is called.  rows, weight: as of a Score; every share here is of that weight Σw.
    difference: Σ w·d / Σw; negative where A is better. A row to which both give probability 0 has d = 0.
    standard_error, low, high, confidence, interval_over, clusters: of the difference, as of a Score's
        cross-entropy: a paired comparison, whose error is that of the differences.
    wins, ties, losses: share of the weight where A's loss is lower than, equal to, higher than B's.
    classes, groups: where A wins and loses.  score: the figures of B alone.
    """

    name: str
    rows: int
    weight: float
    difference: float
    standard_error: float
    low: float
    high: float
    confidence: float
    interval_over: str
    clusters: int
    wins: float
    ties: float
    losses: float
    classes: tuple[PairScore, ...]
    groups: tuple[PairScore, ...]
    score: Score
