"""How often a prediction of some confidence is right: the reliability diagram."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from kosa.scoring.report.markup import Markup
from kosa.scoring.report.numbers import percent
from kosa.scoring.report.scales import Linear, round_ticks
from kosa.scoring.report.svg import Ids, box, dot, drawing, line, polygon, text
from kosa.scoring.report.words import Speaker

_LEFT, _TOP, _RIGHT, _COUNTS, _GAP = 46.0, 24.0, 12.0, 52.0, 44.0
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Point:
    """Rows of confidence low..high: their number and share, mean confidence, accuracy and its confidence band."""

    low: float
    high: float
    rows: int
    share: float
    confidence: float
    accuracy: float
    band: tuple[float, float]


def reliability(bins: Sequence[Point], width: float, say: Speaker, ids: Ids) -> Markup:
    """Accuracy over confidence, and below it how many rows each bin has."""
    side = width - _LEFT - _RIGHT
    x = Linear(0.0, 1.0, _LEFT, _LEFT + side)
    y = Linear(0.0, 1.0, _TOP + side, _TOP)
    parts = [text(0, 12, say("accuracy"), "label")]
    for value in _TICKS:
        parts.append(line(_LEFT, y(value), _LEFT + side, y(value), "grid" if value else "base"))
        parts.append(text(_LEFT - 6, y(value) + 4, percent(value, 0), "tick", "end"))
    parts.append(line(x(0.0), y(0.0), x(1.0), y(1.0), "diagonal"))
    parts.append(text(x(0.03), y(0.93), say("too_timid"), "note"))
    parts.append(text(x(0.97), y(0.05), say("too_sure"), "note", "end"))
    seen = [found for found in bins if found.rows]
    band = [(x(found.confidence), y(found.band[1])) for found in seen]
    band += [(x(found.confidence), y(found.band[0])) for found in reversed(seen)]
    if len(seen) > 1:
        parts.append(polygon(band, "band"))
    for found in seen:
        at = x(found.confidence)
        parts.append(line(at, y(found.band[0]), at, y(found.band[1]), "whisker"))
    for before, after in pairwise(seen):
        ends = (x(before.confidence), y(before.accuracy), x(after.confidence), y(after.accuracy))
        parts.append(line(*ends, "curve"))
    parts += [dot(x(found.confidence), y(found.accuracy), 4.0, "dot") for found in seen]
    parts += _counts(seen, x, _TOP + side, width, say)
    height = _TOP + side + _GAP + _COUNTS + 22
    return drawing(width, height, say("reliability_title"), _description(seen, say), *parts, ids=ids)


def _counts(bins: Sequence[Point], x: Linear, top: float, width: float, say: Speaker) -> list[Markup]:
    """The axis of confidence, and under it the share of rows in each bin."""
    parts = []
    for value in _TICKS:
        parts.append(line(x(value), top, x(value), top + 4, "base"))
        anchor = "end" if value == 1.0 else "middle"
        parts.append(text(x(value) + (6 if value == 1.0 else 0), top + 17, percent(value, 0), "tick", anchor))
    parts.append(text(0, top + _GAP - 10, say("share_of_rows"), "label rows"))
    floor = top + _GAP + _COUNTS
    ticks = round_ticks(0.0, max(found.share for found in bins), 2)
    up = Linear(0.0, ticks[-1], floor, top + _GAP)
    for value in ticks:
        parts.append(line(_LEFT, up(value), x.end, up(value), "grid" if value else "base"))
        parts.append(text(_LEFT - 6, up(value) + 4, percent(value, 0), "tick", "end"))
    for found in bins:
        tall = max(1.5, floor - up(found.share))
        parts.append(
            box(x(found.low) + 0.5, floor - tall, x(found.high) - x(found.low) - 1, tall, "bar rows")
        )
    parts.append(text(x.end, floor + 17, say("confidence_axis"), "label", "end"))
    return parts


def _description(bins: Sequence[Point], say: Speaker) -> str:
    widest = max(bins, key=lambda found: found.share * abs(found.confidence - found.accuracy))
    return say(
        "reliability_description",
        bins=len(bins),
        confidence=percent(widest.confidence),
        accuracy=percent(widest.accuracy),
        share=percent(widest.share),
    )
