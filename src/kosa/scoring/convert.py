"""Columns of a file, as Arrow or NumPy arrays, to the NumPy arrays that are scored."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kosa.scoring.classes import Coded
from kosa.scoring.errors import InputError, InputTypeError, Place


def array(values: Any, name: str) -> NDArray[Any]:
    """As a NumPy array; what cannot be one is said."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        # NumPy has no bfloat16; float32 holds all its values.
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            f"`{name}`: a {type(values).__name__} is no array that NumPy can read ({error}); convert it first"
        ) from error


def numbers(column: Any, name: str, place: Place) -> NDArray[Any]:
    """A column of numbers as (N,), of lists as (N, K); floats keep their width, integers become float64."""
    values = column if isinstance(column, np.ndarray) else _from_arrow(column, name, place)
    if values.dtype.kind == "V" and values.dtype.name == "bfloat16":
        return values
    if values.dtype.kind in "iu":
        return values.astype(np.float64)
    if values.dtype.kind != "f":
        raise InputTypeError(f"{place.name}: column {name!r} holds {values.dtype.name}, expected numbers")
    if values.dtype.itemsize > 8:
        raise InputTypeError(f"{place.name}: column {name!r} holds {values.dtype.name}; cast it to float64")
    if values.ndim > 2:
        raise InputError(f"{place.name}: column {name!r} has {values.ndim} axes, expected 1 or 2")
    return values


def scalars(column: Any, name: str, place: Place) -> NDArray[Any]:
    """A column of numbers, not of lists, as (N,)."""
    values = numbers(column, name, place)
    if values.ndim != 1:
        raise InputError(f"{place.name}: column {name!r} holds lists, expected one number a row")
    return values


class Apart:
    """K columns of N numbers, each where it was read, as an (N, K) array.

    Kernels read them in place, for the copy took a sixth of a run's time. Everything else makes an array of them.
    """

    ndim = 2

    def __init__(self, columns: Sequence[NDArray[Any]]) -> None:
        self.columns = columns
        self.dtype = columns[0].dtype
        self.shape = (len(columns[0]), len(columns))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        return np.stack([column[rows] for column in self.columns], axis=-1)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        # Column after column, and not row after row: that took six times as long.
        return np.asarray(np.stack(self.columns).T, dtype)

    def __lt__(self, other: Any) -> NDArray[np.bool_]:
        low: NDArray[np.bool_] = np.asarray(self) < other
        return low

    def astype(self, dtype: Any) -> NDArray[Any]:
        """An array of another type."""
        return np.asarray(self).astype(dtype)

    def min(self, initial: float) -> float:
        """The smallest number of all."""
        return min(float(column.min(initial=initial)) for column in self.columns)


def matrix(columns: Sequence[Any], names: Sequence[str], place: Place) -> Apart:
    """K columns of numbers of one type as an (N, K) array."""
    parts = [scalars(column, name, place) for column, name in zip(columns, names, strict=True)]
    kind = np.result_type(*{part.dtype for part in parts})
    return Apart([part.astype(kind, copy=False) for part in parts])


def counts(column: Any, unit: str, place: Place) -> NDArray[Any]:
    """A column of counts as (N,); a column of text is counted: its `bytes` in UTF-8, or its `characters`."""
    if hasattr(column, "dictionary_decode"):
        column = column.dictionary_decode()
    kind = "" if isinstance(column, np.ndarray) else str(column.type)
    texts = ("string", "large_string", "string_view")
    if kind not in texts and not (unit == "bytes" and kind in ("binary", "large_binary")):
        return scalars(column, unit, place)
    import pyarrow.compute as pc

    if unit not in ("bytes", "characters"):
        raise InputTypeError(
            f"{place.name}: `per`: {unit!r} is given by a column of text, of which only bytes and characters are counted"
        )
    _refuse_null(column, unit, place)
    counted = pc.binary_length(column) if unit == "bytes" else pc.utf8_length(column)
    found: NDArray[Any] = counted.to_numpy(zero_copy_only=False).astype(np.float64)
    return found


