"""The figures of a data set, and the ways to show them."""

import os
from typing import Any, Literal

from kosa.scoring import table
from kosa.scoring.report import page
from kosa.scoring.scores import Figures


class Score(Figures):
    __doc__ = Figures.__doc__

    def to_html(self, *, lang: Literal["en", "ja"] = "en", title: str | None = None) -> str:
        """The report: one HTML page that needs nothing else, drawn from these figures alone.

        Args:
            lang: "en" or "ja".
            title: what was scored, for the top of the page.
        """
        return page.document(self, lang=lang, title=title)

    def report(
        self, path: str | os.PathLike[str], lang: Literal["en", "ja"] = "en", *, title: str | None = None
    ) -> None:
        """Write `to_html` to a file, which at any moment is the old one or the new one, never a part.

        Raises:
            ValueError: no such language.
            OSError: the file cannot be written.
        """
        page.write(self, path, lang=lang, title=title)

    def __str__(self) -> str:
        return table.text(self)

    def __rich__(self) -> Any:
        return table.rich_view(self)

    def _repr_html_(self) -> str:
        return page.fragment(self)
