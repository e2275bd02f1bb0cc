"""Language models: tokens with their log-probability alone, a document a row, padding.

Readers of such data are wrapped so that all behind them sees one token a row.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kosa.scoring import convert
from kosa.scoring.batch import Batch
from kosa.scoring.columns import Selection, Wanted
from kosa.scoring.errors import InputError, Place
from kosa.scoring.kinds import FORCE, tolerance
from kosa.scoring.readers import Columns, Reader, rows_per_batch
from kosa.scoring.result import Score, Split
from kosa.scoring.rows import Rows

KIND = "token_log_probs"
CLASSES = ("token",)
# Names of columns that a wrapper makes; no file has such.
_TARGET, _WEIGHT, _ID, DOCUMENT = "(target)", "(weight)", "(id)", "document"


@dataclass(frozen=True)
class Tokens:
    """How tokens lie in the data.

    documents: a row is a document, and its columns hold a list with an entry for each token; always so where
    the log-probabilities of tokens are lists.  padding: the target, or log-probability, of places that hold
    no token; NaN is NaN, None a null, and "" says that every place holds one.  mask: the column that is 0 (or
    false) at places that hold none.  force: take what is no log-probability for one.
    """

    documents: bool = False
    padding: float | str | None = ""
    mask: str | None = None
    force: bool = field(default=False, compare=False)

    @classmethod
    def of(
        cls, documents: bool, padding: str | float | None, mask: str | None, force: bool = False
    ) -> "Tokens":
        """From what the user said: `padding` is a number, "nan" or "null", or None for none."""
        if padding is None:
            return cls(documents, "", mask, force)
        if padding == "null":
            return cls(documents, None, mask, force)
        try:
            return cls(documents, float(padding), mask, force)
        except ValueError:
            raise InputError(f"`padding` is {padding!r}, expected a number, nan or null") from None

    @property
    def pads(self) -> bool:
        """Whether some places may hold no token."""
        return self.padding != "" or self.mask is not None


def wrap(readers: Sequence[Reader], wanted: Wanted, tokens: Tokens) -> tuple[list[Reader], Wanted]:
    """Readers of one token a row, and the columns to ask them for; the same where rows are rows already."""
    alone = wanted.kind == KIND
    if not alone and not tokens.documents and not tokens.pads:
        return list(readers), wanted
    single = {"mask": tokens.mask, wanted.kind: wanted.predictions if alone or tokens.documents else None}
    for name, spec in single.items():
        if spec is not None and spec not in readers[0].names:
            raise InputError(
                f"{readers[0].name!r} has no column {spec!r} for `{name}`; name the one column of tokens"
            )
    documents = tokens.documents or (alone and _has_lists(readers[0], str(wanted.predictions)))
    found = replace(wanted, target=_TARGET) if alone else wanted
    if documents:
        ends: dict[int, int] = {}
        made: list[Reader] = [
            DocumentReader(reader, wanted, tokens, ends, at) for at, reader in enumerate(readers)
        ]
        per = tuple((unit, _unit(unit)) for unit, _ in wanted.per)
        return made, replace(found, id=_ID, group=wanted.group or DOCUMENT, per=per)
    if tokens.pads:
        found = replace(found, weight=_WEIGHT)
    return [TokenReader(reader, wanted, tokens) for reader in readers], found


def _unit(unit: str) -> str:
    """The column that a wrapper makes of a unit's counts."""
    return f"(per {unit})"


def _has_lists(reader: Reader, column: str) -> bool:
    schema = getattr(reader, "schema", None)
    if schema is not None:  # a stream, of which nothing can be read twice
        import pyarrow as pa

        kind = schema.field(column).type
        return bool(
            pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        )
    selection = Selection(KIND, (column,), (), None, None, None)
    for columns, _ in reader.chunks(selection, 1):
        return _is_list(columns[column])
    return False


def _is_list(column: Any) -> bool:
    return column.ndim > 1 if isinstance(column, np.ndarray) else hasattr(column, "value_lengths")


