"""The sections of a report that are tables with bars in them: classes, confusions, groups, the worst rows."""

import math
from collections.abc import Sequence

from kosa.scoring.report import numbers
from kosa.scoring.report.bars import Bar, BarTable, bar_table, plain_table
from kosa.scoring.report.markup import Markup, element, join, name
from kosa.scoring.report.sections import section
from kosa.scoring.report.words import Speaker
from kosa.scoring.scores import ClassScore, Figures, GroupScore
from kosa.scoring.tokens import KIND

_PAIRS = 12
_SHORT = 24  # characters of a name in a heading
_MOST = 24  # lines of a table: more would be a list, not a picture


def by_loss(entry: ClassScore | GroupScore) -> float:
    """Sorts the dearest first; NaN is as bad as infinity."""
    return -math.inf if math.isnan(entry.cross_entropy) else -entry.cross_entropy


def carried(entry: ClassScore | GroupScore) -> float:
    """Sorts what carries most of the whole loss first."""
    return -math.inf if math.isnan(entry.cross_entropy) else -entry.cross_entropy * entry.weight


def classes_section(score: Figures, say: Speaker) -> Markup | None:
    """The loss of each class; of many, those that carry most of it."""
    seen = [entry for entry in score.classes if entry.weight > 0]
    if len(seen) < 2:
        return None
    shown = _shown(seen)
    told = {"count": numbers.count(len(seen)), "all": numbers.count(len(score.classes)), "shown": len(shown)}
    caption = (
        "classes_many"
        if len(seen) > _MOST
        else "classes_some"
        if len(seen) < len(score.classes)
        else "classes_all"
    )
    heading = _heading(seen, score, say, "classes_heading")
    table = _losses(shown, score, say, say(caption, **told), say("class"))
    return section(heading, element("figure", table))


def groups_section(score: Figures, say: Speaker) -> Markup | None:
    """The loss of each group; of many, those that carry most of it."""
    seen = [entry for entry in score.groups if entry.weight > 0]
    if score.group is None or not seen:
        return None
    shown = _shown(seen)
    heading = _heading(seen, score, say, "groups_heading", group=name(score.group, _SHORT))
    told = {"count": numbers.count(score.group_count), "shown": len(shown)}
    caption = say("groups_all" if len(shown) == score.group_count else "groups_many", **told)
    return section(heading, element("figure", _losses(shown, score, say, caption, score.group)))


def _heading(
    seen: Sequence[ClassScore] | Sequence[GroupScore], score: Figures, say: Speaker, words: str, **told: str
) -> Markup:
    """The hardest; of many, where small ones are hard by chance, the one that carries most of the loss."""
    whole = score.cross_entropy * score.weight
    if len(seen) > _MOST and 0 < whole < math.inf:
        first = min(seen, key=carried)
        share = numbers.percent(first.cross_entropy * first.weight / whole)
        return say.markup(f"{words}_many", name=name(first.name, _SHORT), share=share, **told)
    first = min(seen, key=by_loss)
    loss = numbers.number(first.cross_entropy, 3)
    return say.markup(words, name=name(first.name, _SHORT), loss=loss, **told)


def _shown(seen: Sequence[ClassScore] | Sequence[GroupScore]) -> list[ClassScore | GroupScore]:
    chosen = sorted(seen, key=carried)[:_MOST] if len(seen) > _MOST else seen
    return sorted(chosen, key=by_loss)


def _losses(
    shown: Sequence[ClassScore | GroupScore], score: Figures, say: Speaker, caption: str, head: str
) -> Markup:
    places = numbers.places_for([entry.cross_entropy for entry in shown])
    whole = score.cross_entropy * score.weight
    known = any(math.isfinite(entry.accuracy) for entry in shown)
    bars = []
    for entry in shown:
        share = entry.cross_entropy * entry.weight / whole if 0 < whole < math.inf else math.nan
        cells = [numbers.fixed(entry.cross_entropy, places), numbers.percent(share)]
        cells += [numbers.percent(entry.accuracy)] if known else []
        cells.append(numbers.count(entry.rows))
        bars.append(Bar(name(entry.name), 0.0, entry.cross_entropy, cells))
    heads = [head, "", say("loss_nats"), say("share_head"), say("rows_head")]
    if known:
        heads.insert(4, say("accuracy_head"))
    mark = (say("mean"), score.cross_entropy)
    return bar_table(BarTable(caption, heads, bars, mark), numbers.tick)


def confusions_section(score: Figures, say: Speaker) -> Markup | None:
    """Which label taken for which class costs most."""
    if not score.confusions:
        return None
    first = score.confusions[0]
    pair = {"label": name(first.label, _SHORT), "predicted": name(first.predicted, _SHORT)}
    heading = say.markup("confusions_heading", **pair)
    shared = all(math.isfinite(entry.share) for entry in score.confusions)
    if shared:
        heading = say.markup("confusions_heading_share", share=numbers.percent(first.share), **pair)
    bars = [
        Bar(
            join(name(entry.label), " → ", name(entry.predicted)),
            0.0,
            entry.share if shared else entry.loss,
            (
                numbers.percent(entry.share) if shared else numbers.number(entry.loss, 3),
                numbers.number(entry.cross_entropy, 3),
                numbers.count(entry.rows),
            ),
            style="bar loss",
        )
        for entry in score.confusions[:_PAIRS]
    ]
    first_head = say("share_head" if shared else "loss_whole")
    heads = (say("label_predicted"), "", first_head, say("loss_nats"), say("rows_head"))
    caption = say("confusions_caption", shown=len(bars), pairs=numbers.count(score.confused_pairs))
    if score.confused_pairs < len(bars):
        caption = say("confusions_caption_unknown", shown=len(bars))
    table = bar_table(BarTable(caption, heads, bars), numbers.percent_tick if shared else numbers.tick)
    return section(heading, element("figure", table))


def worst_section(score: Figures, say: Speaker) -> Markup | None:
    """The rows of largest loss."""
    if not score.worst:
        return None
    rows = [
        (
            name(row.id),
            numbers.number(row.loss),
            name(row.label),
            name("–" if row.predicted is None else row.predicted),
            numbers.percent(row.probability),
        )
        for row in score.worst
    ]
    # Of a token's own log-probability nothing follows about what else was predicted.
    columns = 2 if score.predictions == KIND else 5
    heads = [say(head) for head in ("row_or_id", "loss_nats", "label", "predicted", "confidence")]
    table = plain_table(
        say("worst_caption", shown=len(rows)), heads[:columns], [row[:columns] for row in rows]
    )
    return section(say("worst_heading"), table)
