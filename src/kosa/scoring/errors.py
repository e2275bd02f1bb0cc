"""What is wrong with a data set, said with the place where it is wrong."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


class InputError(ValueError):
    """The data cannot be scored as asked: the text names the file, the row, the reason and the remedy."""


class InputTypeError(InputError, TypeError):
    """A column holds another type than its role needs."""


class LabelError(InputError, IndexError):
    """A label that is none of the classes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows come from: a source's name (None for arrays) and the number of the first row in it."""

    source: str | None = None
    first: int = 0

    def after(self, rows: int) -> "Place":
        """The place `rows` rows further on."""
        return Place(self.source, self.first + rows)

    def row(self, index: int) -> str:
        """How a message names a row; rows count from 0 within their file."""
        number = f"row {self.first + int(index)} (from 0)"
        return number if self.source is None else f"{number} of {self.source!r}"

    @property
    def name(self) -> str:
        """How a message names the whole."""
        return "the input" if self.source is None else repr(self.source)


@dataclass(frozen=True, slots=True, eq=False)
class TokenPlace(Place):
    """Where tokens come from: of each the row of its document, and which of the document's tokens it is.

    `first` counts among these tokens.
    """

    document: "NDArray[Any] | tuple[int, ...]" = ()
    token: "NDArray[Any] | tuple[int, ...]" = ()

    def after(self, rows: int) -> "TokenPlace":
        """The place `rows` tokens further on."""
        return TokenPlace(self.source, self.first + rows, self.document, self.token)

    def row(self, index: int) -> str:
        """How a message names a token."""
        at = self.first + int(index)
        return f"token {self.token[at]} of {Place(self.source, int(self.document[at])).row(0)}"


def listing(names: "tuple[str, ...] | list[str]", most: int = 8) -> str:
    """Names for a message, the long list cut."""
    shown = ", ".join(repr(name) for name in names[:most])
    return f"{shown}, … ({len(names)} in all)" if len(names) > most else shown
