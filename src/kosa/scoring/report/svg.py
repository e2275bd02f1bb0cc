"""Pieces of SVG. Colours and letters come from the page's style, by class."""

from collections.abc import Iterator, Sequence
from itertools import count

from kosa.scoring.report.markup import Markup, element, join


class Ids:
    """Names for the parts of one page, each given once."""

    def __init__(self, prefix: str = "kosa") -> None:
        self._prefix = prefix
        self._numbers: Iterator[int] = count(1)

    def new(self) -> str:
        """A name not given before."""
        return f"{self._prefix}-{next(self._numbers)}"


def drawing(width: float, height: float, title: str, description: str, *parts: Markup, ids: Ids) -> Markup:
    """A picture that a screen reader announces by its title and description, at most as wide as its style says."""
    head, body = ids.new(), ids.new()
    return element(
        "svg",
        element("title", title, id=head),
        element("desc", description, id=body),
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_labelledby=head,
        aria_describedby=body,
        class_="plot",
    )


def text(x: float, y: float, words: str, style: str = "tick", anchor: str = "start") -> Markup:
    """Words with their baseline at y."""
    return element("text", words, x=x, y=y, class_=style, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=style)


def box(x: float, y: float, width: float, height: float, style: str) -> Markup:
    """A filled rectangle; one of a height that would not be seen is drawn as a hairline."""
    return element("rect", x=x, y=y, width=max(0.0, width), height=max(0.0, height), class_=style)


def dot(x: float, y: float, radius: float, style: str) -> Markup:
    """A filled circle."""
    return element("circle", cx=x, cy=y, r=radius, class_=style)


def polygon(points: Sequence[tuple[float, float]], style: str) -> Markup:
    """A filled outline."""
    return element("polygon", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=style)


def group(*parts: Markup, style: str | None = None) -> Markup:
    """Parts that belong together."""
    return element("g", join(*parts), class_=style)


def length(words: str, size: float = 12.0) -> float:
    """About how wide words are drawn: a wide sign is as wide as it is high, any other six tenths of that."""
    return size * sum(1.0 if ord(letter) > 0x2E80 else 0.58 for letter in words)