def labels(column: Any, name: str, place: Place, untyped: bool = False) -> "NDArray[Any] | Coded":
    """A target column: integers, booleans or floats as they are, strings coded, lists as (N, K) floats."""
    if isinstance(column, np.ndarray):
        return code(column, place)
    arrow = _arrow()
    kind = arrow.types
    if kind.is_dictionary(column.type):
        column = column.dictionary_decode()
    if kind.is_temporal(column.type):
        column = column.cast(arrow.string())
    if not (
        kind.is_string(column.type) or kind.is_large_string(column.type) or kind.is_string_view(column.type)
    ):
        return _from_arrow(column, name, place)
    _refuse_null(column, name, place)
    coded = column.dictionary_encode()
    return Coded(tuple(coded.dictionary.to_pylist()), coded.indices.to_numpy(zero_copy_only=False), untyped)


def code(values: NDArray[Any], place: Place) -> "NDArray[Any] | Coded":
    """A NumPy array of labels; one of strings (or of objects that all are strings) is coded."""
    if values.dtype.kind == "S":
        try:
            values = np.char.decode(values, "utf-8")
        except UnicodeDecodeError as error:
            raise InputTypeError(
                f"{place.name}: labels of bytes that are no UTF-8; decode them first"
            ) from error
    if values.dtype.kind == "O" and values.ndim == 1 and all(type(value) is int for value in values):
        return values.astype(np.int64)
    if values.dtype.kind == "O":
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise InputTypeError(
                    f"{place.row(row)}: label {value!r} of type {type(value).__name__}; expected strings, or "
                    "an array of integers"
                )
    if values.dtype.kind in "OUT":
        distinct, codes = np.unique(values, return_inverse=True)
        return Coded(tuple(str(value) for value in distinct), codes)
    return values


def _arrow() -> Any:
    import pyarrow

    return pyarrow


def _refuse_null(column: Any, name: str, place: Place) -> None:
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(f"{place.row(row)}: column {name!r} is null; every row needs a value")


def _from_arrow(column: Any, name: str, place: Place) -> NDArray[Any]:
    """A numeric or list Arrow array as NumPy, without a copy where the types allow."""
    arrow = _arrow()
    kind = arrow.types
    if isinstance(column.type, arrow.BaseExtensionType):
        column = column.storage
    _refuse_null(column, name, place)
    if kind.is_list(column.type) or kind.is_large_list(column.type) or kind.is_fixed_size_list(column.type):
        return _lists(column, name, place)
    if kind.is_decimal(column.type):
        column = column.cast(arrow.float64())
    if not (kind.is_integer(column.type) or kind.is_floating(column.type) or kind.is_boolean(column.type)):
        raise InputTypeError(f"{place.name}: column {name!r} holds {column.type}, expected numbers")
    if kind.is_boolean(column.type) or not len(column):
        values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
        return values
    return np.from_dlpack(column)  # to_numpy() would import pandas: half a second and 40 MB


def _lists(column: Any, name: str, place: Place) -> NDArray[Any]:
    """A list column as (N, K); every list must have as many items as the first."""
    if not len(column):
        return np.empty((0, 0))
    lengths = np.asarray(column.value_lengths()) if hasattr(column, "value_lengths") else None
    size = column.type.list_size if lengths is None else int(lengths[0])
    if lengths is not None and (lengths != size).any():
        row = int(np.argmax(lengths != size))
        raise InputError(
            f"{place.row(row)}: the list in column {name!r} has {lengths[row]} items, the one in "
            f"{place.row(0)} has {size}; every row needs one value per class"
        )
    if size == 0:
        raise InputError(
            f"{place.row(0)}: the list in column {name!r} is empty; a row needs one value per class"
        )
    items = column.flatten()
    if items.null_count:
        item = int(np.argmax(items.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(
            f"{place.row(item // size)}: item {item % size} of the list in column {name!r} is null; "
            "every class needs a value"
        )
    return numbers(_from_arrow(items, name, place), name, place).reshape(-1, size)
