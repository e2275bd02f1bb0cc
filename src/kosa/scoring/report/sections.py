"""The sections of a report that are drawn: the losses, the reliability, the split of the loss."""

import math
from collections.abc import Sequence

from kosa.scoring.report import numbers
from kosa.scoring.report.bars import Bar, BarTable, bar_table, plain_table
from kosa.scoring.report.header import whole_of
from kosa.scoring.report.histogram import Losses, histogram
from kosa.scoring.report.losses import carried_by_worst, losses_of, median
from kosa.scoring.report.markup import Markup, element, join
from kosa.scoring.report.reliability import Point, reliability
from kosa.scoring.report.svg import Ids
from kosa.scoring.report.words import Speaker
from kosa.scoring.scores import Figures, Split

_WIDE, _NARROW, _SQUARE = 880.0, 290.0, 300.0
_FEW = 200  # rows, below which one row in a hundred is none


def section(heading: str, *content: str | None) -> Markup:
    """A part of the page under its finding."""
    return element("section", element("h2", heading), *content)


def details(summary: str, table: Markup) -> Markup:
    """The figures of a picture, for who cannot see it or wants to copy them."""
    return element("details", element("summary", summary), table)


def losses_section(score: Figures, say: Speaker, ids: Ids) -> Markup | None:
    """How the losses are distributed."""
    marks = ((say("mean"), score.cross_entropy, 3), (say("median"), median(score), 2))
    found = losses_of(score, marks)
    if found is None:
        return None
    heading = say("losses_heading")
    if score.zero_probability_rows:
        heading = say("losses_heading_infinite", count=numbers.count(score.zero_probability_rows))
    elif score.rows >= _FEW and math.isfinite(share := carried_by_worst(score, 0.01)):
        heading = say("losses_heading_worst", share=numbers.percent(share, 0))
    return section(
        heading,
        element("p", say("losses_text" if found.loss else "losses_text_infinite"), class_="small"),
        element(
            "figure",
            element("div", histogram(found, _WIDE, say, ids), class_="wide"),
            element("div", histogram(found, _NARROW, say, ids), class_="narrow"),
        ),
        details(say("figures_of_plot"), _losses_table(found, say)),
    )


def _losses_table(found: Losses, say: Speaker) -> Markup:
    shares = found.loss or [math.nan] * len(found.rows)
    rows = [
        (
            f"{numbers.number(low, 3)} – {numbers.number(high, 3)}",
            numbers.percent(share, 2),
            numbers.percent(loss, 2),
        )
        for low, high, share, loss in zip(found.edges, found.edges[1:], found.rows, shares, strict=False)
    ]
    if found.below:
        loss = found.below_loss if found.loss else math.nan
        rows.insert(
            0,
            (
                f"< {numbers.number(found.edges[0], 3)}",
                numbers.percent(found.below, 2),
                numbers.percent(loss, 2),
            ),
        )
    if found.infinite:
        rows.append(("∞", numbers.percent(found.infinite, 2), "–"))
    heads = (say("loss_nats"), say("share_of_rows"), say("share_of_whole_loss"))
    return plain_table(say("histogram_title"), heads, rows)


def reliability_section(score: Figures, say: Speaker, ids: Ids) -> Markup | None:
    """Whether the confidence is right, what a temperature would gain, and what the loss is made of."""
    points = [
        Point(
            low=entry.low,
            high=entry.high,
            rows=entry.rows,
            share=entry.weight / score.weight,
            confidence=entry.confidence,
            accuracy=entry.accuracy,
            band=wilson(entry.accuracy, entry.rows),
        )
        for entry in score.bins
        if entry.rows and math.isfinite(entry.confidence)
    ]
    if not points:
        return None
    gap = math.fsum(point.share * (point.confidence - point.accuracy) for point in points)
    error = score.calibration_error
    name = (
        "calibrated"
        if error < 0.01
        else "sure"
        if gap > error / 2
        else "timid"
        if -gap > error / 2
        else "mixed"
    )
    heading = say(f"reliability_heading_{name}", error=_points(error), gap=_points(abs(gap)))
    beside = join(
        element(
            "p",
            say("reliability_text", error=_points(error), bins=len(score.bins), whole=whole_of(score, say)),
        ),
        _temperature(score, say),
        _split(score.loss_split, say),
    )
    return section(
        heading,
        element(
            "div",
            element(
                "figure",
                reliability(points, _SQUARE, say, ids),
                details(say("figures_of_plot"), _bins_table(points, say)),
                class_="square",
            ),
            element("div", beside),
            class_="beside",
        ),
    )


def _points(share: float) -> str:
    return numbers.fixed(100 * share, 1)


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of so many rows (Wilson, 1927)."""
    share = min(1.0, max(0.0, share))  # a target may lie on the predicted class with a little more than 1
    square = 1.959963984540054**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = math.sqrt(square * (share * (1 - share) / count + square / (4 * count**2))) / (1 + square / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def _bins_table(points: Sequence[Point], say: Speaker) -> Markup:
    rows = [
        (
            f"{numbers.percent(point.low)} – {numbers.percent(point.high)}",
            numbers.percent(point.confidence),
            numbers.percent(point.accuracy),
            f"{numbers.percent(point.band[0])} – {numbers.percent(point.band[1])}",
            numbers.count(point.rows),
        )
        for point in points
    ]
    heads = ("confidence", "mean_confidence", "accuracy_head", "band", "rows_head")
    return plain_table(say("reliability_title"), [say(head) for head in heads], rows)


def _temperature(score: Figures, say: Speaker) -> Markup | None:
    found = score.temperature
    if found is None or math.isnan(found.temperature):
        return None
    values = {
        "temperature": numbers.number(found.temperature, 3),
        "loss": numbers.number(found.cross_entropy),
        "gain": numbers.number(found.gain, 3),
    }
    name = "temperature_edge" if found.at_edge else "temperature_text"
    return element("p", element("strong", say("temperature_heading")), " ", say(name, **values))


def _split(split: Split, say: Speaker) -> Markup | None:
    """From the uncertainty down by the discrimination and up by the miscalibration to the loss."""
    parts = (split.uncertainty, split.discrimination, split.miscalibration, split.total)
    if not all(map(math.isfinite, parts)):
        return None
    known = split.uncertainty - split.discrimination
    places = numbers.places_for(parts, 4)
    bars = [
        Bar(
            element("span", say("uncertainty")),
            0.0,
            split.uncertainty,
            (numbers.fixed(split.uncertainty, places),),
        ),
        Bar(
            element("span", say("discrimination")),
            known,
            split.uncertainty,
            (numbers.change(-split.discrimination, places),),
            style="bar good",
        ),
        Bar(
            element("span", say("miscalibration")),
            known,
            split.total,
            (numbers.change(split.miscalibration, places),),
            style="bar bad",
        ),
        Bar(
            element("span", say("total")),
            0.0,
            split.total,
            (numbers.fixed(split.total, places),),
            style="bar loss",
        ),
    ]
    heads = (say("split_part"), "", say("loss_nats"))
    return element("figure", bar_table(BarTable(say("split_caption"), heads, bars), numbers.tick))