class TokenReader:
    """One token a row: places without one get the weight 0, so that a row keeps its number."""

    def __init__(self, reader: Reader, wanted: Wanted, tokens: Tokens) -> None:
        self.reader, self.wanted, self.tokens = reader, wanted, tokens
        self.name, self.size = reader.name, reader.size
        made = (_TARGET, _WEIGHT, _ID, DOCUMENT, *(_unit(unit) for unit, _ in wanted.per))
        self.names = list(dict.fromkeys((*reader.names, *made)))
        self.untyped = getattr(reader, "untyped", False)
        if hasattr(reader, "pieces") and type(self) is TokenReader:
            self.pieces = reader.pieces

    def chunks(
        self, selection: Selection, rows: int | None, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Columns, float]]:
        place = Place(self.name)
        inner = self._inner(selection)
        if hasattr(self, "pieces"):
            place = place.after(start)
            pieces = self.reader.chunks(inner, rows, start, stop)  # type: ignore[call-arg]
        else:
            pieces = self.reader.chunks(inner, rows)
        for columns, fraction in pieces:
            found = dict(columns)
            count = len(next(iter(columns.values())))
            keep = self._kept(columns, selection, place)
            if selection.kind == KIND:
                (name,) = selection.predictions
                values = _filled(columns[name], name, place, keep)
                if not self.tokens.force:
                    _check(values, keep, place, None)
                found[name], found[_TARGET] = values, np.zeros(count, dtype=np.int64)
            elif keep is not None:
                found[selection.target[0]] = _filled_targets(columns[selection.target[0]], keep)
            if keep is not None:
                weight = np.ones(count) if self.wanted.weight is None else columns[self.wanted.weight]
                found[_WEIGHT] = np.where(keep, _numbers(weight, _WEIGHT, place), 0.0)
            yield found, fraction
            place = place.after(count)

    def _inner(self, selection: Selection) -> Selection:
        """The columns to read; the mask goes with those that hold numbers."""
        mask = () if self.tokens.mask is None else (("mask", self.tokens.mask),)
        return replace(
            selection,
            target=() if selection.kind == KIND else selection.target,
            weight=self.wanted.weight,
            id=self.wanted.id,
            group=self.wanted.group,
            per=(*self.wanted.per, *mask),
        )

    def _kept(self, columns: Columns, selection: Selection, place: Place) -> NDArray[np.bool_] | None:
        """Which places hold a token; None where all do."""
        if not self.tokens.pads:
            return None
        name = selection.predictions[0] if selection.kind == KIND else selection.target[0]
        keep = _holds(columns[name], self.tokens.padding)
        if self.tokens.mask is not None:
            keep &= _numbers(columns[self.tokens.mask], self.tokens.mask, place) != 0
        return keep


