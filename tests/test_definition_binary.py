"""The binary loss of the oracle: against mpmath, torch in float64 and differences taken in mpmath."""

import mpmath as mp
import numpy as np
import pytest
import torch

from kosa import definition

NAN, INF = np.nan, np.inf


def each(targets, **options):
    loss, grad = definition.binary_loss_with_grad(np.asarray(targets), reduction="none", **options)
    return loss.tolist(), grad.tolist()


@pytest.mark.parametrize("z", [-700.0, -69.1, -3.0, 0.0, 0.5, 20.0, 40.0, 700.0])
@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("options", [{}, {"pos_weight": 3.0}, {"label_smoothing": 0.125, "pos_weight": 0.5}])
def test_logits_agree_with_mpmath(z, t, options):
    epsilon, weight = options.get("label_smoothing", 0.0), options.get("pos_weight", 1.0)
    smooth = mp.mpf(t) * (1 - epsilon) + mp.mpf(epsilon) / 2

    def exact(x):
        p, q = 1 / (1 + mp.exp(-x)), 1 / (1 + mp.exp(x))
        return -(weight * smooth * mp.log(p) + (1 - smooth) * mp.log(q))

    with mp.workdps(700):
        loss, slope = float(exact(mp.mpf(z))), float(mp.diff(exact, mp.mpf(z)))
    result = definition.binary_loss_with_grad([t], logits=[z], **options)
    np.testing.assert_allclose(result.loss, loss, rtol=1e-14, atol=0)
    # A target strictly between 0 and 1 has a gradient of two opposed terms, each at most weight + 1.
    np.testing.assert_allclose(
        result.grad, [slope], rtol=1e-14, atol=0 if t in (0, 1) and not epsilon else 1e-15
    )


@pytest.mark.parametrize("p", [1e-300, 1e-30, 0.25, 1 - 2**-40])
@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_probabilities_agree_with_mpmath(p, t):
    def exact(y):
        return -(2 * t * mp.log(y) + (1 - t) * mp.log(1 - y))

    with mp.workdps(700):
        loss, slope = float(exact(mp.mpf(p))), float(mp.diff(exact, mp.mpf(p), h=mp.mpf(10) ** -400))
    result = definition.binary_loss_with_grad([t], probs=[p], pos_weight=2.0)
    np.testing.assert_allclose(result.loss, loss, rtol=1e-14, atol=0)
    np.testing.assert_allclose(result.grad, [slope], rtol=1e-14, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_agrees_with_torch(reduction):
    rng = np.random.default_rng(0)
    z, t, weight, pos_weight = (
        4 * rng.normal(size=(5, 3)),
        rng.random((5, 3)),
        rng.random((5, 1)),
        rng.random(3),
    )
    logits = torch.tensor(z, requires_grad=True)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits,
        torch.tensor(t),
        torch.tensor(weight),
        pos_weight=torch.tensor(pos_weight),
        reduction=reduction,
    )
    (slope,) = torch.autograd.grad(expected.sum(), logits)
    loss, grad = definition.binary_loss_with_grad(
        t,
        logits=z,
        sample_weight=weight,
        pos_weight=pos_weight,
        reduction=reduction,
        denominator=15,  # torch divides by the number of elements
    )
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-13)
    np.testing.assert_allclose(grad, slope.numpy(), rtol=1e-12, atol=1e-16)


def test_the_mean_divides_by_the_weights_of_the_elements_that_count():
    options = {"logits": [1.0, 2.0, NAN, NAN], "sample_weight": [1.0, 3.0, 0.0, 5.0], "ignore_index": 9}
    losses, grads = each([1, 0, 1, 9], **options)
    assert losses[2:] == [0, 0]
    assert grads[2:] == [0, 0]
    mean = definition.binary_loss_with_grad(np.array([1, 0, 1, 9]), **options)
    assert mean.loss == pytest.approx((losses[0] + losses[1]) / 4, rel=1e-15)
    np.testing.assert_allclose(mean.grad, np.array(grads) / 4, rtol=1e-15)


@pytest.mark.parametrize("t", [0, 1])
def test_infinite_logits_are_certain(t):
    assert each([t, t], logits=[INF, -INF]) == (
        [0 if t else INF, INF if t else 0],
        [0 if t else 1, -1 if t else 0],
    )


def test_certain_probabilities_are_right_or_infinitely_wrong():
    assert each([1, 0, 1, 0], probs=[1.0, 0.0, 0.0, 1.0]) == ([0, 0, INF, INF], [-1, 1, -INF, INF])


@pytest.mark.parametrize(("kind", "bad"), [("logits", NAN), ("probs", NAN), ("probs", INF), ("probs", -INF)])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_what_is_no_prediction_is_nan_in_its_element_alone(kind, bad, t):
    loss, grad = each([t, t], **{kind: [bad, 0.5]}, pos_weight=[0.0, 1.0])
    assert np.isnan([loss[0], grad[0]]).all()
    assert np.isfinite([loss[1], grad[1]]).all()


def test_targets_may_be_bool_integer_or_float():
    expected = each([1.0, 0.0], logits=[0.3, 0.4])
    assert each([True, False], logits=[0.3, 0.4]) == expected
    assert each([1, 0], logits=[0.3, 0.4]) == expected


@pytest.mark.parametrize("empty", ["nan", "zero"])
def test_a_mean_of_nothing_is_nan_or_zero_with_no_gradient(empty):
    loss, grad = definition.binary_loss_with_grad(np.array([-100]), logits=[2.0], empty=empty)
    assert np.isnan(loss) if empty == "nan" else loss == 0
    assert grad.tolist() == [0]


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"`targets` has shape \(2,\), `probs` has \(3,\)"):
        definition.binary_loss([0, 1], probs=[0.1, 0.2, 0.3])
