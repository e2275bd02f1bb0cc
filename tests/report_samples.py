"""Scores made by hand, so that the tests of the report need no data: a usual one, a hostile one, an infinite one."""

import math
from dataclasses import replace

import numpy as np

from kosa.scoring.result import Score
from kosa.scoring.scores import (
    Bin,
    ClassScore,
    ConfusionScore,
    GroupScore,
    LossBin,
    Split,
    TemperatureScore,
    TopScore,
    UnitScore,
    WorstRow,
)

HOSTILE = [
    "<script>document.title = 'run'</script>",
    '"><img src=x onerror=alert(1)>',
    "\u202egnp.exe",
    "a\x00b\x07c\ud800",
    "&amp;{braces}%s",
    "長い" * 60,
    "Ł" + "o" * 500,
    " ",
]


def sample(rows: int = 5000, classes: int = 10, seed: int = 3, **changes: object) -> Score:
    """Figures of `rows` simulated rows, each worked out here in plain NumPy."""
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, rows)
    logits = random.standard_normal((rows, classes))
    logits[np.arange(rows), label] += 4.0 - 0.25 * label
    logits *= 1.4
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    loss = -np.log(probs[np.arange(rows), label])
    predicted, confidence = probs.argmax(axis=1), probs.max(axis=1)
    right = predicted == label
    mean, error = float(loss.mean()), float(loss.std(ddof=1) / math.sqrt(rows))
    prior = math.log(classes)
    uncertainty, miscalibration = prior, 0.02 * mean
    found = Score(
        rows=rows,
        cross_entropy=mean,
        bits=mean / math.log(2),
        perplexity=math.exp(mean),
        log_perplexity=mean,
        standard_error=error,
        low=mean - 1.96 * error,
        high=mean + 1.96 * error,
        confidence=0.95,
        interval_over="rows",
        clusters=rows,
        weight=float(rows),
        accuracy=float(right.mean()),
        top=(TopScore(5, 0.991),),
        brier=float(((probs - np.eye(classes)[label]) ** 2).sum(axis=1).mean()),
        target_entropy=0.0,
        kl_divergence=mean,
        prior_cross_entropy=prior,
        skill=1 - mean / prior,
        zero_probability_rows=0,
        clip=2.0**-23,
        clip_name="float32 epsilon",
        clipped_cross_entropy=mean,
        predictions="logits",
        per=(UnitScore("bytes", 4.2 * rows, mean / 4.2, mean / 4.2 / math.log(2), math.exp(mean / 4.2)),),
        calibration_error=float(abs(confidence.mean() - right.mean())),
        bins=tuple(_bins(confidence, right, 15)),
        loss_split=Split(mean, miscalibration, uncertainty + miscalibration - mean, uncertainty),
        confidence_split=Split(0.1, 0.01, 0.04, 0.13),
        temperature=TemperatureScore(1.38, mean - 0.012, 0.012, at_edge=False),
        histogram=tuple(_histogram(loss)),
        confusions=tuple(_confusions(label, predicted, loss)),
        confused_pairs=len(set(zip(label[~right].tolist(), predicted[~right].tolist(), strict=True))),
        classes=tuple(
            ClassScore(f"{k}", int(n := (label == k).sum()), float(n), *_means(loss, right, label == k))
            for k in range(classes)
        ),
        group="language",
        groups=tuple(
            GroupScore(name, int(n := (label % 4 == k).sum()), float(n), *_means(loss, right, label % 4 == k))
            for k, name in enumerate(("English", "日本語", "العربية", "Ελληνικά"))
        ),
        group_count=4,
        worst=tuple(
            WorstRow(
                int(at), int(at), str(label[at]), float(loss[at]), str(predicted[at]), float(confidence[at])
            )
            for at in np.argsort(-loss)[:5]
        ),
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def infinite() -> Score:
    """Seven rows whose label had probability 0."""
    found = sample()
    loss = (*found.histogram, LossBin(math.inf, math.inf, 7, 7.0))
    return replace(
        found,
        cross_entropy=math.inf,
        bits=math.inf,
        perplexity=math.inf,
        log_perplexity=math.inf,
        standard_error=math.nan,
        low=math.nan,
        high=math.nan,
        kl_divergence=math.inf,
        skill=-math.inf,
        zero_probability_rows=7,
        loss_split=Split(math.inf, math.nan, math.nan, found.prior_cross_entropy),
        histogram=loss,
        classes=(replace(found.classes[0], cross_entropy=math.inf), *found.classes[1:]),
        worst=tuple(replace(row, loss=math.inf) for row in found.worst),
        confusions=tuple(replace(entry, loss=math.inf, share=math.nan) for entry in found.confusions),
    )


def hostile() -> Score:
    """Every name that comes from the data tries to be markup, to reverse the text, or to be endless."""
    found = sample(classes=len(HOSTILE))
    return replace(
        found,
        classes=tuple(replace(entry, name=name) for entry, name in zip(found.classes, HOSTILE, strict=True)),
        group=HOSTILE[0],
        groups=tuple(replace(entry, name=name) for entry, name in zip(found.groups, HOSTILE, strict=False)),
        interval_over=HOSTILE[1],
        confusions=tuple(
            replace(entry, label=HOSTILE[int(entry.label)], predicted=HOSTILE[int(entry.predicted)])
            for entry in found.confusions
        ),
        worst=tuple(
            replace(row, id=name, label=name, predicted=name)
            for row, name in zip(found.worst, HOSTILE, strict=False)
        ),
        per=(replace(found.per[0], unit=HOSTILE[0]),),
        clip_name=HOSTILE[0],
    )


def _means(loss: np.ndarray, right: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    return float(loss[chosen].mean()), float(right[chosen].mean())


def _bins(confidence: np.ndarray, right: np.ndarray, count: int) -> list[Bin]:
    place = np.minimum((confidence * count).astype(int), count - 1)
    found = []
    for at in range(count):
        chosen = place == at
        rows = int(chosen.sum())
        means = (float(confidence[chosen].mean()), float(right[chosen].mean())) if rows else (math.nan,) * 2
        found.append(Bin(at / count, (at + 1) / count, rows, float(rows), *means))
    return found


def _histogram(loss: np.ndarray) -> list[LossBin]:
    place, rows = np.unique(np.floor(4 * np.log2(loss)).astype(int), return_counts=True)
    return [
        LossBin(2 ** (at / 4), 2 ** ((at + 1) / 4), int(n), float(n))
        for at, n in zip(place, rows, strict=True)
    ]


def _confusions(label: np.ndarray, predicted: np.ndarray, loss: np.ndarray) -> list[ConfusionScore]:
    found = []
    for pair in sorted({(a, b) for a, b in zip(label.tolist(), predicted.tolist(), strict=True) if a != b}):
        chosen = (label == pair[0]) & (predicted == pair[1])
        rows, total = int(chosen.sum()), float(loss[chosen].sum())
        names = [str(number) for number in pair]
        found.append(
            ConfusionScore(*names, rows, float(rows), total, total / float(loss.sum()), total / rows)
        )
    return sorted(found, key=lambda entry: -entry.loss)[:20]


def compared() -> Score:
    """A sample with a comparison beside it."""
    from kosa.scoring.scores import Comparison, PairScore

    found, other = sample(), sample(seed=4)
    random = np.random.default_rng(0)
    classes = tuple(
        PairScore(
            entry.name, entry.rows, entry.weight, value := float(random.normal(-0.03, 0.05)), value / 10, 0.6
        )
        for entry in found.classes
    )
    groups = tuple(
        PairScore(
            entry.name, entry.rows, entry.weight, value := float(random.normal(-0.03, 0.05)), value / 4, 0.55
        )
        for entry in found.groups
    )
    comparison = Comparison(
        name="baseline.parquet",
        rows=found.rows,
        weight=found.weight,
        difference=-0.0312,
        standard_error=0.0071,
        low=-0.0451,
        high=-0.0173,
        confidence=0.95,
        interval_over="language",
        clusters=4,
        wins=0.571,
        ties=0.002,
        losses=0.427,
        classes=classes,
        groups=groups,
        score=other,
    )
    return replace(found, against=comparison)
