"""The top of a report: what was scored, and the headline figures, each with what it is over."""

import math
from collections.abc import Iterator

from kosa.scoring.report import numbers
from kosa.scoring.report.markup import Markup, element, name, visible
from kosa.scoring.report.words import Speaker
from kosa.scoring.scores import Figures


def header(score: Figures, title: str | None, say: Speaker) -> Markup:
    """Kicker, headline, a sentence or two, and the figures."""
    kicker = say.markup(
        "kicker" if title else "kicker_plain", title=name(title or ""), kind=say(f"kind_{score.predictions}")
    )
    heading = say("headline", loss=numbers.number(score.cross_entropy, 3))
    return element(
        "header",
        element("p", kicker, class_="kicker"),
        element("h1", heading),
        element("p", _lead(score, say), class_="lead"),
        element("dl", *(_figure(*told) for told in _figures(score, say))),
    )


def whole_of(score: Figures, say: Speaker) -> str:
    """What shares are of: the rows, or their weight where they have one."""
    words = "whole_rows" if score.weight == score.rows else "whole_weight"
    return say(words, count=numbers.count(score.weight))


def _lead(score: Figures, say: Speaker) -> str:
    parts = []
    if math.isfinite(score.low):
        places = numbers.interval_places(score.low, score.high)
        parts.append(
            say(
                "lead_interval",
                low=numbers.fixed(score.low, places),
                high=numbers.fixed(score.high, places),
                confidence=numbers.whole_percent(score.confidence),
            )
        )
    elif score.zero_probability_rows:
        parts.append(
            say(
                "lead_infinite",
                count=numbers.count(score.zero_probability_rows),
                clip=visible(score.clip_name),
            )
        )
    if math.isfinite(score.skill):
        name = "lead_skill" if score.skill > 0 else "lead_no_skill"
        parts.append(
            say(name, prior=numbers.number(score.prior_cross_entropy, 3), skill=numbers.percent(score.skill))
        )
    # Japanese puts no space between sentences.
    return ("" if say.lang == "ja" else " ").join(parts)


def _figure(words: str, value: str, unit: str, of: str) -> Markup:
    return element(
        "div",
        element("dt", words),
        element("dd", value, element("small", f" {unit}") if unit else None, class_="value"),
        element("dd", of, class_="of"),
    )


def _figures(score: Figures, say: Speaker) -> Iterator[tuple[str, str, str, str]]:
    """Name, value, unit, and what it is over."""
    nats, weight, whole = say("nats"), numbers.count(score.weight), whole_of(score, say)
    over = say("over_weight", weight=weight, rows_read=numbers.count(score.rows))
    if score.weight == score.rows:
        over = say("over_rows", weight=weight)
    error = say("over_clusters", count=numbers.count(score.clusters), what=visible(score.interval_over))
    if score.interval_over == "rows":
        error = say("over_error", count=numbers.count(score.clusters))
    yield say("cross_entropy"), numbers.number(score.cross_entropy), nats, over
    if math.isfinite(score.standard_error):
        yield say("standard_error"), numbers.number(score.standard_error, 2), nats, error
    yield say("bits"), numbers.number(score.bits), say("unit_bits"), over
    perplexity = numbers.number(score.perplexity)
    of = say("of_perplexity")
    if math.isinf(score.perplexity) and math.isfinite(score.log_perplexity):
        of = say("of_perplexity_log", log=numbers.number(score.log_perplexity))
    yield say("perplexity"), perplexity, "", of
    for entry in score.per:
        per = say("of_unit", units=numbers.count(entry.units), unit=visible(entry.unit))
        one = visible(entry.unit.removesuffix("s") if say.lang == "en" else entry.unit)
        yield say("bits_per", unit=one), numbers.number(entry.bits), say("unit_bits"), per
        yield say("perplexity_per", unit=one), numbers.number(entry.perplexity), "", per
    if math.isfinite(score.accuracy):
        yield say("accuracy_short"), numbers.percent(score.accuracy, 2), "", say("of_weight", whole=whole)
    for top in score.top:
        of = say("of_weight", whole=whole)
        yield say("top_k", k=top.k), numbers.percent(top.accuracy, 2), "", of
    if math.isfinite(score.skill):
        of = say("of_skill", prior=numbers.number(score.prior_cross_entropy))
        yield say("skill"), numbers.percent(score.skill, 2), "", of
    if math.isfinite(score.brier):
        yield say("brier"), numbers.number(score.brier), "", over
    if math.isfinite(score.calibration_error):
        of = say("of_calibration", bins=len(score.bins), whole=whole)
        yield say("calibration_error"), numbers.percent(score.calibration_error, 2), "", of
    if score.target_entropy:
        yield say("target_entropy"), numbers.number(score.target_entropy), nats, say("of_target_entropy")
        yield say("kl"), numbers.number(score.kl_divergence), nats, over
    zero = say("of_rows", count=numbers.count(score.rows))
    yield say("zero_rows"), numbers.count(score.zero_probability_rows), "", zero
    if score.zero_probability_rows and math.isfinite(score.clipped_cross_entropy):
        of = say("of_clipped", name=visible(score.clip_name), clip=numbers.number(score.clip, 3))
        yield say("clipped"), numbers.number(score.clipped_cross_entropy), nats, of
