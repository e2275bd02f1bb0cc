"""Scoring of whole data sets: `kosa.score` and what it is made of."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kosa.scoring.errors import InputError as InputError
    from kosa.scoring.pairstate import PairState as PairState
    from kosa.scoring.result import Score as Score
    from kosa.scoring.rows import Rows as Rows
    from kosa.scoring.run import score as score
    from kosa.scoring.setup import Setup as Setup
    from kosa.scoring.state import State as State

_HOMES = {
    "Bin": "scores",
    "ClassScore": "scores",
    "ConfusionScore": "scores",
    "GroupScore": "scores",
    "InputError": "errors",
    "LossBin": "scores",
    "PairState": "pairstate",
    "Rows": "rows",
    "Score": "result",
    "Setup": "setup",
    "Split": "scores",
    "State": "state",
    "TemperatureScore": "scores",
    "TopScore": "scores",
    "UnitScore": "scores",
    "WorstRow": "scores",
    "score": "run",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name where it lives, on first use: merging states needs no engine."""
    if name in _HOMES:
        value = getattr(import_module(f"kosa.scoring.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'kosa.scoring' has no attribute {name!r}")
