"""The figures of each row that the oracle gives: against mpmath and against their own definitions."""

import mpmath as mp
import numpy as np
import pytest

from kosa import definition

NAN, INF = np.nan, np.inf


def rows(kind, z):
    return {"logits": z, "probs": definition.softmax(z), "log_probs": definition.log_softmax(z)}[kind]


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
def test_figures_agree_with_mpmath(kind):
    rng = np.random.default_rng(0)
    predictions, t = rows(kind, 3 * rng.normal(size=(4, 5))), rng.dirichlet(np.ones(5), 4)
    stats = definition.statistics(t, **{kind: predictions})
    for n in range(4):
        with mp.workdps(50):
            x = [mp.mpf(v) for v in predictions[n]]
            scores = x if kind == "probs" else [mp.exp(v) for v in x]
            total = mp.fsum(scores)
            p = [v / total for v in scores] if kind == "logits" else scores
            target = [mp.mpf(v) for v in t[n]]
            exact = {
                "loss": -mp.fsum(a * mp.log(b) for a, b in zip(target, p, strict=True)),
                "lse": mp.log(total),
                "confidence": max(p),
                "entropy": -mp.fsum(v * mp.log(v) for v in p),
                "brier": mp.fsum((b - a) ** 2 for a, b in zip(target, p, strict=True)),
                "target_entropy": -mp.fsum(v * mp.log(v) for v in target),
            }
        for name, value in exact.items():
            # lse of a normalised row is a rounding error about 0: nothing there to be relative to.
            tolerance = {"rtol": 1e-13, "atol": 1e-15 if name == "lse" else 0}
            np.testing.assert_allclose(getattr(stats, name)[n], float(value), **tolerance, err_msg=name)
        assert stats.argmax[n] == max(range(5), key=lambda k, n=n: predictions[n, k])
    assert stats.argmax.dtype == np.int64


@pytest.mark.parametrize("gap", [30.0, 100.0, 600.0])
def test_confident_rows_keep_the_relative_accuracy_of_every_figure(gap):
    stats = definition.statistics(np.int64(0), logits=np.array([gap, 0.0, 1.0]))
    with mp.workdps(700):
        total = mp.exp(gap) + 1 + mp.exp(1)
        p = [mp.exp(gap) / total, 1 / total, mp.exp(1) / total]
        entropy = float(-mp.fsum(v * mp.log(v) for v in p))
        brier = float((1 - p[0]) ** 2 + p[1] ** 2 + p[2] ** 2)
    np.testing.assert_allclose(stats.entropy, entropy, rtol=1e-13, atol=0)
    np.testing.assert_allclose(stats.brier, brier, rtol=1e-13, atol=1e-320)


def test_the_class_axis_may_stand_anywhere_and_the_options_shape_the_prediction():
    rng = np.random.default_rng(1)
    z, index = rng.normal(size=(2, 4, 3)), rng.integers(0, 4, (2, 3))
    stats = definition.statistics(index, logits=z, axis=1, softcap=2.0, temperature=0.5, label_smoothing=0.1)
    last = 2 * np.tanh(np.moveaxis(z, 1, -1) / 2) / 0.5
    np.testing.assert_allclose(stats.confidence, definition.softmax(last).max(axis=-1), rtol=1e-14)
    np.testing.assert_allclose(stats.lse, definition.log_sum_exp(last), rtol=1e-14)
    expected = definition.loss(index, logits=last, label_smoothing=0.1, reduction="none")
    np.testing.assert_allclose(stats.loss, expected, rtol=1e-14)
    np.testing.assert_allclose(
        stats.brier, ((definition.softmax(last) - np.eye(4)[index]) ** 2).sum(-1), rtol=1e-12
    )


def test_without_targets_only_the_prediction_is_described():
    stats = definition.statistics(probs=np.array([[0.5, 0.5], [1.0, 0.0]]))
    assert stats.loss is None
    assert stats.brier is None
    assert stats.target_entropy is None
    np.testing.assert_allclose(stats.entropy, [np.log(2), 0], rtol=1e-15)
    assert stats.argmax.tolist() == [0, 0]
    assert stats.lse.tolist() == [0, 0]


def test_an_ignored_row_has_neither_loss_nor_brier():
    stats = definition.statistics(np.array([-100, 1]), logits=np.array([[NAN, 0.0], [0.0, 0.0]]))
    assert stats.loss[0] == stats.brier[0] == stats.target_entropy[0] == 0
    assert stats.brier[1] == 0.5
    assert stats.argmax.tolist() == [-1, 0]


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
@pytest.mark.parametrize(("bad", "argmax"), [(NAN, -1), (INF, 1)])
def test_a_spoiled_row_is_nan_in_every_figure_but_argmax(kind, bad, argmax):
    predictions = np.array([[0.5, bad], [0.5, 0.25]])
    stats = definition.statistics(np.array([0, 0]), **{kind: predictions})
    assert stats.argmax.tolist() == [argmax, 0]
    for name in ("loss", "lse", "confidence", "entropy", "brier"):
        assert np.isnan(getattr(stats, name)[0]), name
        assert np.isfinite(getattr(stats, name)[1]), name


def test_probabilities_that_are_all_zero_sum_to_zero_however_they_are_given():
    for given in ({"probs": np.zeros((1, 2))}, {"log_probs": np.full((1, 2), -INF)}):
        stats = definition.statistics(np.array([1]), **given)
        assert (stats.lse[0], stats.loss[0], stats.confidence[0], stats.entropy[0]) == (-INF, INF, 0, 0)
    assert np.isnan(definition.statistics(logits=np.full((1, 2), -INF)).lse[0])


def test_masked_classes_add_nothing_to_the_entropy():
    stats = definition.statistics(logits=np.array([0.0, -INF, 0.0]))
    assert stats.entropy == pytest.approx(np.log(2), rel=1e-15)
    assert stats.confidence == 0.5