class DocumentReader(TokenReader):
    """A document a row: its lists laid end to end, less the places that hold no token.

    A document's own weight and group go to each of its tokens; its units (bytes, words) to its first token,
    so that they are counted once.
    """

    def __init__(
        self, reader: Reader, wanted: Wanted, tokens: Tokens, ends: dict[int, int], number: int
    ) -> None:
        super().__init__(reader, wanted, tokens)
        # Documents are numbered over all files: `ends` is shared, and says where each file's numbers end.
        self._ends, self._number = ends, number

    def chunks(
        self, selection: Selection, rows: int | None, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Columns, float]]:
        inner = self._inner(selection)
        row, before = 0, self._ends.get(self._number - 1, 0)
        for columns, fraction in self.reader.chunks(inner, self._documents(inner, rows)):
            count = _count(columns)
            # Not every reader minds how many rows were asked for, and documents differ in length.
            step = _documents(columns[selection.predictions[0]], rows)
            for at in range(0, count, step):
                part = {name: column[at : at + step] for name, column in columns.items()}
                yield self._flat(part, selection, Place(self.name, row + at), before + row + at), fraction
            row += count
        self._ends[self._number] = before + row

    def _documents(self, inner: Selection, rows: int | None) -> int | None:
        """How many documents to read at a time, by the first; None where nothing can be read twice."""
        if not self.size:
            return None
        first = next((columns for columns, _ in self.reader.chunks(inner, 1)), None)
        return 1 if first is None else _documents(first[inner.predictions[0]], rows)

    def _flat(self, columns: Columns, selection: Selection, place: Place, first: int) -> Columns:
        (name,) = selection.predictions
        values, lengths = _flat(columns[name], _count(columns))
        document = np.repeat(np.arange(len(lengths)), lengths)

        def each(column: str) -> Any:
            """A column's entries by token; one number a document goes to all of them."""
            found = columns[column]
            if not _is_list(found):
                return _take(found, document)
            entries, sizes = _flat(found, len(lengths))
            if not np.array_equal(sizes, lengths):
                row = int(np.argmax(sizes != lengths))
                raise InputError(
                    f"{place.row(row)}: column {column!r} has {sizes[row]} entries, {name!r} has {lengths[row]}; "
                    "each token needs one of both"
                )
            return entries

        flat: dict[str, Any] = {name: values}
        if selection.kind != KIND:
            flat[selection.target[0]] = each(selection.target[0])
        if self.tokens.mask is not None:
            flat[self.tokens.mask] = each(self.tokens.mask)
        keep = self._kept(flat, selection, place)
        chosen = np.arange(len(document)) if keep is None else np.flatnonzero(keep)
        for column in (self.wanted.weight, self.wanted.group):
            if column is not None:
                flat[column] = each(column)
        found = {column: _take(entries, chosen) for column, entries in flat.items()}
        document = document[chosen]
        starts = np.searchsorted(document, np.arange(len(lengths)))
        if selection.kind == KIND:
            _refuse_null(found[name], name, place, document)
            numbers = _numbers(found[name], name, place)
            if not self.tokens.force:
                _check(numbers, None, place, document)
            found[name], found[_TARGET] = numbers, np.zeros(len(numbers), dtype=np.int64)
        for unit, column in self.wanted.per:
            counted = columns[column]
            if _is_list(counted):
                found[_unit(unit)] = _take(each(column), chosen)
            else:
                found[_unit(unit)] = _to_first(convert.counts(counted, unit, place), starts, document)
        if self.wanted.group is None:
            found[DOCUMENT] = document + first
        ids = None if self.wanted.id is None else columns[self.wanted.id]
        found[_ID] = TokenIds(document, np.arange(len(document)) - starts[document], first, ids)
        return found


@dataclass(frozen=True)
class TokenIds:
    """Names of tokens, made when asked for: the document's name (its row without one) and the place in it."""

    document: NDArray[Any]
    place: NDArray[Any]
    first: int
    names: Any

    def __len__(self) -> int:
        return len(self.document)

    def same(self, other: "TokenIds") -> bool:
        """Whether these are the same tokens of the same documents, seen without making all the names."""
        mine, here = np.unique(self.document, return_inverse=True)
        theirs, there = np.unique(other.document, return_inverse=True)
        return (
            np.array_equal(here, there)
            and np.array_equal(self.place, other.place)
            and [self._name(at) for at in mine.tolist()] == [other._name(at) for at in theirs.tolist()]
        )

    def _name(self, document: int) -> str:
        found = self.first + document if self.names is None else self.names[document]
        return str(found.as_py() if hasattr(found, "as_py") else found)

    def __getitem__(self, at: Any) -> "TokenIds | str":
        if isinstance(at, slice):
            return replace(self, document=self.document[at], place=self.place[at])
        return f"{self._name(int(self.document[at]))}:{self.place[at]}"


