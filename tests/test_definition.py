"""The oracle itself: against mpmath, against differences taken in mpmath, and against torch in float64."""

import doctest
import itertools
import subprocess
import sys

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kosa import definition

# 400 digits: log(1 + 1e-304) of a row confident to the limits of float64 still has a hundred of its own.
DIGITS = 400
# Wide enough to differ by more than exp overflows, narrow enough that float64 holds z − m to 1e-13.
LOGITS = st.floats(-30, 30, allow_subnormal=False)
NAN, INF = np.nan, np.inf


def mp_lse(z):
    return mp.log(mp.fsum(mp.exp(v) for v in z))


def mp_row_loss(z, t, class_weight, epsilon=0.0, softcap=None, temperature=1.0, z_loss=0.0):
    """One row as the formulae say, in the order that they say, in high precision."""
    z, t = [mp.mpf(v) for v in z], [mp.mpf(v) for v in t]
    if softcap is not None:
        z = [softcap * mp.tanh(v / softcap) for v in z]
    z = [v / mp.mpf(temperature) for v in z]
    a = [
        mp.mpf(w) * ((1 - mp.mpf(epsilon)) * v + mp.mpf(epsilon) / len(t))
        for w, v in zip(class_weight, t, strict=True)
    ]
    lse = mp_lse(z)
    return mp.fsum(w * (lse - v) for w, v in zip(a, z, strict=True)) + mp.mpf(z_loss) * lse**2


def mp_gradient(function, x):
    """Central differences in `DIGITS` digits: exact to far more than float64 holds."""
    h, slopes = mp.mpf(10) ** (-DIGITS // 3), []
    for k in range(len(x)):
        up, down = [mp.mpf(v) for v in x], [mp.mpf(v) for v in x]
        up[k] += h
        down[k] -= h
        slopes.append(float((function(up) - function(down)) / (2 * h)))
    return slopes


@st.composite
def problems(draw):
    rows, classes = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    logits = draw(arrays(np.float64, (rows, classes), elements=LOGITS))
    weights = st.sampled_from([0.25, 1.0, 3.0])
    soft = draw(st.booleans())
    if soft:
        shares = draw(arrays(np.float64, (rows, classes), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0])))
        targets = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1)
    else:
        targets = draw(arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    options = {
        "class_weight": draw(st.none() | arrays(np.float64, classes, elements=weights)),
        "sample_weight": draw(st.none() | arrays(np.float64, rows, elements=weights)),
        "label_smoothing": draw(st.sampled_from([0.0, 0.1, 1.0])),
        "softcap": draw(st.sampled_from([None, 5.0, 30.0])),
        "temperature": draw(st.sampled_from([1.0, 0.5, 2.0])),
        "z_loss": draw(st.sampled_from([0.0, 1e-3])),
        "denominator": draw(st.sampled_from([None, 7.0])),
    }
    return logits, targets, options


def test_product_of_the_text():
    product = definition.dot([[1, 2, 3], [4, 5, 6]], [[7, 8], [9, 10], [11, 12]])
    assert product.tolist() == [[58, 64], [139, 154]]


def test_product_sums_over_columns_of_the_left_and_rows_of_the_right():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 5)), rng.normal(size=(5, 2))
    by_hand = [[sum(a[i, k] * b[k, j] for k in range(5)) for j in range(2)] for i in range(3)]
    np.testing.assert_allclose(definition.dot(a, b), by_hand, rtol=1e-14)


def test_a_vector_is_a_row_and_its_transpose_a_column():
    assert definition.transpose([1, 2, 3]).tolist() == [[1], [2], [3]]
    assert definition.dot([1, 2, 3], definition.transpose([4, 5, 6])).tolist() == [[32]]
    assert definition.dot(definition.transpose([1, 2]), [3, 4, 5]).tolist() == [[3, 4, 5], [6, 8, 10]]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            (1, 3),
            (1, 3),
            r"`a` is 1×3 and `b` is 1×3: .*columns of the left \(3\) must equal the rows of the right \(1\)",
        ),
        ((1, 3), (1, 3), r"Both are row vectors: transpose the right one to 3×1"),
        ((2, 3), (4, 3), r"`a` is 2×3 and `b` is 4×3: .* Transpose the right one to 3×4"),
        ((2, 3), (2, 4), r"`a` is 2×3 and `b` is 2×4: .* Transpose the left one to 3×2"),
        ((2, 3), (4, 5), r"columns of the left \(3\) must equal the rows of the right \(4\)\.$"),
        ((2, 3, 4), (4, 5), r"`a` must be a vector or a matrix, but has shape \(2, 3, 4\)"),
    ],
)
def test_shapes_that_do_not_multiply_are_named(a, b, message):
    with pytest.raises(ValueError, match=message):
        definition.dot(np.ones(a), np.ones(b))


