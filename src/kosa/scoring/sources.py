"""What may be scored (files, tables, arrays, iterables of batches), turned into batches of bounded size."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kosa.scoring import convert
from kosa.scoring.batch import Batch
from kosa.scoring.columns import Selection, Wanted, select
from kosa.scoring.errors import InputError, InputTypeError, Place, listing
from kosa.scoring.numpyfiles import ArrayTable, check_lengths
from kosa.scoring.readers import Columns, Reader, open_file, require_arrow, rows_per_batch, width

_ROLES = ("targets", "predictions", "weights", "ids")


def is_path(source: Any) -> bool:
    """Whether a source names a file."""
    return isinstance(source, str | os.PathLike)


def is_names(columns: Any) -> bool:
    """Whether prediction columns are named, rather than given as an array."""
    if isinstance(columns, str):
        return True
    return (
        isinstance(columns, list | tuple) and bool(columns) and all(isinstance(name, str) for name in columns)
    )


def table_readers(source: Any) -> list[Reader] | None:
    """Readers of a source that has named columns; None for any other source."""
    if is_path(source):
        source = [source]
    if isinstance(source, list | tuple) and source and all(is_path(path) for path in source):
        return [open_file(path) for path in source]
    if isinstance(source, Mapping):
        return [ArrayTable(source, "the mapping")]
    if hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__"):
        require_arrow(f"scoring a {type(source).__name__}")
        from kosa.scoring.arrowfiles import ArrowTable

        return [ArrowTable(source)]
    return None


def read_tables(readers: Sequence[Reader], wanted: Wanted, rows: int | None) -> Iterator[Batch]:
    """The rows of all files, one after another; every file must have the first one's columns."""
    selections = [select(wanted, reader.names, reader.name) for reader in readers]
    for reader, selection in zip(readers, selections, strict=True):
        if set(selection.all) != set(selections[0].all):
            odd = sorted(set(selection.all) ^ set(selections[0].all))
            raise InputError(
                f"{reader.name!r} and {readers[0].name!r} differ in these columns: {listing(odd)}"
            )
    size = sum(reader.size for reader in readers)
    before, first = 0, 0
    for reader in readers:
        # The first file's order of columns is the order of the classes.
        for batch in _read(reader, selections[0], rows, first):
            fraction = (before + batch.fraction * reader.size) / size if size else math.nan
            yield replace(batch, fraction=fraction)
            first = batch.first + len(batch.predictions)
        before += reader.size


def _read(reader: Reader, selection: Selection, rows: int | None, first: int) -> Iterator[Batch]:
    place = Place(reader.name)
    untyped = getattr(reader, "untyped", False)
    for columns, fraction in reader.chunks(selection, rows):
        count = check_lengths({name: len(column) for name, column in columns.items()}, reader.name)
        if not count:
            continue
        step = rows or rows_per_batch(width(columns, selection))
        for start in range(0, count, step):
            part = {name: column[start : start + step] for name, column in columns.items()}
            batch = _assemble(part, selection, place, untyped)
            yield replace(batch, first=first + place.first, fraction=fraction)
            place = place.after(len(batch.predictions))


def _assemble(columns: Columns, selection: Selection, place: Place, untyped: bool) -> Batch:
    """A batch from the columns of its roles."""

    def numbers(names: tuple[str, ...]) -> NDArray[Any]:
        if len(names) == 1:
            return convert.numbers(columns[names[0]], names[0], place)
        return convert.matrix([columns[name] for name in names], names, place)

    target = selection.target
    targets = (
        numbers(target) if len(target) > 1 else convert.labels(columns[target[0]], target[0], place, untyped)
    )
    weight = selection.weight
    return Batch(
        predictions=numbers(selection.predictions),
        targets=targets,
        weights=None if weight is None else convert.scalars(columns[weight], weight, place),
        ids=None if selection.id is None else columns[selection.id],
        place=place,
        first=0,
        carried=selection.classes,
    )


