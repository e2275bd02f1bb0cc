"""What is wrong with a data set, said with the place where it is wrong."""

from dataclasses import dataclass


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


def listing(names: "tuple[str, ...] | list[str]", most: int = 8) -> str:
    """Names for a message, the long list cut."""
    shown = ", ".join(repr(name) for name in names[:most])
    return f"{shown}, … ({len(names)} in all)" if len(names) > most else shown
