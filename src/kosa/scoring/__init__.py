"""Scoring of whole data sets: `kosa.score` and what it is made of."""

from kosa.scoring.errors import InputError
from kosa.scoring.result import ClassScore, Score, WorstRow
from kosa.scoring.run import score
from kosa.scoring.state import State

__all__ = ["ClassScore", "InputError", "Score", "State", "WorstRow", "score"]
