"""Scoring of whole data sets: `kosa.score` and what it is made of."""

from kosa.scoring.errors import InputError
from kosa.scoring.result import (
    Bin,
    ClassScore,
    ConfusionScore,
    GroupScore,
    LossBin,
    Score,
    Split,
    TemperatureScore,
    TopScore,
    UnitScore,
    WorstRow,
)
from kosa.scoring.rows import Rows
from kosa.scoring.run import score
from kosa.scoring.setup import Setup
from kosa.scoring.state import State

__all__ = [
    "Bin",
    "ClassScore",
    "ConfusionScore",
    "GroupScore",
    "InputError",
    "LossBin",
    "Rows",
    "Score",
    "Setup",
    "Split",
    "State",
    "TemperatureScore",
    "TopScore",
    "UnitScore",
    "WorstRow",
    "score",
]
