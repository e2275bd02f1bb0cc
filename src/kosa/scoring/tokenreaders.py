"""Readers of tokens: all that is behind them sees one token a row, whatever the data's rows are."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kosa.scoring import convert
from kosa.scoring.batch import Documents
from kosa.scoring.columns import Selection, Wanted
from kosa.scoring.errors import InputError, Place, TokenPlace
from kosa.scoring.readers import Columns, Reader
from kosa.scoring.tokencolumns import (
    check,
    documents_of,
    end_to_end,
    filled,
    filled_targets,
    holds,
    is_list,
    numbers_of,
    refuse_null,
    row_count,
    take,
    to_first,
)
from kosa.scoring.tokens import KIND, Tokens

_LOOK = 64  # documents, of whose longest it is judged how many are read at a time
# Columns that a reader of tokens makes.
_TARGET, _WEIGHT, _ID, _DOCUMENT = "(target)", "(weight)", "(id)", "document"


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
        made: list[Reader] = [DocumentReader(reader, wanted, tokens) for reader in readers]
        per = tuple((unit, _unit(unit)) for unit, _ in wanted.per)
        return made, replace(found, id=_ID, group=wanted.group or _DOCUMENT, per=per)
    if tokens.pads:
        found = replace(found, weight=_WEIGHT)
    return [TokenReader(reader, wanted, tokens) for reader in readers], found


def _unit(unit: str) -> str:
    """The column that a wrapper makes of a unit's counts."""
    return f"(per {unit})"


def _has_lists(reader: Reader, column: str) -> bool:
    schema = getattr(reader, "schema", None)
    if schema is not None:  # a stream, of which nothing can be read twice
        return hasattr(
            schema.field(column).type, "value_field"
        )  # lists of every kind, and nothing else, have one
    selection = Selection(KIND, (column,), (), None, None, None)
    for columns, _ in reader.chunks(selection, 1):
        return is_list(columns[column])
    return False


class TokenReader:
    """One token a row: places without one get the weight 0, so that a row keeps its number."""

    def __init__(self, reader: Reader, wanted: Wanted, tokens: Tokens) -> None:
        self.reader, self.wanted, self.tokens = reader, wanted, tokens
        self.name, self.size = reader.name, reader.size
        made = (_TARGET, _WEIGHT, _ID, _DOCUMENT, *(_unit(unit) for unit, _ in wanted.per))
        self.names = list(dict.fromkeys((*reader.names, *made)))
        self.untyped = getattr(reader, "untyped", False)
        if hasattr(reader, "pieces"):
            self.pieces: list[int] = reader.pieces

    def held(self, selection: Selection) -> int:
        """Bytes that the file's reader holds beside the batches."""
        return int(self.reader.held(self._inner(selection))) if hasattr(self.reader, "held") else 0

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
                values = filled(columns[name], name, place, keep)
                if not self.tokens.force:
                    check(values, keep, place, None)
                found[name], found[_TARGET] = values, np.zeros(count, dtype=np.int64)
            elif keep is not None:
                found[selection.target[0]] = filled_targets(columns[selection.target[0]], keep)
            if keep is not None:
                weight = np.ones(count) if self.wanted.weight is None else columns[self.wanted.weight]
                found[_WEIGHT] = np.where(keep, numbers_of(weight, _WEIGHT, place), 0.0)
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
        keep = holds(columns[name], self.tokens.padding)
        if self.tokens.mask is not None:
            mask = numbers_of(columns[self.tokens.mask], self.tokens.mask, place)
            if np.isnan(mask).any():
                raise InputError(
                    f"{place.row(int(np.argmax(np.isnan(mask))))}: `mask` is NaN; expected 0 or 1"
                )
            keep &= mask != 0
        return keep


class DocumentReader(TokenReader):
    """A document a row: its lists laid end to end, less the places that hold no token.

    A document's own weight and group go to each of its tokens; its units (bytes, words) to its first token,
    so that they are counted once. Documents are numbered from `first` on, which `after` changes.
    """

    skips = True
    first = 0

    def after(self, documents: int) -> "DocumentReader":
        """The same file, after so many documents of other files."""
        found = copy(self)
        found.first = documents
        return found

    def chunks(
        self, selection: Selection, rows: int | None, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Columns, float]]:
        inner = self._inner(selection)
        many = self._documents(inner, rows, start)
        if hasattr(self, "pieces"):
            row = start
            pieces = self.reader.chunks(inner, many, start, stop)  # type: ignore[call-arg]
        else:
            row = 0
            pieces = self.reader.chunks(inner, many)
        for columns, fraction in pieces:
            count = row_count(columns)
            begin, end = max(0, start - row), count if stop is None else min(count, stop - row)
            # Not every reader minds how many rows were asked for, and documents differ in length.
            step = documents_of(columns[selection.predictions[0]], rows) if begin < end else 1
            for at in range(begin, end, step):
                part = {name: column[at : min(at + step, end)] for name, column in columns.items()}
                yield self._flat(part, selection, Place(self.name, row + at)), fraction
            row += count
            if stop is not None and row >= stop:
                return

    def _documents(self, inner: Selection, rows: int | None, start: int) -> int | None:
        """How many documents to read at a time, by the first; None where nothing can be read twice."""
        if not self.size:
            return None
        begin = (start,) if hasattr(self, "pieces") else ()
        with closing(self.reader.chunks(inner, _LOOK, *begin)) as chunks:  # type: ignore[type-var]
            first = next((columns for columns, _ in chunks), None)
        return 1 if first is None else documents_of(first[inner.predictions[0]][:_LOOK], rows)

    def _flat(self, columns: Columns, selection: Selection, place: Place) -> Documents:
        (name,) = selection.predictions
        first = self.first + place.first
        values, lengths = end_to_end(columns[name], row_count(columns))
        document = np.repeat(np.arange(len(lengths)), lengths)

        def each(column: str) -> Any:
            """A column's entries by token; one number a document goes to all of them."""
            found = columns[column]
            if not is_list(found):
                return take(found, document)
            entries, sizes = end_to_end(found, len(lengths))
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
        found = {column: take(entries, chosen) for column, entries in flat.items()}
        document = document[chosen]
        starts = np.searchsorted(document, np.arange(len(lengths)))
        if selection.kind == KIND:
            refuse_null(found[name], name, place, document)
            numbers = numbers_of(found[name], name, place)
            if not self.tokens.force:
                check(numbers, None, place, document)
            found[name], found[_TARGET] = numbers, np.zeros(len(numbers), dtype=np.int64)
        for unit, column in self.wanted.per:
            counted = columns[column]
            if is_list(counted):
                found[_unit(unit)] = take(each(column), chosen)
            else:
                found[_unit(unit)] = to_first(convert.counts(counted, unit, place), starts, document)
        if self.wanted.group is None:
            found[_DOCUMENT] = document + first
        ids = None if self.wanted.id is None else columns[self.wanted.id]
        tokens = np.arange(len(document)) - starts[document]
        found[_ID] = TokenIds(document, tokens, first, ids)
        return Documents(found, len(lengths), TokenPlace(self.name, 0, document + place.first, tokens))


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
