"""Every figure of `row_statistics` against the definition, in float64 whatever the input."""

import numpy as np
import pytest
from hypothesis import given, settings
from oracle import DTYPES, check_statistics, draw, layouts, same_bits
from strategies import calls

import kosa
from kosa import definition

NAN, INF = np.nan, np.inf
CLASSES = [1, 2, 10, 64, 65, 513, 4097]


def check(targets, kind, predictions, against=None, **options):
    got = kosa.row_statistics(targets, **{kind: predictions}, **options)
    assert got._fields == ("loss", "lse", "argmax", "confidence", "entropy", "brier", "target_entropy")
    check_statistics(got, targets, kind, predictions, against, **options)


@given(call=calls())
@settings(max_examples=150)
def test_any_combination_of_options_agrees_with_the_definition(call):
    targets, kind, predictions, options = call
    options = {
        name: value for name, value in options.items() if name not in ("reduction", "denominator", "empty")
    }
    check(targets, kind, predictions, **options)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
@pytest.mark.parametrize(
    "pair", [("float32", None), ("float64", None), ("bfloat16", None), ("float32", "float32")]
)
def test_every_figure_of_every_length_agrees_with_the_definition(classes, kind, pair):
    for spread in (0.01, 2.0, 20.0):
        targets, x = draw(np.random.default_rng(classes), kind, *pair, (17, classes), -1, spread)
        check(targets, kind, x)
        check(None, kind, x)


@pytest.mark.parametrize("classes", [2, 10, 65])
@pytest.mark.parametrize("gap", [5.0, 40.0, 300.0])
def test_confident_rows_keep_their_digits(classes, gap):
    z = np.zeros((classes, classes))
    np.fill_diagonal(z, gap)
    check(np.arange(classes), "logits", z)
    check(np.eye(classes), "logits", z)
    check(np.roll(np.arange(classes), 1), "logits", z)
    stats = kosa.row_statistics(np.arange(classes), logits=z)
    rest = (classes - 1) * np.exp(-gap)
    np.testing.assert_allclose(stats.brier, (rest / (1 + rest)) ** 2 * (1 + 1 / (classes - 1)), rtol=1e-12)