def _count(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _flat(column: Any, count: int) -> tuple[Any, NDArray[np.int64]]:
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


def _documents(column: Any, rows: int | None) -> int:
    """How many documents like the first make a batch: of so many tokens, or of the usual number of predictions."""
    if rows is None:
        return rows_per_batch(_size(column))
    return max(1, rows // max(1, len(_flat(column[:1], 1)[0])))


def _size(column: Any) -> int:
    """Numbers in the first list, of lists of lists in all of them."""
    if isinstance(column, np.ndarray):
        return int(math.prod(column.shape[1:]))
    found = column[:1]
    while hasattr(found, "value_lengths"):
        found = found.flatten()
    return len(found)


def _take(column: Any, index: NDArray[Any]) -> Any:
    return column[index] if isinstance(column, np.ndarray) else column.take(_arrow_array(index))


def _arrow_array(values: NDArray[Any]) -> Any:
    import pyarrow

    return pyarrow.array(values)


def _to_first(values: NDArray[Any], starts: NDArray[Any], document: NDArray[Any]) -> NDArray[np.float64]:
    """Each document's number at its first token; a document without tokens counts nowhere."""
    found = np.zeros(len(document))
    there = np.unique(document)
    found[starts[there]] = values[there]
    return found


def _holds(column: Any, padding: float | str | None) -> NDArray[np.bool_]:
    """Where a column has something else than padding."""
    if padding == "":
        return np.ones(len(column), dtype=bool)
    if isinstance(column, np.ndarray):
        if padding is None:
            return np.ones(len(column), dtype=bool)
        return ~np.isnan(column) if padding != padding else column != padding
    if padding is None:
        found: NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
        return found
    values = column.to_numpy(zero_copy_only=False)
    # Nulls of integers become NaN here, and stay what they are: an error, for they are not this padding.
    held = ~np.isnan(values.astype(np.float64)) if padding != padding else values != padding
    return np.asarray(held | column.is_null().to_numpy(zero_copy_only=False))


def _filled(column: Any, name: str, place: Place, keep: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Numbers with 0 at the places that do not count, whatever stands there."""
    if keep is None:
        return _numbers(column, name, place)
    return _numbers(_filled_targets(column, keep), name, place)


def _filled_targets(column: Any, keep: NDArray[np.bool_]) -> Any:
    """Targets with a class that there is at the places that do not count."""
    if isinstance(column, np.ndarray):
        return np.where(keep, column, column.dtype.type(0))
    import pyarrow.compute as pc

    return pc.if_else(_arrow_array(keep), column, _zero(column.type))


def _zero(kind: Any) -> Any:
    import pyarrow as pa

    return pa.scalar("0" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else 0).cast(kind)


def _numbers(column: Any, name: str, place: Place) -> NDArray[Any]:
    if isinstance(column, np.ndarray) and column.dtype.kind == "b":
        return column.astype(np.float64)
    if not isinstance(column, np.ndarray) and str(column.type) == "bool":
        column = column.cast("float64")
    return convert.scalars(column, name, place)


def _check(
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


def _refuse_null(column: Any, name: str, place: Place, document: NDArray[Any]) -> None:
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


def evaluate_tokens(batch: Batch, clip: float) -> Rows:
    """Losses of tokens of which nothing but their own log-probability is known."""
    values = batch.predictions.astype(np.float64)
    count = len(values)
    loss = np.where(values == 0, 0.0, -values)
    return Rows(
        batch.first,
        loss,
        np.minimum(loss, -math.log(clip)),
        np.zeros(count, dtype=np.int64),
        np.full(count, -1, dtype=np.int64),
        np.full(count, np.nan),
    )


def without_predictions(score: Score) -> Score:
    """A score less the figures that need to know what was predicted: they would be of nothing."""
    nan = math.nan
    unknown = Split(score.cross_entropy, nan, nan, nan)
    return replace(
        score,
        accuracy=nan,
        brier=nan,
        prior_cross_entropy=nan,
        skill=nan,
        calibration_error=nan,
        bins=(),
        loss_split=unknown,
        confidence_split=replace(unknown, total=nan),
        confusions=(),
        confused_pairs=0,
        classes=(),
        groups=tuple(replace(entry, accuracy=nan) for entry in score.groups),
    )
