"""The panel of a report that compares A with B."""

import math
from collections.abc import Sequence

from kosa.scoring.report import numbers
from kosa.scoring.report.bars import Bar, BarTable, bar_table
from kosa.scoring.report.header import whole_of
from kosa.scoring.report.markup import Markup, element, join, name
from kosa.scoring.report.sections import section
from kosa.scoring.report.words import Speaker
from kosa.scoring.scores import Comparison, Figures, PairScore

_MOST = 24
_SHORT = 40


def versus_section(score: Figures, found: Comparison | None, say: Speaker) -> Markup | None:
    """Which of the two is better, by how much, and where."""
    if found is None:
        return None
    places = numbers.interval_places(found.low, found.high)
    told = {
        "difference": numbers.fixed(abs(found.difference), places),
        "low": numbers.fixed(found.low, places),
        "high": numbers.fixed(found.high, places),
        "confidence": numbers.whole_percent(found.confidence),
        "ours": numbers.number(score.cross_entropy),
        "theirs": numbers.number(found.score.cross_entropy),
    }
    other = "B" if found.name == "B" else say.markup("versus_name", name=name(found.name, _SHORT))
    known = math.isfinite(found.low) and math.isfinite(found.high)
    certain = known and (found.low > 0 or found.high < 0)
    winner = "a" if found.difference < 0 else "b"
    heading = say.markup(f"versus_{winner}" if certain else "versus_open", other=other, **told)
    if math.isinf(found.difference):
        heading = say.markup("versus_infinite", loser="A" if found.difference > 0 else other)
    text = say.markup("versus_text" if known else "versus_text_infinite", other=other, **told)
    return section(
        heading,
        element("p", text, class_="small"),
        element("figure", _shares(score, found, say)),
        _where(found.classes, found, say, say("class"), "versus_classes"),
        _where(found.groups, found, say, found.interval_over, "versus_groups"),
    )


def _shares(score: Figures, found: Comparison, say: Speaker) -> Markup:
    lines = (
        ("versus_wins", found.wins, "bar good"),
        ("versus_ties", found.ties, "bar rows"),
        ("versus_losses", found.losses, "bar loss"),
    )
    bars = [
        Bar(element("span", say(words)), 0.0, share, (numbers.percent(share),), style=style)
        for words, share, style in lines
    ]
    caption = say("versus_shares", whole=whole_of(score, say))
    heads = ("", "", say("share_head"))
    return bar_table(BarTable(caption, heads, bars), numbers.percent_tick)


def _where(
    pairs: Sequence[PairScore], found: Comparison, say: Speaker, head: str, caption: str
) -> Markup | None:
    """What each class or group adds to the difference, the best of A first."""
    seen = [pair for pair in pairs if pair.weight > 0]
    if len(seen) < 2:
        return None
    shown = seen
    if len(seen) > _MOST:
        shown = sorted(seen, key=lambda pair: -abs(pair.contribution))[:_MOST]
    shown = sorted(shown, key=lambda pair: pair.contribution)
    places = numbers.places_for([pair.contribution for pair in shown])
    spots = numbers.places_for([pair.difference for pair in shown])
    bars = [
        Bar(
            name(pair.name),
            0.0,
            pair.contribution,
            (
                numbers.change(pair.contribution, places),
                numbers.change(pair.difference, spots),
                numbers.percent(pair.wins),
                numbers.count(pair.rows),
            ),
            style="bar good" if pair.contribution < 0 else "bar loss",
        )
        for pair in shown
    ]
    heads = (
        head,
        say("versus_axis"),
        say("versus_adds"),
        say("versus_each"),
        say("versus_won"),
        say("rows_head"),
    )
    told = {
        "shown": len(shown),
        "count": numbers.count(len(seen)),
        "total": numbers.number(found.difference, 3),
    }
    words = say(caption if len(shown) == len(seen) else f"{caption}_many", **told)
    table = bar_table(BarTable(words, heads, bars), numbers.tick)
    return element("figure", join(table))
