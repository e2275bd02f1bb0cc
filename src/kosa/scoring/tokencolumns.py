"""Columns of tokens: lists laid end to end, places that hold none, values that are no log-probability."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kosa.scoring import convert
from kosa.scoring.errors import InputError, Place
from kosa.scoring.kinds import FORCE, tolerance
from kosa.scoring.readers import Columns, rows_per_batch
from kosa.scoring.tokens import KIND

_MOST_TOKENS = 1 << 19  # in a batch: each takes some 50 bytes beside its predictions


def is_list(column: Any) -> bool:
    return column.ndim > 1 if isinstance(column, np.ndarray) else hasattr(column, "value_lengths")


def row_count(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def end_to_end(column: Any, count: int) -> tuple[Any, NDArray[np.int64]]:
    """The entries of all lists, and how many each list has; a null list has none."""
    if isinstance(column, np.ndarray):
        if column.ndim < 2:
            raise InputError(
                "`documents`: a column of tokens holds lists, one a document; this one holds numbers"
            )
        return column.reshape(-1, *column.shape[2:]), np.full(len(column), column.shape[1], dtype=np.int64)
    if not hasattr(column, "value_lengths"):
        raise InputError(
            f"`documents`: a column of tokens holds lists, one a document; this one holds {column.type}"
        )
    lengths = np.asarray(column.value_lengths().fill_null(0), dtype=np.int64)
    return column.flatten(), lengths[:count]


def documents_of(column: Any, rows: int | None) -> int:
    """How many documents like the longest of these make a batch: of so many tokens, or of the usual size."""
    longest = max(1, int(end_to_end(column, len(column))[1].max(initial=0)))
    if rows is not None:
        return max(1, rows // longest)
    return max(1, min(rows_per_batch(longest * _numbers_of_a_token(column)), _MOST_TOKENS // longest))


def _numbers_of_a_token(column: Any) -> int:
    """1, or the number of its predictions where a document is a list of lists."""
    if isinstance(column, np.ndarray):
        return int(math.prod(column.shape[2:]))
    tokens = column.flatten()
    if not hasattr(tokens, "value_lengths"):
        return 1
    return max(1, len(tokens[:1].flatten()))


def take(column: Any, index: NDArray[Any]) -> Any:
    return column[index] if isinstance(column, np.ndarray) else column.take(_arrow_array(index))


def _arrow_array(values: NDArray[Any]) -> Any:
    import pyarrow

    return pyarrow.array(values)


def to_first(values: NDArray[Any], starts: NDArray[Any], document: NDArray[Any]) -> NDArray[np.float64]:
    """Each document's number at its first token; a document without tokens counts nowhere."""
    found = np.zeros(len(document))
    there = np.unique(document)
    found[starts[there]] = values[there]
    return found


def holds(column: Any, padding: float | str | None) -> NDArray[np.bool_]:
    """Where a column has something else than padding."""
    if padding == "":
        return np.ones(len(column), dtype=bool)
    if is_list(column):
        raise InputError(
            "`padding` is a value of labels, and these targets are distributions; say by `mask` which places hold a token"
        )
    if isinstance(column, np.ndarray):
        if column.dtype.kind not in "biuf":
            values, codes = np.unique(column, return_inverse=True)
            return np.array([not _says(str(value), padding) for value in values], dtype=bool)[codes]
        if padding is None:
            return np.ones(len(column), dtype=bool)
        return ~np.isnan(column) if padding != padding else column != padding
    if padding is None:
        found: NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
        return found
    column = decoded(column)
    if _is_text(column.type):
        coded = column.dictionary_encode()
        # Of a null there is no code, and it is not this padding: it stays what it is.
        held = np.array([not _says(str(value), padding) for value in coded.dictionary.to_pylist()] + [True])
        there = coded.indices.fill_null(len(held) - 1).to_numpy(zero_copy_only=False)
        return np.asarray(held[there])
    values = column.to_numpy(zero_copy_only=False)
    # Nulls of integers become NaN here, and stay what they are: an error, for they are not this padding.
    held = ~np.isnan(values.astype(np.float64)) if padding != padding else values != padding
    return np.asarray(held | column.is_null().to_numpy(zero_copy_only=False))


def _says(text: str, padding: float | str | None) -> bool:
    """Whether a label, as a file of text has it, is the padding."""
    try:
        number = float(text)
    except ValueError:
        return False
    return number == padding or (number != number and padding != padding)


def decoded(column: Any) -> Any:
    """An Arrow column with its values in place, if they stand apart in a dictionary."""
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def filled(column: Any, name: str, place: Place, keep: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Numbers with 0 at the places that do not count, whatever stands there."""
    if keep is None:
        return numbers_of(column, name, place)
    return numbers_of(filled_targets(column, keep), name, place)


def filled_targets(column: Any, keep: NDArray[np.bool_]) -> Any:
    """Targets without nulls at the places that do not count, whose labels nobody reads; distributions as they are."""
    if isinstance(column, np.ndarray):
        return np.where(keep, column, column.dtype.type(0)) if column.dtype.kind in "biuf" else column
    column = decoded(column)
    if is_list(column):
        return column
    import pyarrow.compute as pc

    return pc.if_else(_arrow_array(keep), column, _zero(column.type))


def _zero(kind: Any) -> Any:
    import pyarrow as pa

    return pa.scalar("0" if _is_text(kind) else 0).cast(kind)


def numbers_of(column: Any, name: str, place: Place) -> NDArray[Any]:
    if isinstance(column, np.ndarray) and column.dtype.kind == "b":
        return column.astype(np.float64)
    if not isinstance(column, np.ndarray) and str(column.type) == "bool":
        column = column.cast("float64")
    return convert.scalars(column, name, place)


def check(
    values: NDArray[Any], keep: NDArray[np.bool_] | None, place: Place, document: NDArray[Any] | None
) -> None:
    """Refuse what is no log-probability; rounding may leave one a little above 0."""
    bad = ~(values <= tolerance(values.dtype))
    if keep is not None:
        bad &= keep
    if not bad.any():
        return
    at = int(np.argmax(bad))
    where, value = _where(at, place, document), float(values[at])
    if math.isnan(value):
        raise InputError(
            f"{where}: `{KIND}` hold NaN; where that marks padding, say so: `padding` nan.{FORCE}"
        )
    raise InputError(
        f"{where}: `{KIND}` hold {value:g}, but no log-probability is positive. Are these losses (then negate "
        f"them), probabilities or logits?{FORCE}"
    )


def refuse_null(column: Any, name: str, place: Place, document: NDArray[Any]) -> None:
    if not isinstance(column, np.ndarray) and column.null_count:
        at = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(
            f"{_where(at, place, document)}: column {name!r} is null; where that marks padding, say so: `padding` null"
        )


def _where(at: int, place: Place, document: NDArray[Any] | None) -> str:
    """How an error names a token; those of a document count from its first that is none of padding."""
    if document is None:
        return place.row(at)
    return f"token {at - int(np.argmax(document == document[at]))} of {place.row(int(document[at]))}"
