"""What may be scored (files, tables, arrays, iterables of batches), turned into batches of bounded size."""

import math
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kosa.scoring import convert
from kosa.scoring.ahead import ahead
from kosa.scoring.batch import Batch, Documents
from kosa.scoring.columns import Selection, Wanted, select
from kosa.scoring.errors import InputError, InputTypeError, Place, listing
from kosa.scoring.files import open_files
from kosa.scoring.numpyfiles import ArrayTable, check_lengths
from kosa.scoring.readers import Columns, Reader, require_arrow, rows_per_batch, width

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
        return open_files(source)
    if isinstance(source, Mapping):
        return [ArrayTable(source, "the mapping")]
    if type(source).__module__.startswith("pyarrow") and hasattr(source, "scanner"):
        from kosa.scoring.arrowfiles import ArrowDataset

        return [ArrowDataset(source)]
    if hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__"):
        require_arrow(f"scoring a {type(source).__name__}")
        from kosa.scoring.arrowfiles import ArrowTable

        return [ArrowTable(source)]
    return None


def selections(readers: Sequence[Reader], wanted: Wanted) -> Selection:
    """The columns to read, in the first file's order, which is the order of the classes; every file must have them."""
    found = [select(wanted, reader.names, reader.name) for reader in readers]
    for reader, selection in zip(readers, found, strict=True):
        if set(selection.all) != set(found[0].all):
            odd = sorted(set(selection.all) ^ set(found[0].all))
            raise InputError(
                f"{reader.name!r} and {readers[0].name!r} differ in these columns: {listing(odd)}"
            )
    return found[0]


@dataclass(frozen=True)
class Tables:
    """Files or tables with the columns to read of each; `rows` of a batch, if the user says."""

    readers: Sequence[Reader]
    selection: Selection
    rows: int | None

    @property
    def in_pieces(self) -> bool:
        """Whether some of them need not be read from the start."""
        return any(hasattr(reader, "pieces") for reader in self.readers)


def read_rows(
    reader: Reader, selection: Selection, rows: int | None, start: int = 0, stop: int | None = None
) -> Generator[Batch, None, None]:
    """Rows start..stop−1 of one file, numbered from 0, with the next ones read ahead. Of a file of documents start
    and stop are documents, and rows are tokens.

    Batches without rows only say how far the file has been read: of one that can only be read from its start, or of
    documents without tokens.
    """
    anywhere = hasattr(reader, "pieces") or getattr(reader, "skips", False)
    untyped = getattr(reader, "untyped", False)
    read, first = start if anywhere else 0, 0
    place: Place
    chunks = reader.chunks(selection, rows, start, stop) if anywhere else reader.chunks(selection, rows)  # type: ignore[call-arg]
    with closing(ahead(chunks)) as ahead_chunks:
        for columns, fraction in ahead_chunks:
            count = check_lengths({name: len(column) for name, column in columns.items()}, reader.name)
            if isinstance(columns, Documents):
                place, begin, end, after = columns.place, 0, count, read + columns.count
            else:
                begin = min(count, max(0, start - read))
                end = count if stop is None else min(count, max(begin, stop - read))
                place, after = Place(reader.name, read + begin), read + count
            if end == begin:
                yield _nothing(place, first, fraction, after)
            step = rows or rows_per_batch(width(columns, selection)) if end > begin else 1
            for at in range(begin, end, step):
                last = min(at + step, end)
                whole = at == 0 and last == count
                part = columns if whole else {name: column[at:last] for name, column in columns.items()}
                batch = _assemble(part, selection, place, untyped)
                inner = None if isinstance(columns, Documents) else read + last
                done = after if last == count else inner
                yield replace(batch, first=first, fraction=fraction, read=done, reach=inner or after)
                place, first = place.after(last - at), first + last - at
            read = after
            if stop is not None and read >= stop:
                return


def _nothing(place: Place, first: int, fraction: float, read: int) -> Batch:
    """A batch without rows."""
    none = np.empty(0, dtype=np.int64)
    return Batch(none, none, None, None, place, first, fraction=fraction, read=read, reach=read)


def _assemble(
    columns: Columns,
    selection: Selection,
    place: Place,
    untyped: bool,
) -> Batch:
    """A batch from the columns of its roles."""

    def numbers(names: tuple[str, ...]) -> NDArray[Any]:
        if len(names) == 1:
            return convert.numbers(columns[names[0]], names[0], place)
        apart = convert.matrix([columns[name] for name in names], names, place)
        return cast("NDArray[Any]", apart)  # all that is done with predictions it does too

    target = selection.target
    targets = (
        np.asarray(numbers(target))
        if len(target) > 1
        else convert.labels(columns[target[0]], target[0], place, untyped)
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
        group=None
        if selection.group is None
        else convert.labels(columns[selection.group], selection.group, place),
        units={unit: convert.counts(columns[column], unit, place) for unit, column in selection.per},
    )


def read_arrays(
    targets: Any,
    predictions: Any,
    weights: Any,
    ids: Any,
    rows: int | None,
    kind: str,
    first: int = 0,
    group: Any = None,
    units: Mapping[str, Any] | None = None,
) -> Generator[Batch, None, None]:
    """Arrays in memory, a slice at a time; any leading axes are rows."""
    place = Place(first=first)
    array = convert.array(predictions, kind)
    labels = convert.array(targets, "targets")
    if array.ndim == 0:
        raise InputError(f"`{kind}`: expected one row per target, came a single number")
    if array.ndim > 1 and not array.shape[-1]:
        raise InputError(f"`{kind}` of shape {array.shape} have no classes; expected one column a class")
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
    extras = {"weights": weights, "ids": ids, "group": group}
    extras |= {f"per {unit}": counts for unit, counts in (units or {}).items()}
    parts = {
        name: None if value is None else convert.array(value, name).reshape(-1)
        for name, value in extras.items()
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
            group=None if parts["group"] is None else convert.code(parts["group"][part], place),
            units={
                name.removeprefix("per "): convert.numbers(counts[part], name, place)
                for name, counts in parts.items()
                if name.startswith("per ") and counts is not None
            },
            place=place,
            first=first + start,
            fraction=min(1.0, (start + step) / count),
        )


def read_batches(
    batches: Iterable[Any], kind: str, named: Mapping[str, str], rows: int | None
) -> Generator[Batch, None, None]:
    """An iterable of (targets, predictions[, weights[, ids]]) tuples, or of dicts; `named` are keys by role.

    The roles are targets, predictions, weights, ids, group, and `per UNIT` for counts of a unit.
    """
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
        more = {role: item[name] for role, name in named.items() if role not in _ROLES}
        group = more.pop("group", None)
        units = {role.removeprefix("per "): counts for role, counts in more.items()}
        for batch in read_arrays(parts[0], parts[1], parts[2], parts[3], rows, kind, first, group, units):
            yield replace(batch, fraction=math.nan)
            first = batch.first + len(batch.predictions)
