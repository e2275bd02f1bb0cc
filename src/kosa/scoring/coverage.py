"""Which rows of which files a state has seen, so that none is counted twice when states merge."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from kosa.scoring.errors import InputError

_WHOLE = 1 << 20  # bytes of a file that is read whole to know it again
_PIECES, _PIECE = (
    16,
    1 << 16,
)  # of a larger one: so many pieces of so many bytes, its first and last among them


@dataclass(frozen=True)
class Source:
    """Rows start..stop−1 of a file, as what they were scored: `columns` are those of predictions and targets.

    The file is known by its size and content, wherever it lies and whatever it is called.
    """

    name: str
    bytes: int
    sha256: str
    columns: str
    start: int
    stop: int

    @property
    def identity(self) -> tuple[int, str, str]:
        """What two parts of one data set have in common."""
        return self.bytes, self.sha256, self.columns

    def stored(self) -> list[Any]:
        """As JSON values."""
        return [self.name, self.bytes, self.sha256, self.columns, self.start, self.stop]

    @classmethod
    def restored(cls, values: list[Any]) -> "Source":
        """Read back; TypeError or ValueError where a value is none."""
        found = cls(*values)
        texts, numbers = (found.name, found.sha256, found.columns), (found.bytes, found.start, found.stop)
        if any(type(text) is not str for text in texts) or any(type(number) is not int for number in numbers):
            raise ValueError("no rows of a file")
        if not 0 <= found.start < found.stop:
            raise ValueError("no rows of a file")
        return found


def fingerprint(path: str) -> tuple[int, str]:
    """Size and SHA-256 of a file; of more than 1 MiB the digest is of 16 pieces, which is enough to tell files apart."""
    size = os.path.getsize(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        if size <= _WHOLE:
            digest.update(file.read())
        else:
            for piece in range(_PIECES):
                file.seek((size - _PIECE) * piece // (_PIECES - 1))
                digest.update(file.read(_PIECE))
    return size, digest.hexdigest()


def joined(
    ours: tuple[Source, ...], theirs: tuple[Source, ...], overlapping: bool = False
) -> tuple[Source, ...]:
    """The rows of both; InputError where both have seen some row of one file, unless they may."""
    here: dict[tuple[int, str, str], list[Source]] = {}
    for source in ours:
        here.setdefault(source.identity, []).append(source)
    for source in theirs:
        for other in here.get(source.identity, ()):
            start, stop = max(source.start, other.start), min(source.stop, other.stop)
            if start < stop and not overlapping:
                raise InputError(
                    f"rows {start} to {stop - 1} (from 0) of {PurePath(source.name).name!r} are there twice: both "
                    "states have counted them"
                )
    return _tidy((*ours, *theirs))


def _tidy(sources: Iterable[Source]) -> tuple[Source, ...]:
    """In an order that does not depend on that of merging, parts that follow each other as one."""
    found: list[Source] = []
    for source in sorted(
        sources, key=lambda source: (source.identity, source.start, source.stop, source.name)
    ):
        last = found[-1] if found else None
        if last is not None and (last.identity, last.stop) == (source.identity, source.start):
            found[-1] = replace(last, stop=source.stop)
        else:
            found.append(source)
    return tuple(found)