@pytest.mark.parametrize("classes", [3, 64, 65, 5000])
def test_ties_name_the_first_class(classes):
    z = np.zeros((3, classes))
    z[1, [1, -1]] = 2.0
    z[2, -2:] = 2.0
    stats = kosa.row_statistics(logits=z)
    assert stats.argmax.tolist() == [0, 1, classes - 2]
    probs = np.exp(z - 3)
    assert kosa.row_statistics(probs=probs).argmax.tolist() == [0, 1, classes - 2]
    check(np.array([1, 1, 1]), "logits", z)
    check(None, "logits", z)


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
@pytest.mark.parametrize("classes", [1, 3, 65, 4097])
def test_rows_with_nan_have_no_argmax_and_only_they(kind, classes):
    targets, x = draw(np.random.default_rng(0), kind, "float32", None, (6, classes), -1, 1.0)
    x[1, 0] = x[2, -1] = x[3, classes // 2] = NAN
    x[4, classes // 2] = INF
    stats = kosa.row_statistics(targets, **{kind: x})
    assert stats.argmax[1:4].tolist() == [-1, -1, -1]
    assert stats.argmax[4] == classes // 2
    for name in ("loss", "lse", "confidence", "entropy", "brier"):
        assert np.isnan(getattr(stats, name)).tolist() == [False, True, True, True, True, False]
    assert (stats.target_entropy == 0).all()
    check(targets, kind, x)


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
def test_ignored_rows_have_no_loss_and_no_brier_but_figures_of_their_own(kind):
    targets, x = draw(np.random.default_rng(0), kind, "float64", None, (5, 7), -1, 1.0)
    targets[[1, 3]] = -100
    x[3] = NAN
    stats = kosa.row_statistics(targets, **{kind: x})
    assert stats.loss[[1, 3]].tolist() == stats.brier[[1, 3]].tolist() == [0, 0]
    assert np.isfinite(stats.entropy[1])
    assert np.isnan(stats.entropy[3])
    check(targets, kind, x)


@pytest.mark.parametrize("kind", ["logits", "log_probs"])
def test_masked_classes_add_nothing(kind):
    targets, x = draw(np.random.default_rng(0), kind, "float64", None, (4, 9), -1, 1.0)
    x[:, ::2] = -INF
    x[1] = -INF
    x[1, 3] = -2.0
    check(targets, kind, x)
    check(np.array([0, 1, 2, 3]), kind, x)


def test_logits_that_are_all_masked_are_nan_and_log_probabilities_are_not():
    x = np.full((1, 4), -INF)
    stats = kosa.row_statistics([0], logits=x)
    assert np.isnan(
        [stats.loss[0], stats.lse[0], stats.confidence[0], stats.entropy[0], stats.brier[0]]
    ).all()
    assert stats.argmax[0] == 0
    check(np.array([0]), "log_probs", x)


@pytest.mark.parametrize("shift", [-2000.0, -800.0, -709.0, -700.0, 0.0, 5.0])
@pytest.mark.parametrize("classes", [2, 70])
def test_the_log_sum_of_log_probabilities_of_any_size(shift, classes):
    x = np.random.default_rng(0).normal(size=(3, classes)) + shift
    want = definition.statistics(None, log_probs=x).lse
    np.testing.assert_allclose(kosa.row_statistics(log_probs=x).lse, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_huge_logits_do_not_overflow(size, dtype):
    z = (np.random.default_rng(0).normal(size=(4, 70)) * size).astype(DTYPES[dtype])
    check(np.arange(4), "logits", z)
    assert np.isfinite(kosa.row_statistics(np.arange(4), logits=z).loss).all()


@pytest.mark.parametrize(
    ("shape", "axis"), [((19, 7), -1), ((70, 5), 0), ((3, 9, 4, 5), 1), ((2, 66, 3, 4), 1)]
)
@pytest.mark.parametrize("soft", [None, "float32"])
def test_arrays_of_any_layout(shape, axis, soft, tmp_path):
    targets, plain = draw(np.random.default_rng(0), "logits", "float32", soft, shape, axis, 2.0)
    for array in layouts(plain, tmp_path).values():
        check(targets, "logits", array, (targets, plain), axis=axis)
        check(None, "logits", array, (None, plain), axis=axis)
    if soft:
        for array in layouts(targets, tmp_path).values():
            check(array, "logits", plain, (targets, plain), axis=axis)


def test_statistics_of_one_row_are_scalars():
    stats = kosa.row_statistics(1, logits=[0.0, 2.0, 1.0])
    for figure in stats:
        assert np.ndim(figure) == 0
    assert stats.argmax == 1
    assert stats.loss == pytest.approx(0.4076059644443801, rel=1e-12)


def test_float32_logits_are_widened_before_anything_else():
    z = np.random.default_rng(0).normal(size=(50, 100)).astype(np.float32)
    t = np.arange(50)
    for figure, wide in zip(
        kosa.row_statistics(t, logits=z), kosa.row_statistics(t, logits=z.astype(float)), strict=True
    ):
        same_bits(figure, wide)


def test_rows_shared_over_threads_agree_with_the_definition():
    targets, z = draw(np.random.default_rng(0), "logits", "float32", None, (5000, 70), -1, 3.0)
    check(targets, "logits", z)


@pytest.mark.parametrize("classes", [7, 300])
@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
def test_the_other_figures_are_the_same_without_the_entropy(kind: str, classes: int) -> None:
    from kosa.cpu import arguments, figures
    from kosa.loss import Options

    random = np.random.default_rng(5)
    probs = random.dirichlet(np.ones(classes), 40)
    values = {"probs": probs, "logits": 9 * probs, "log_probs": np.log(probs)}[kind]
    values[3, 2] = np.nan
    for axis in (0, 1):
        predictions = values if axis else np.ascontiguousarray(values.T)
        job = arguments.job(
            random.integers(0, 7, 40), predictions, None, None, Options(kind, axis), needed=False
        )
        whole, part = (figures.row_statistics(job, True, wanted) for wanted in (True, False))
        assert part.entropy is None
        for name in ("loss", "lse", "argmax", "confidence", "brier", "target_entropy"):
            # The sum of probabilities that sum to 1 has a logarithm of nothing but rounding.
            np.testing.assert_allclose(
                getattr(part, name), getattr(whole, name), rtol=1e-14, atol=2e-15, err_msg=name
            )