def test_one_row_is_minus_t_times_log_y_transposed():
    t, y = [0.25, 0.75, 0.0], [0.5, 0.25, 0.25]
    expected = -(0.25 * np.log(0.5) + 0.75 * np.log(0.25))
    assert definition.cross_entropy(t, y) == pytest.approx(expected, rel=1e-15)
    assert definition.cross_entropy([t], [y]) == definition.cross_entropy(t, y)


def test_one_row_where_zero_times_log_zero_is_zero():
    assert definition.cross_entropy([0, 1], [0, 1]) == 0
    assert not np.signbit(definition.cross_entropy([0, 1], [0, 1]))
    assert definition.cross_entropy([1, 0], [0, 1]) == INF
    assert np.isnan(definition.cross_entropy([1, 0], [1, NAN]))


def test_a_batch_is_the_diagonal_of_the_product_that_it_does_not_form():
    rng = np.random.default_rng(1)
    t, y = rng.dirichlet(np.ones(4), 6), rng.dirichlet(np.ones(4), 6)
    losses = definition.batch_cross_entropy(t, y)
    np.testing.assert_allclose(losses, np.diag(-definition.dot(t, np.log(y).T)), rtol=1e-14)
    np.testing.assert_allclose(
        losses, [definition.cross_entropy(a, b) for a, b in zip(t, y, strict=True)], rtol=1e-14
    )


def test_rows_that_do_not_pair_are_named():
    with pytest.raises(ValueError, match=r"`t` is 1×3 and `y` is 1×2"):
        definition.cross_entropy([0, 1, 0], [0.5, 0.5])
    with pytest.raises(ValueError, match=r"`t` must be one row, but is 2×2: batch_cross_entropy takes many"):
        definition.cross_entropy(np.eye(2), np.eye(2))


@pytest.mark.parametrize("gap", [0.0, 1.0, 20.0, 40.0, 69.1, 100.0, 700.0])
def test_confident_rows_keep_their_relative_accuracy(gap):
    z, t = np.array([-3.0, gap - 3, -3.5]), np.array([0.0, 1.0, 0.0])
    with mp.workdps(DIGITS):
        lse = mp_lse([mp.mpf(v) for v in z])
        p = [mp.exp(mp.mpf(v) - lse) for v in z]
        loss, grad = float(lse - mp.mpf(z[1])), [float(p[0]), float(p[1] - 1), float(p[2])]
    result = definition.loss_with_grad(t, logits=z)
    np.testing.assert_allclose(result.loss, loss, rtol=1e-13, atol=0)
    np.testing.assert_allclose(result.grad, grad, rtol=1e-13, atol=0)
    np.testing.assert_allclose(definition.log_softmax(z)[1], -loss, rtol=1e-13, atol=0)
    np.testing.assert_allclose(definition.gradient(t, z), grad, rtol=1e-13, atol=0)
    stats = definition.statistics(np.int64(1), logits=z)
    np.testing.assert_allclose(stats.brier, sum(g * g for g in grad), rtol=1e-13, atol=0)


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
def test_huge_logits_neither_overflow_nor_lose_the_sum(scale):
    z = scale * np.array([1.0, 1.0, -1.0])
    sum_of_three = np.log(2 + np.exp(-2 * scale))
    np.testing.assert_allclose(definition.log_sum_exp(z), scale + sum_of_three, rtol=1e-15)
    np.testing.assert_allclose(definition.softmax(z).sum(), 1, rtol=1e-15)
    np.testing.assert_allclose(definition.loss(np.int64(2), logits=z), 2 * scale + sum_of_three, rtol=1e-15)


