"""What a state is a state of: whatever two states must agree on before they merge."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from kosa.scoring.errors import InputError

_KINDS = ("logits", "probs", "log_probs", "token_log_probs")
_MOST = 1 << 62  # as of rows


@dataclass(frozen=True)
class Setup:
    """The data and the choices that a state is of; only states of equal setups merge.

    classes: the names of the classes in order.  predictions: logits, probs or log_probs.  weighted: whether
    rows have weights.  worst: how many of
    the worst rows are kept.  top_k: the k of the top-k accuracies.  group: the name of the column of groups.
    per: the units of perplexity that a column counts.  temperature: whether the sums for the best temperature
    are kept.
    """

    classes: tuple[str, ...]
    predictions: str
    weighted: bool = False
    worst: int = 5
    top_k: tuple[int, ...] = ()
    group: str | None = None
    per: tuple[str, ...] = ()
    temperature: bool = False

    def __post_init__(self) -> None:
        for name, number in (("worst", self.worst), ("top_k", max(self.top_k, default=0))):
            if number >= _MOST:
                raise InputError(f"`{name}` is {number}, expected less than 2^62")

    def require_equal(self, other: "Setup") -> None:
        """Refuse to merge what is of different data, naming the differences."""
        differing = [
            field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)
        ]
        if not differing:
            return
        shown = [
            f"`{name}` is {_short(getattr(self, name))} here and {_short(getattr(other, name))} there"
            for name in differing
        ]
        raise InputError(f"states of different data do not merge: {'; '.join(shown)}")

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Setup":
        """Read back; TypeError or ValueError where a value is not of its type."""
        found = dict(stored)
        for name, item in (("classes", str), ("top_k", int), ("per", str)):
            values = found[name]
            if not isinstance(values, list) or not all(type(value) is item for value in values):
                raise ValueError(f"{name} is no list of {item.__name__}")
            found[name] = tuple(values)
        setup = cls(**found)
        plain = {
            "predictions": str,
            "weighted": bool,
            "worst": int,
            "temperature": bool,
        }
        for name, kind in plain.items():
            if type(getattr(setup, name)) is not kind:
                raise ValueError(f"{name} is no {kind.__name__}")
        if not setup.classes or not isinstance(setup.group, str | None) or setup.worst < 0:
            raise ValueError("no setup of a state")
        if setup.predictions not in _KINDS or len(set(setup.classes)) < len(setup.classes):
            raise ValueError("no setup of a state")
        if setup.top_k != tuple(sorted({k for k in setup.top_k if k > 0})):
            raise ValueError("no setup of a state")
        return setup


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
