"""HTML and SVG elements whose text is always escaped, and hostile names made visible."""

import unicodedata
from html import escape

_LONGEST = 80  # characters of a name; the whole of a longer one would push the figures off the page
_JOINERS = "\u200c\u200d"  # hold emoji and Persian words together and do no harm
_VOID = {"meta", "br"}
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


class Markup(str):
    """Text that is markup already; any other text is escaped where it is put in."""

    __slots__ = ()


def join(*content: str | None) -> Markup:
    """Pieces one after another; None is nothing."""
    return Markup(
        "".join(
            piece if isinstance(piece, Markup) else escape(piece) for piece in content if piece is not None
        )
    )


def element(kind: str, /, *content: str | None, **attributes: str | float | None) -> Markup:
    """An element. `class_` is `class`, `aria_label` is `aria-label`; an attribute of None is left out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_value(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if kind in _VOID and not content:
        return Markup(f"<{kind}{told}>")
    return Markup(f"<{kind}{told}>{join(*content)}</{kind}>")


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{round(value, 2) + 0.0:.8g}"


def name(text: object, longest: int = _LONGEST) -> Markup:
    """A name out of the user's data, set apart from the direction of the text around it."""
    return element("bdi", visible(str(text), longest))


def visible(text: str, longest: int = _LONGEST) -> str:
    """With every character that is not drawn (controls, reversals of direction) written as its number."""
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-longest // 2 + 1 :]}"
    shown = "".join(
        f"[U+{ord(letter):04X}]"
        if letter not in _JOINERS and unicodedata.category(letter) in _UNSEEN
        else letter
        for letter in text
    )
    return shown if shown.strip() else f"“{shown}”"
