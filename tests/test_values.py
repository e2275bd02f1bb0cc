"""Losses of every combination of options, formats and shapes against the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from oracle import CLASSES, INTEGERS, PAIRS, ROWS, check_loss, draw
from strategies import calls

import kosa

SOME_ROWS = {k: [n for n in ROWS if n * k <= 70_000] for k in CLASSES}


@given(call=calls())
@settings(max_examples=250)
def test_any_combination_of_options_agrees_with_the_definition(call):
    targets, kind, predictions, options = call
    check_loss(targets, kind, predictions, **options)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(
    "pair", [("float32", None), ("float32", "float32"), ("float64", None), ("bfloat16", None)]
)
def test_every_edge_of_rows_and_classes_agrees_with_the_definition(classes, pair):
    rng = np.random.default_rng(classes)
    for rows in SOME_ROWS[classes]:
        targets, z = draw(rng, "logits", *pair, (rows, classes), -1, 4.0)
        check_loss(targets, "logits", z, reduction="none")
        check_loss(targets, "logits", z)


@pytest.mark.parametrize("kind", ["probs", "log_probs"])
@pytest.mark.parametrize("classes", [1, 3, 4095, 4096, 4097, 8193])  # around a tile
@pytest.mark.parametrize("pair", PAIRS[:6])
def test_probabilities_of_every_length_agree_with_the_definition(kind, classes, pair):
    targets, y = draw(np.random.default_rng(classes), kind, *pair, (5, classes), -1, 2.0)
    check_loss(targets, kind, y, reduction="none")


@pytest.mark.parametrize(
    ("rows", "classes"), [(30_000, 10), (700, 513), (60, 8193), (6000, 65)]
)  # ≥ 2 chunks each
@pytest.mark.parametrize("pair", [("float32", None), ("float32", "float32")])
def test_rows_shared_over_threads_agree_with_the_definition(rows, classes, pair):
    targets, z = draw(np.random.default_rng(rows), "logits", *pair, (rows, classes), -1, 4.0)
    weight = np.random.default_rng(1).random(rows)
    check_loss(targets, "logits", z, sample_weight=weight, reduction="none")
    check_loss(targets, "logits", z, sample_weight=weight)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("classes", [5, 100])
def test_class_indices_of_any_integer_type(dtype, classes):
    targets, z = draw(np.random.default_rng(0), "logits", "float32", None, (40, classes), -1, 3.0)
    check_loss(targets.astype(dtype), "logits", z, reduction="none")
    check_loss(targets.astype(dtype), "logits", z, ignore_index=2)


@pytest.mark.parametrize("classes", [5, 100])
@pytest.mark.parametrize("targets", ["float16", "bfloat16", "float32", "float64"])
def test_soft_targets_of_any_format(targets, classes):
    t, z = draw(np.random.default_rng(0), "logits", "float32", targets, (40, classes), -1, 3.0)
    check_loss(t, "logits", z, reduction="none")


@pytest.mark.parametrize("shape", [(1, 8), (16, 100)])
def test_targets_of_any_mass(shape):
    t, z = draw(np.random.default_rng(0), "logits", "float32", "float32", shape, -1, 3.0)
    check_loss(7 * t, "logits", z, reduction="none")
    check_loss(0 * t, "logits", z, reduction="none")


def test_a_scalar_comes_of_one_row_and_of_every_reduction():
    for reduction in ("mean", "sum", "none"):
        loss = kosa.cross_entropy(1, logits=[0.0, 1.0, 2.0], reduction=reduction)
        assert isinstance(loss, np.float64)
        assert loss == pytest.approx(1.4076059644443801, rel=1e-12)


def test_lists_and_integers_in_lists_are_numbers():
    expected = kosa.cross_entropy(np.array([1, 0]), logits=np.array([[0.0, 2.0], [3.0, 1.0]]))
    assert kosa.cross_entropy([1, 0], logits=[[0, 2], [3, 1]]) == expected
    assert kosa.cross_entropy((1, 0), logits=((0, 2.0), (3, 1))) == expected
    assert expected == pytest.approx(0.12692801104297262, rel=1e-12)


def test_the_mean_divides_by_the_weight_of_the_rows_that_count():
    z = np.array([[0.0, 1.0], [2.0, 0.0], [0.5, 0.5], [9.0, 1.0]])
    options = {"class_weight": [2.0, 3.0], "sample_weight": [1.0, 0.5, 4.0, 8.0]}
    each = kosa.cross_entropy([1, 0, 0, -100], logits=z, **options, reduction="none")
    mean = kosa.cross_entropy([1, 0, 0, -100], logits=z, **options)
    assert mean == pytest.approx(each.sum() / (3.0 * 1.0 + 2.0 * 0.5 + 2.0 * 4.0), rel=1e-14)
    assert kosa.cross_entropy([1, 0, 0, -100], logits=z, **options, denominator=7) == pytest.approx(
        each.sum() / 7
    )
    soft = np.array([[0.5, 0.5]] * 4)
    each = kosa.cross_entropy(soft, logits=z, **options, reduction="none")
    assert kosa.cross_entropy(soft, logits=z, **options) == pytest.approx(each.sum() / 13.5, rel=1e-14)


def test_a_sum_over_many_rows_keeps_float64_until_its_end():
    # A float32 running sum of 300,000 losses of ln 2 is off by several units in its sixth digit.
    loss = kosa.cross_entropy(
        np.zeros(300_000, int), logits=np.zeros((300_000, 2), np.float32), reduction="sum"
    )
    assert loss == np.float32(300_000 * np.log(2.0))
