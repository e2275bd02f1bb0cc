"""The sentences of an explanation, in English and in Japanese: words.toml."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal

Lang = Literal["en", "ja"]
LANGS: tuple[Lang, ...] = ("en", "ja")


def say(lang: Lang, name: str, **values: object) -> str:
    """The sentence of that name, its places filled in."""
    return sentences()[name][lang].format(**values)


@cache
def sentences() -> dict[str, dict[str, str]]:
    """Each sentence by its name, then by language."""
    return tomllib.loads(files("kosa.explanation").joinpath("words.toml").read_text(encoding="utf-8"))