def test_masked_classes_have_probability_zero():
    z = np.array([1.0, -INF, 2.0])
    assert definition.softmax(z)[1] == 0
    assert definition.log_softmax(z)[1] == -INF
    assert definition.log_sum_exp(z) == definition.log_sum_exp(z[[0, 2]])


@pytest.mark.parametrize("z", [[-INF, -INF], [0.0, INF], [NAN, 0.0], [INF, -INF]])
def test_rows_without_a_softmax_are_nan(z):
    for function in (definition.log_sum_exp, definition.softmax, definition.log_softmax):
        assert np.isnan(function(z)).all()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(problems())
def test_every_option_together_agrees_with_mpmath(problem):
    logits, targets, options = problem
    rows, classes = logits.shape
    soft = targets.ndim == 2
    t = targets if soft else np.eye(classes)[targets]
    class_weight = np.ones(classes) if options["class_weight"] is None else options["class_weight"]
    sample_weight = np.ones(rows) if options["sample_weight"] is None else options["sample_weight"]
    numbers = (options["label_smoothing"], options["softcap"], options["temperature"], options["z_loss"])
    with mp.workdps(DIGITS):
        losses = [
            float(w * mp_row_loss(z, r, class_weight, *numbers))
            for w, z, r in zip(sample_weight, logits, t, strict=True)
        ]
        grads = np.array(
            [
                np.multiply(w, mp_gradient(lambda x, r=r: mp_row_loss(x, r, class_weight, *numbers), z))
                for w, z, r in zip(sample_weight, logits, t, strict=True)
            ]
        )
    # Entries of A·p − a may cancel: they are exact against the row's own scale, not each against itself.
    scale = 1e-13 * sample_weight[:, None] * (class_weight.max() + np.abs(grads).max(axis=1, keepdims=True))
    divisor = options.pop("denominator") or (sample_weight * (1 if soft else class_weight[targets])).sum()

    each, grad = definition.loss_with_grad(targets, logits=logits, reduction="none", **options)
    np.testing.assert_allclose(each, losses, rtol=1e-12, atol=0)
    assert (np.abs(grad - grads) <= 1e-12 * np.abs(grads) + scale).all()
    total, grad = definition.loss_with_grad(targets, logits=logits, reduction="sum", **options)
    np.testing.assert_allclose(total, np.sum(losses), rtol=1e-12)
    assert (np.abs(grad - grads) <= 1e-12 * np.abs(grads) + scale).all()
    mean, grad = definition.loss_with_grad(targets, logits=logits, denominator=divisor, **options)
    np.testing.assert_allclose(mean, np.sum(losses) / divisor, rtol=1e-12)
    assert (np.abs(grad * divisor - grads) <= 1e-12 * np.abs(grads) + scale).all()
    assert definition.loss(targets, logits=logits, **options) == pytest.approx(
        np.sum(losses) / (sample_weight * (1 if soft else class_weight[targets])).sum(), rel=1e-12
    )


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_agrees_with_torch(soft, smoothing, weighted, reduction):
    rng = np.random.default_rng(2)
    logits, weight = 5 * rng.normal(size=(6, 4, 3)), rng.random(4)
    targets = rng.dirichlet(np.ones(4), (6, 3)).swapaxes(1, 2) if soft else rng.integers(0, 4, (6, 3))
    if not soft:
        targets[2, 1] = targets[5] = -100
    z = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        z,
        torch.tensor(targets),
        weight=torch.tensor(weight) if weighted else None,
        label_smoothing=smoothing,
        reduction=reduction,
    )
    (slope,) = torch.autograd.grad(expected.sum(), z)
    loss, grad = definition.loss_with_grad(
        targets,
        logits=logits,
        axis=1,
        class_weight=weight if weighted else None,
        label_smoothing=smoothing,
        reduction=reduction,
    )
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(grad, slope.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
def test_the_three_kinds_of_prediction_agree(kind):
    rng = np.random.default_rng(3)
    z, t = rng.normal(size=(5, 4)), rng.dirichlet(np.ones(4), 5)
    given = {"logits": z, "probs": definition.softmax(z), "log_probs": definition.log_softmax(z)}[kind]
    options = {"class_weight": [1, 2, 0, 3], "label_smoothing": 0.1, "sample_weight": [1, 2, 0, 4, 5]}
    loss, grad = definition.loss_with_grad(t, **{kind: given}, **options)
    assert loss == pytest.approx(definition.loss(t, logits=z, **options), rel=1e-14)
    h = 1e-6
    for n, k in itertools.product(range(5), range(4)):
        bump = np.zeros((5, 4))
        bump[n, k] = h
        up, down = (definition.loss(t, **{kind: given + sign * bump}, **options) for sign in (1, -1))
        assert grad[n, k] == pytest.approx((up - down) / (2 * h), abs=2e-9, rel=1e-7)
    assert (grad[2] == 0).all()


def row(predictions, targets, kind="logits", **options):
    loss, grad = definition.loss_with_grad(
        np.asarray(targets), **{kind: np.asarray(predictions)}, reduction="none", **options
    )
    return loss.tolist(), grad.tolist()


def test_a_target_of_probability_zero_is_infinite():
    assert row([0.0, -INF], 1) == (INF, [1, -1])
    assert row([0.0, -INF], 0) == (0, [0, 0])
    assert row([0.0, 1.0], 0, "probs") == (INF, [-INF, 0])
    assert row([-INF, 0.0], [0.5, 0.5], "log_probs") == (INF, [-0.5, -0.5])
    assert row([-INF, -INF], 0, "log_probs") == (INF, [-1, 0])
    assert row([0.0, 1.0], 1, "probs", label_smoothing=0.1)[0] == INF


def test_zero_targets_meet_zero_probabilities_in_silence():
    assert row([-INF, 2.0, -INF], [0, 1.0, 0]) == (0, [0, 0, 0])
    assert row([0.0, 1.0], [0, 1.0], "probs") == (0, [0, -1])
    assert row([-INF, 0.0], [0, 1.0], "log_probs") == (0, [0, -1])
    assert row([-INF, 1.0], [0, 1.0], "probs") == (0, [0, -1])


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("position", [0, 1])
def test_nan_and_plus_infinity_spoil_their_row_alone(kind, bad, position):
    predictions = np.array([[0.25, 0.75], [0.5, 0.5]])
    predictions[0, position] = bad
    loss, grad = row(predictions, [1, 1], kind)
    assert np.isnan(loss[0])
    assert np.isnan(grad[0]).all()
    assert np.isfinite(loss[1])
    assert np.isfinite(grad[1]).all()
    soft, _ = row(predictions, [[0.0, 0.0], [0.0, 1.0]], kind)
    assert np.isnan(soft[0]), "a row that counts is spoiled even where all its targets are 0"


def test_all_classes_masked_is_nan_and_a_nan_target_too():
    loss, grad = row([-INF, -INF], 0)
    assert np.isnan([loss, *grad]).all()
    for kind in ("logits", "probs", "log_probs"):
        loss, grad = row([0.5, 0.5], [NAN, 1.0], kind)
        assert np.isnan([loss, *grad]).all()


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
@pytest.mark.parametrize("content", [NAN, INF, -INF])
def test_rows_that_do_not_count_are_zero_whatever_they_hold(kind, content):
    predictions = np.full((4, 2), content)
    predictions[3] = 0.5
    loss, grad = row(
        predictions, [-7, 0, 1, 1], kind, ignore_index=-7, sample_weight=[1, 0, 1, 1], class_weight=[2, 0]
    )
    assert loss == [0, 0, 0, 0]
    assert not np.any(grad)
    mean = definition.loss(
        np.array([-7, 0, 0]), **{kind: predictions[[0, 1, 3]]}, ignore_index=-7, sample_weight=[1, 0, 3]
    )
    assert mean == pytest.approx(-np.log(0.5) if kind != "log_probs" else -0.5)


def test_a_class_of_weight_zero_counts_once_smoothed_or_penalised():
    options = {"class_weight": [0.0, 1.0]}
    assert np.isnan(row([NAN, 0.0], 0, label_smoothing=0.1, **options)[0])
    assert np.isnan(row([NAN, 0.0], 0, z_loss=0.1, **options)[0])
    assert row([3.0, 3.0], 0, z_loss=0.1, **options)[0] == pytest.approx(0.1 * (3 + np.log(2)) ** 2)


def test_an_infinite_logit_under_a_softcap_is_the_softcap():
    capped = row([2.0, -3.0, 3.0], 0, temperature=2.0)
    loss, grad = row([3 * np.arctanh(2 / 3), -INF, INF], 0, softcap=3.0, temperature=2.0)
    assert loss == pytest.approx(capped[0], rel=1e-14)
    assert grad[1:] == [0, 0]
    assert grad[0] == pytest.approx(capped[1][0] * (1 - (2 / 3) ** 2), rel=1e-13)


@pytest.mark.parametrize("x", [0.5, 10.0, 40.0, 100.0])
def test_the_slope_of_the_softcap_does_not_cancel(x):
    grad = definition.loss_with_grad(np.int64(1), logits=np.array([2 * x, 0.0]), softcap=2.0).grad
    with mp.workdps(DIGITS):
        slope = mp_gradient(lambda z: mp_row_loss(z, [0, 1], [1, 1], softcap=2), [2 * x, 0])
    np.testing.assert_allclose(grad, slope, rtol=1e-13, atol=0)


@pytest.mark.parametrize("empty", ["nan", "zero"])
@pytest.mark.parametrize(
    ("targets", "options"),
    [
        ([-100, -100], {}),
        ([0, 1], {"sample_weight": [0, 0]}),
        ([0, 0], {"class_weight": [0, 1]}),
        ([0, 1], {"denominator": 0}),
    ],
)
def test_a_mean_of_nothing_is_nan_or_zero_with_no_gradient(targets, options, empty):
    loss, grad = definition.loss_with_grad(np.array(targets), logits=np.eye(2), empty=empty, **options)
    assert np.isnan(loss) if empty == "nan" else loss == 0
    assert not grad.any()


def test_no_rows_at_all():
    none = np.zeros((0, 3))
    assert np.isnan(definition.loss(np.zeros(0, int), logits=none))
    assert definition.loss(np.zeros(0, int), logits=none, reduction="sum") == 0
    assert definition.loss(np.zeros(0, int), logits=none, reduction="none").shape == (0,)
    assert definition.loss(np.array([-100]), logits=np.zeros((1, 3)), denominator=4) == 0


def test_import_loads_numpy_alone():
    program = "import sys, kosa.definition; print({'numba', 'torch', 'scipy', 'rich'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_examples_in_the_docstrings():
    outcome = doctest.testmod(definition)
    assert outcome.attempted == 2
    assert outcome.failed == 0


@pytest.mark.parametrize(
    ("targets", "options", "error", "message"),
    [
        ([0], {}, ValueError, "exactly one of `logits`, `probs` and `log_probs`"),
        ([0], {"logits": [[1, 2]], "probs": [[0.5, 0.5]]}, ValueError, "exactly one of"),
        ([0], {"probs": [[0.5, 0.5]], "temperature": 2.0}, ValueError, "do not go with `probs`"),
        ([2], {"logits": [[1, 2]]}, IndexError, r"outside 0\.\.1"),
        ([-1], {"logits": [[1, 2]]}, IndexError, r"outside 0\.\.1"),
        ([0, 1], {"logits": [[1, 2]]}, ValueError, r"`targets` has shape \(2,\)"),
        ([[0.5, 0.2, 0.3]], {"logits": [[1, 2]]}, ValueError, r"`targets` has shape \(1, 3\)"),
        ([[0, 1]], {"logits": [[1, 2]]}, TypeError, "one-hot targets must be floating"),
        ([[False, True]], {"logits": [[1, 2]]}, TypeError, "one-hot targets must be floating"),
        (
            [0],
            {"logits": [[1, 2]], "reduction": "average"},
            ValueError,
            "'mean', 'sum' or 'none', not 'average'",
        ),
        ([0], {"logits": np.zeros((1, 0))}, ValueError, "`logits` has no classes"),
    ],
)
def test_input_that_means_nothing_is_refused(targets, options, error, message):
    with pytest.raises(error, match=message):
        definition.loss(np.asarray(targets), **options)
