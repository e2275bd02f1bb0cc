"""Which columns are meant: a name, a list `a,b,c`, or a glob `z*`; and the class names that they carry."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from kosa.scoring.errors import InputError, listing

_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Wanted:
    """The columns as asked for, before a file has been seen; `kind` is logits, probs or log_probs."""

    kind: str
    predictions: str | Sequence[str]
    target: str | Sequence[str]
    weight: str | None = None
    id: str | None = None
    group: str | None = None
    per: tuple[tuple[str, str], ...] = ()  # unit and column


@dataclass(frozen=True)
class Selection:
    """The columns of one file, by role; `classes` are the names that the prediction columns carry, if any."""

    kind: str
    predictions: tuple[str, ...]
    target: tuple[str, ...]
    weight: str | None
    id: str | None
    classes: tuple[str, ...] | None
    group: str | None = None
    per: tuple[tuple[str, str], ...] = ()

    @property
    def numeric(self) -> tuple[str, ...]:
        """The columns that hold numbers whatever the file."""
        soft = self.target if len(self.target) > 1 else ()
        units = (column for _, column in self.per)
        return (*self.predictions, *soft, *((self.weight,) if self.weight else ()), *units)

    @property
    def text(self) -> tuple[str, ...]:
        """The columns that an untyped file must give as they are written."""
        hard = self.target if len(self.target) == 1 else ()
        return (*hard, *(name for name in (self.id, self.group) if name))

    def in_order_of(self, other: "Selection") -> "Selection":
        """The same columns, those of the predictions in the order of another file's classes, if these are the same."""
        if self.classes is None or other.classes is None or set(self.classes) != set(other.classes):
            return self
        columns = dict(zip(self.classes, self.predictions, strict=True))
        return replace(
            self, predictions=tuple(columns[name] for name in other.classes), classes=other.classes
        )

    @property
    def all(self) -> tuple[str, ...]:
        """Every column to read, each once."""
        return tuple(dict.fromkeys((*self.numeric, *self.text)))


def select(wanted: Wanted, names: Sequence[str], source: str) -> Selection:
    """Find the wanted columns among a file's names."""
    columns = {f"per {unit}": column for unit, column in wanted.per}
    roles = {
        "target": wanted.target,
        "weight": wanted.weight,
        "id": wanted.id,
        "group": wanted.group,
    } | columns
    # A glob such as `p*` must not swallow the other roles' own columns.
    taken = {name for spec in roles.values() if isinstance(spec, str) for name in names if name == spec}
    predictions = _find(wanted.predictions, names, taken, wanted.kind, source)
    target = _find(wanted.target, names, set(predictions), "target", source)
    single = {
        role: _find([spec], names, set(), role, source)[0]
        for role, spec in roles.items()
        if role != "target" and isinstance(spec, str)
    }
    shared = set(predictions) & {*target, single.get("weight")}
    if shared:
        raise InputError(
            f"{source!r}: column {listing(sorted(shared))} is asked for as prediction and as something else"
        )
    classes = class_names(wanted.predictions, predictions) if len(predictions) > 1 else None
    return Selection(
        wanted.kind,
        predictions,
        target,
        single.get("weight"),
        single.get("id"),
        classes,
        single.get("group"),
        wanted.per,
    )


def _split(spec: str | Sequence[str], names: Sequence[str]) -> list[str]:
    """The parts of a column list; a column's own name may hold commas and wildcards."""
    if not isinstance(spec, str):
        return list(spec)
    return [spec] if spec in names else [part.strip() for part in spec.split(",")]


def _find(
    spec: str | Sequence[str], names: Sequence[str], taken: set[str], role: str, source: str
) -> tuple[str, ...]:
    found: list[str] = []
    known = set(names)
    for part in _split(spec, names):
        if part in known:
            matches = [part]
        elif _WILD.search(part):
            matches = [name for name in names if fnmatchcase(name, part) and name not in taken]
        else:
            matches = []
        if not matches:
            raise InputError(
                f"{source!r} has no column {part!r} for `{role}`; its columns are {listing(list(names))}"
                if names
                else f"{source!r} has no columns"
            )
        found += matches
    there, asked = Counter(names), Counter(found)
    for name in found:
        if there[name] > 1 or asked[name] > 1:
            raise InputError(f"{source!r}: column {name!r} for `{role}` stands there more than once")
    return tuple(found)


def class_names(spec: str | Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """The columns' names less what they share: the `*` part of a glob, or what follows a common prefix."""
    names = tuple(columns)
    if isinstance(spec, str) and spec not in columns and "," not in spec and _WILD.search(spec):
        start = len(_WILD.split(spec)[0])
        end = len(re.split(r"[*?\]]", spec)[-1])
        names = tuple(column[start : len(column) - end] for column in columns)
    # `z*` leaves `_cat` of `z_cat`.
    start = _shared_prefix(names)
    names = tuple(name[start:] for name in names)
    return names if all(names) and len(set(names)) == len(names) else tuple(columns)


def _shared_prefix(columns: Sequence[str]) -> int:
    """Length of a common prefix that ends in a separator, or stands before nothing but numbers."""
    first, last = min(columns), max(columns)  # what these two share, all between them share
    prefix = first[: next((at for at, letter in enumerate(first) if last[at : at + 1] != letter), len(first))]
    # `p_cat, p_car` share `p_ca`, but only `p_` is a prefix; `z1, z12` share `z1`, but only `z` is.
    letters = prefix.rstrip("0123456789")
    if all(column[len(letters) :].isdecimal() for column in columns):
        return len(letters)
    return max((match.end() for match in re.finditer(r"[\W_]", prefix)), default=0)