def read_arrays(
    targets: Any, predictions: Any, weights: Any, ids: Any, rows: int | None, kind: str, first: int = 0
) -> Iterator[Batch]:
    """Arrays in memory, a slice at a time; any leading axes are rows."""
    place = Place(first=first)
    array = _array(predictions, kind)
    labels = _array(targets, "targets")
    if array.ndim == 0:
        raise InputError(f"`{kind}`: expected one row per target, came a single number")
    soft = labels.shape == array.shape and array.ndim > 1
    if soft and labels.dtype.kind in "iub":
        raise InputTypeError(
            f"`targets` of the shape of `{kind}` are {labels.dtype.name}; one-hot targets must be floating: "
            "use .astype(float), or pass class indices"
        )
    if not soft and labels.shape not in (array.shape[:-1], array.shape):
        raise InputError(
            f"`targets` of shape {labels.shape} do not fit `{kind}` of shape {array.shape}; expected one "
            f"label a row, shape {array.shape[:-1]}, or distributions of the same shape"
        )
    if labels.shape != array.shape or soft:
        array = array.reshape(-1, array.shape[-1])
    labels = labels.reshape(array.shape if soft else -1)
    count = len(array)
    extras = {"weights": weights, "ids": ids}
    parts = {
        name: None if value is None else _array(value, name).reshape(-1) for name, value in extras.items()
    }
    check_lengths(
        {"targets": len(labels), kind: count}
        | {name: len(part) for name, part in parts.items() if part is not None},
        "the arrays",
    )
    step = rows or rows_per_batch(array.shape[1] if array.ndim > 1 else 1)
    for start in range(0, count, step):
        part = slice(start, start + step)
        place = Place(first=first + start)
        yield Batch(
            predictions=convert.numbers(array[part], kind, place),
            targets=convert.code(labels[part], place),
            weights=None
            if parts["weights"] is None
            else convert.numbers(parts["weights"][part], "weights", place),
            ids=None if parts["ids"] is None else parts["ids"][part],
            place=place,
            first=first + start,
            fraction=min(1.0, (start + step) / count),
        )


def read_batches(
    batches: Iterable[Any], kind: str, named: Mapping[str, str], rows: int | None
) -> Iterator[Batch]:
    """An iterable of (targets, predictions[, weights[, ids]]) tuples, or of dicts; `named` are keys by role."""
    first = 0
    keys = {"targets": "targets", "predictions": kind, "weights": "weights", "ids": "ids"} | dict(named)
    for number, item in enumerate(batches):
        if isinstance(item, Mapping):
            for role in dict.fromkeys(("targets", "predictions", *named)):
                if keys[role] not in item:
                    raise InputError(
                        f"batch {number} (from 0) has no key {keys[role]!r}; "
                        f"its keys are {listing([str(key) for key in item])}"
                    )
            parts = [item.get(keys[role]) for role in _ROLES]
        elif named:
            raise InputTypeError(
                f"batch {number} (from 0) is of type {type(item).__name__}; expected a dict with the key "
                f"{next(iter(named.values()))!r}"
            )
        elif isinstance(item, tuple | list) and 2 <= len(item) <= len(_ROLES):
            parts = [*item, *[None] * (len(_ROLES) - len(item))]
        else:
            raise InputTypeError(
                f"batch {number} (from 0) is of type {type(item).__name__}; expected a dict or a tuple "
                f"(targets, {kind}[, weights[, ids]])"
            )
        for batch in read_arrays(parts[0], parts[1], parts[2], parts[3], rows, kind, first):
            yield replace(batch, fraction=math.nan)
            first = batch.first + len(batch.predictions)


def _array(values: Any, name: str) -> NDArray[Any]:
    """As a NumPy array; what cannot be one is said."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            f"`{name}`: a {type(values).__name__} is no array that NumPy can read ({error}); convert it first"
        ) from error
