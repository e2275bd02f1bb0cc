"""Sums as the JSON values and arrays of a file, and back: nothing read is trusted."""

from typing import Any

import numpy as np

from kosa.scoring.coverage import Source
from kosa.scoring.exact import ExactSums
from kosa.scoring.groups import Groups
from kosa.scoring.pairs import Confusions
from kosa.scoring.sums import PARTS, Sums
from kosa.scoring.tables import Tally
from kosa.scoring.worst import Kept, Worst


def stored(sums: Sums) -> dict[str, Any]:
    """What `restore` reads."""
    parts: dict[str, Any] = {}
    for part in PARTS:
        value = getattr(sums, part)
        parts[part] = [row.stored() for row in value.rows] if isinstance(value, Worst) else value.stored()
    return {
        "setup": sums.setup.to_json(),
        "rows": sums.rows,
        "ranges": [list(pair) for pair in sums.ranges],
        "sources": [source.stored() for source in sums.sources],
        "notes": sums.notes,
        # Hexadecimal text is exact.
        "clips": [clip.hex() for clip in sorted(sums.clips)],
        # By number: a unit's name may be any.
        "units": {str(at): found.stored() for at, found in enumerate(sums.units)},
        "parts": parts,
    }


def restore(sums: Sums, values: dict[str, Any]) -> None:
    """Fill empty sums with what was stored; ValueError, TypeError or LookupError where it does not fit together."""
    rows, notes = values["rows"], values["notes"]
    if type(rows) is not int or not isinstance(notes, dict):
        raise ValueError("no count of rows")
    sums.rows, sums.notes = rows, notes
    sums.see(values["ranges"])
    if sum(end - start for start, end in sums.ranges) != rows:
        raise ValueError("more or fewer rows than their numbers say")
    sums.sources = tuple(Source.restored(source) for source in values["sources"])
    sums.clips = frozenset(float.fromhex(clip) for clip in values["clips"])
    if not all(0.0 < clip < 1.0 for clip in sums.clips):
        raise ValueError("clips that are no probabilities")
    setup = sums.setup
    for part, value in values["parts"].items():
        if part not in PARTS:
            raise ValueError("a part that there is not")
        setattr(
            sums, part, _part(getattr(sums, part), value, setup.weighted, len(setup.classes), setup.worst)
        )
    if set(values["parts"]) != set(PARTS) or len(values["units"]) != len(setup.per):
        raise ValueError("a part that is missing")
    sums.units = [ExactSums.restored(values["units"][str(at)], 1) for at in range(len(setup.per))]
    _check_rows(sums)
    for squares in (sums.square, sums.weight_square):
        if squares.signs()[0] < 0 or squares.special() == -np.inf:
            raise ValueError("squares whose sum is negative")


def _check_rows(sums: Sums) -> None:
    """Every row that counts stands once in each table that there is."""
    counted = int(sums.classes.rows.sum())
    tables = [sums.losses, sums.confidences]
    tables += [sums.ranks] if sums.setup.top_k else []
    tables += [sums.groups.sums().rows] if sums.setup.group is not None else []
    if counted > sums.rows or (sums.correct.rows > sums.classes.rows).any():
        raise ValueError("more rows than there are")
    if any(int(table.rows.sum()) != counted for table in tables):
        raise ValueError("tables of other rows")


def _part(empty: Any, values: Any, weighted: bool, classes: int, worst: int) -> Any:
    """One part, which must be of the size that an empty one has."""
    if isinstance(empty, Worst):
        if len(values) > worst:
            raise ValueError("more of the worst rows than are kept")
        empty.rows = [Kept.restored(row, classes) for row in values]
        return empty
    if isinstance(empty, Groups):
        return Groups.restored(values, weighted)
    if isinstance(empty, Confusions):
        return Confusions.restored(values, classes, weighted)
    if isinstance(empty, Tally):
        return Tally.restored(values, len(empty.rows), weighted)
    return ExactSums.restored(values, empty.groups)
