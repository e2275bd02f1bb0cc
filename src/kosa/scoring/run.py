"""`kosa.score`: the figures of a whole data set, streamed."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kosa.scoring.batch import Batch
from kosa.scoring.columns import Wanted
from kosa.scoring.errors import InputError, InputTypeError
from kosa.scoring.result import Score
from kosa.scoring.scorer import Scorer, Units, top_k_of
from kosa.scoring.sources import (
    is_names,
    is_path,
    read_arrays,
    read_batches,
    read_tables,
    selections,
    table_readers,
)


def score(
    source: Any,
    target: str | Sequence[str] | None = None,
    *,
    logits: Any = None,
    probs: Any = None,
    log_probs: Any = None,
    weight: Any = None,
    id: Any = None,
    classes: Sequence[str] | None = None,
    force: bool = False,
    worst: int = 5,
    batch_size: int | None = None,
    group: Any = None,
    per: Any = None,
    top_k: int | Sequence[int] | None = None,
    bins: int = 15,
    equal_mass: bool = False,
    confidence: float = 0.95,
    temperature: bool = False,
    progress: Callable[[int, float], object] | None = None,
) -> Score:
    """Cross-entropy and its companions over a data set, in one pass and bounded memory, computed in float64.

    Say what the predictions are: give exactly one of `logits`, `probs` and `log_probs`. The sums are exact,
    so the result is the same to the last bit for any batch size and split, and any order of the rows.

    Args:
        source: a path or a list of paths, together one data set (Parquet, Arrow IPC file or stream, Feather,
            CSV, JSON Lines, NPY, NPZ); or a table (pyarrow, pandas, polars; a dict of arrays); or the array
            of targets; or an iterable of batches, each a (targets, predictions[, weights[, ids]]) tuple or a
            dict.
        target: the column of labels; several columns, or a column of lists, are soft targets. For batches that
            are dicts: the key, by default "targets". Not for arrays.
        logits, probs, log_probs: for files and tables the prediction columns: a glob "z*", a list "a,b,c" (or
            of strings), or one column of lists. A single column of numbers is a binary prediction, for class
            1. For arrays: the (N, K) array, or (N,) for binary. For batches: True, or the key where they are
            dicts.
        weight: column, array or key (default "weights") of one weight a row, finite and not negative.
        id: column, array or key (default "ids") that names the worst rows; without it their number does.
        classes: the names of the classes in the order of the predictions; default: the columns' names less
            what they share, else 0..K−1. Integer labels are positions, unless `classes` are integers and so
            name them.
        force: score rows that do not look like what they are said to be, as they are.
        worst: how many of the worst rows to keep.
        batch_size: rows worked on at a time; default: two million predictions, 8 MiB of float32.
        group: column, array or key of one name a row (strings or integers). Each group gets its figures, and the
            confidence interval is over groups: rows of one group may depend on each other. They need not stand
            together.
        per: units to give the loss by, besides rows: a name ("tokens") where every row is one, or a mapping from
            names to a column, array or key of counts a row, or to the total number in the data set, as in
            {"words": "n_words", "bytes": 1_290_590}.
        top_k: one k or several: how often the target is among the k most probable classes.
        bins: of the reliability diagram and the calibration error; a divisor of 8,400 where they are of equal
            width.
        equal_mass: bins of about equal weight.
        confidence: of the interval of the cross-entropy.
        temperature: look for the temperature of least loss; takes about as long again as the rest.
        progress: called after each batch with the rows so far and the fraction of the bytes read (NaN:
            unknown).

    Returns:
        A `Score`; its docstring gives each figure's formula and denominator.

    Raises:
        ValueError: no rows; columns, shapes or options that do not fit; a null; a weight that is none; and,
            unless `force`: NaN, probabilities outside [0, 1] or not summing to 1 within √ε (float32: 3.5e-4),
            positive or unnormalised log-probabilities. Names file and row.
        TypeError: a column of a type that does not fit its role; not exactly one kind of predictions.
        IndexError: a label that is no class; names row and value.
        ModuleNotFoundError: pyarrow is missing and the source needs it.

    Example:
        >>> import kosa
        >>> result = kosa.score([1, 0], probs=[[0.2, 0.8], [0.5, 0.5]])
        >>> round(result.cross_entropy, 4), result.accuracy
        (0.4581, 1.0)
    """
    kind, predictions = _said(logits=logits, probs=probs, log_probs=log_probs)
    for name, value, least in (("worst", worst, 0), ("batch_size", batch_size, 1)):
        if value is not None and value < least:
            raise InputError(f"`{name}` is {value}, expected {least} or more")
    units = Units.of(per)
    scorer = Scorer(
        kind,
        classes,
        force=force,
        worst=worst,
        top_k=top_k_of(top_k),
        group=None if group is None else group if isinstance(group, str) else "group",
        per=tuple(units.counted),
        temperature=temperature,
    )
    roles = Roles(target, predictions, weight, id, group, units.counted)
    # Closing the source at an error lets go of its files.
    with closing(_batches(source, kind, roles, batch_size)) as batches:
        for batch in batches:
            scorer.update(batch)
            if progress is not None:
                progress(scorer.rows, batch.fraction)
    return scorer.result(confidence=confidence, bins=bins, equal_mass=equal_mass, totals=units.totals)


@dataclass(frozen=True)
class Roles:
    """What of the source is what: columns, keys or arrays."""

    target: Any
    predictions: Any
    weight: Any
    id: Any
    group: Any
    units: Mapping[str, Any]

    def named(self) -> dict[str, Any]:
        """What a user may name or leave out, as an error calls it."""
        units = {f"per {unit}": counts for unit, counts in self.units.items()}
        return {"weight": self.weight, "id": self.id, "group": self.group} | units


def _said(**kinds: Any) -> tuple[str, Any]:
    """The one kind of predictions that was given."""
    given = {kind: value for kind, value in kinds.items() if value is not None and value is not False}
    if len(given) != 1:
        came = ", ".join(f"`{kind}`" for kind in given) or "none"
        raise InputTypeError(f"expected exactly one of `logits`, `probs` and `log_probs`, came {came}")
    return next(iter(given.items()))


def _batches(source: Any, kind: str, roles: Roles, rows: int | None) -> Generator[Batch, None, None]:
    """The source's batches, by what it is."""
    target, predictions = roles.target, roles.predictions
    if predictions is not True and not is_names(predictions):
        if is_path(source):
            raise InputTypeError(f'`{kind}`: a file\'s prediction columns are named, as in {kind}="z*"')
        if target is not None:
            raise InputTypeError("`target` names a column; with arrays the first argument is the targets")
        yield from read_arrays(
            source,
            predictions,
            roles.weight,
            roles.id,
            rows,
            kind,
            group=roles.group,
            units=roles.units,
        )
        return
    for name, value in roles.named().items():
        if value is not None and not isinstance(value, str):
            raise InputTypeError(f"`{name}`: name a column or key; only arrays take an array")
    readers = table_readers(source)
    if readers is not None:
        if predictions is True:
            raise InputTypeError(f'`{kind}`: name the prediction columns, as in {kind}="z*"')
        if target is None:
            raise InputTypeError("`target`: name the column of the labels")
        per = tuple(roles.units.items())
        wanted = Wanted(kind, predictions, target, roles.weight, roles.id, roles.group, per)
        yield from read_tables(readers, selections(readers, wanted), rows)
        return
    if not isinstance(source, Iterable):
        raise InputTypeError(
            f"cannot score a source of type {type(source).__name__}; expected files, a table, arrays or batches"
        )
    keys = {"targets": target, "predictions": predictions, "weights": roles.weight, "ids": roles.id}
    keys |= {role: name for role, name in roles.named().items() if role not in ("weight", "id")}
    named = {role: name for role, name in keys.items() if name is not None and name is not True}
    for name in named.values():
        if not isinstance(name, str):
            raise InputTypeError(f"batches of dicts have one key for each array, and {name!r} is none")
    yield from read_batches(source, kind, named, rows)
