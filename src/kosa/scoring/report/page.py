"""A report: one HTML file that needs nothing else, drawn from a Score alone."""

import os
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from zlib import crc32

from kosa.scoring.report.header import header
from kosa.scoring.report.markup import Markup, element, join, visible
from kosa.scoring.report.sections import losses_section, reliability_section
from kosa.scoring.report.svg import Ids
from kosa.scoring.report.tables import classes_section, confusions_section, groups_section, worst_section
from kosa.scoring.report.versus import versus_section
from kosa.scoring.report.words import Lang, Speaker, check_lang
from kosa.scoring.scores import Figures
from kosa.scoring.tokens import KIND
from kosa.scoring.wholefile import write_whole

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(score: Figures, *, lang: Lang = "en", title: str | None = None) -> str:
    """A whole file. Its policy lets a browser load nothing but what is in it."""
    say = _speaker(score, lang)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", visible(title) if title else say("page_title"), " · Kosa"),
        element("style", _style("page")),
    )
    body = element("body", Markup("\n"), _report("main", score, title, say, Ids()), Markup("\n"))
    return f'<!doctype html>\n<html lang="{say.lang}">\n{head}\n{body}\n</html>\n'


def write(
    score: Figures, path: str | os.PathLike[str], *, lang: Lang = "en", title: str | None = None
) -> None:
    """Write `document` to a file, whole or not at all."""
    write_whole(Path(path), document(score, lang=lang, title=title).encode())


def fragment(score: Figures, *, lang: Lang = "en", title: str | None = None) -> Markup:
    """The report with its style, for a page that is there already, such as a notebook's."""
    say = _speaker(score, lang)
    # Several reports may stand on one page, and their pictures are told apart by these names.
    number = crc32(
        repr((title, score.rows, score.cross_entropy, score.brier, lang)).encode("utf-8", "replace")
    )
    return _report("div", score, title, say, Ids(f"kosa-{number:08x}"))


def _report(kind: str, score: Figures, title: str | None, say: Speaker, ids: Ids) -> Markup:
    parts = (join("\n", part) for part in _parts(score, title, say, ids) if part is not None)
    style = element("style", _style("style"))
    return element(kind, style, *parts, Markup("\n"), class_="kosa-report", lang=say.lang)


def _parts(score: Figures, title: str | None, say: Speaker, ids: Ids) -> Iterator[Markup | None]:
    yield header(score, title, say)
    yield versus_section(score, score.against, say)
    yield losses_section(score, say, ids)
    yield reliability_section(score, say, ids)
    yield classes_section(score, say)
    yield confusions_section(score, say)
    yield groups_section(score, say)
    yield worst_section(score, say)
    yield element("footer", element("p", say("footer"), class_="small"))


def _speaker(score: Figures, lang: str) -> Speaker:
    return Speaker(check_lang(lang), "token" if score.predictions == KIND else "row")


@cache
def _style(name: str) -> Markup:
    return Markup(files("kosa.scoring.report").joinpath(f"{name}.css").read_text(encoding="utf-8"))
