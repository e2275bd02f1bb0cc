"""The sentences of a report, in English and in Japanese: words.toml."""

import tomllib
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from typing import Literal

from kosa.scoring.errors import InputError
from kosa.scoring.report.markup import Markup

Lang = Literal["en", "ja"]
LANGS: tuple[Lang, ...] = ("en", "ja")


def check_lang(lang: str) -> Lang:
    """The language, if there is one of that name."""
    for known in LANGS:
        if lang == known:
            return known
    raise InputError(f"`lang` is {lang!r}, expected 'en' or 'ja'")


@dataclass(frozen=True)
class Speaker:
    """Says sentences in one language, about rows or about tokens."""

    lang: Lang
    unit: Literal["row", "token"] = "row"

    def __call__(self, sentence: str, /, **values: object) -> str:
        """The sentence of that name as text, its places filled in."""
        return self._sentence(sentence).format(**self._units, **values)

    def markup(self, sentence: str, /, **values: object) -> Markup:
        """The sentence with values that may be elements; all that is not is escaped."""
        safe = {
            key: value if isinstance(value, Markup) else escape(str(value)) for key, value in values.items()
        }
        return Markup(escape(self._sentence(sentence)).format(**self._units, **safe))

    def _sentence(self, name: str) -> str:
        return sentences()[name][self.lang]

    @property
    def _units(self) -> dict[str, str]:
        return {"row": self._sentence(self.unit), "rows": self._sentence(f"{self.unit}s")}


@cache
def sentences() -> dict[str, dict[str, str]]:
    """Each sentence by its name, then by language."""
    return tomllib.loads(files("kosa.scoring.report").joinpath("words.toml").read_text(encoding="utf-8"))
