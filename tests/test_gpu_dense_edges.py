"""The Triton kernels of dense losses: what rows may hold, how tensors may lie, and what a row's bits depend on."""

import mpmath as mp
import numpy as np
import pytest
import torch
from gpu_dense import as_tensor, run, small_tiles
from gpu_engine import array_of
from oracle import DTYPES, draw, same_bits

from kosa import definition
from kosa.gpu import dense
from kosa.loss import Options

pytestmark = pytest.mark.gpu
NAN, INF = np.nan, np.inf
CLASSES = [10, 60]  # with tiny tiles: one tile of several rows, several tiles, several spans


@pytest.fixture
def tiny_tiles(monkeypatch):
    """Few classes cross every edge of tiles."""
    small_tiles(monkeypatch, apart=False)


@pytest.fixture(params=[False, True], ids=["one program a row", "spans of a row apart"])
def tiny_tiles_both_ways(request, monkeypatch):
    """Few classes cross every edge of tiles and of spans."""
    small_tiles(monkeypatch, request.param)


def one_hot(index, classes, dtype):
    return (np.arange(classes) == np.asarray(index)[..., None]).astype(dtype)


def exact_row(z, target):
    """Loss and p_target − 1 of one row of logits, in high precision."""
    with mp.workdps(60):
        logits = [mp.mpf(float(v)) for v in z]
        rest = mp.fsum(mp.exp(v - logits[target]) for k, v in enumerate(logits) if k != target)
        return float(mp.log1p(rest)), float(-rest / (1 + rest))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("dtype", "relative"), [("float32", 1e-5), ("float64", 1e-12)])
def test_confident_rows_keep_their_relative_accuracy(
    device, tiny_tiles_both_ways, classes, soft, dtype, relative
):
    gaps = np.array([1.0, 5.0, 12.0, 20.0, 34.5, 50.0, 69.0])  # e⁻⁶⁹ is 1e-30
    rng = np.random.default_rng(classes)
    z = rng.uniform(-0.5, 0.0, (gaps.size, classes))
    target = rng.integers(0, classes, gaps.size)
    z[np.arange(gaps.size), target] = gaps
    z = (z + rng.normal(size=(gaps.size, 1))).astype(dtype)
    loss, grad = run(device, one_hot(target, classes, dtype) if soft else target, "logits", z)
    for n, k in enumerate(target):
        exact_loss, exact_slope = exact_row(z[n], k)
        assert loss[n] == pytest.approx(exact_loss, rel=relative, abs=0)
        assert grad[n, k] == pytest.approx(exact_slope, rel=relative, abs=0)


@pytest.mark.parametrize("transform", [{"softcap": 100.0}, {"temperature": 0.5}])
@pytest.mark.parametrize("classes", [3, 70])
def test_confident_rows_keep_their_accuracy_through_softcap_and_temperature(device, transform, classes):
    z = np.zeros((1, classes), np.float32)
    z[0, 1] = 25.0
    loss, grad = run(device, np.array([1]), "logits", z, **transform)
    exact = definition.loss_with_grad(np.array([1]), logits=z.astype(float), **transform)
    assert loss[0] == pytest.approx(float(exact.loss), rel=1e-5, abs=0)
    assert grad[0, 1] == pytest.approx(exact.grad[0, 1], rel=1e-5, abs=0)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("size", [1e4, 1e30, "least"])
def test_huge_logits_do_not_overflow(device, tiny_tiles, classes, soft, size):
    rng = np.random.default_rng(0)
    least = np.finfo(np.float32).min  # what masks of other libraries are made of: a number like any other
    z = np.full((5, classes), least) if size == "least" else rng.normal(size=(5, classes)) * size
    z = z.astype(np.float32)
    index = rng.integers(0, classes, 5)
    loss, grad = run(device, one_hot(index, classes, np.float32) if soft else index, "logits", z)
    want = definition.loss_with_grad(index, logits=z.astype(float), reduction="none")
    np.testing.assert_allclose(loss, want.loss, rtol=1e-6)
    np.testing.assert_allclose(grad, want.grad, atol=2.0**-22)


@pytest.mark.parametrize("where", ["first", "last", "all but one"])
@pytest.mark.parametrize("kind", ["index", "soft", "soft where masked", "smoothed"])
@pytest.mark.parametrize("classes", [60])
def test_masked_classes_and_whole_tiles_of_them(device, tiny_tiles_both_ways, where, kind, classes):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4, classes)).astype(np.float32)
    masked = {
        "first": np.arange(classes) < classes // 2, "last": np.arange(classes) >= classes // 3,
        "all but one": np.arange(classes) != 3,
    }[where]  # fmt: skip
    z[:, masked] = -INF
    options = {"label_smoothing": 0.1} if kind == "smoothed" else {}
    t = rng.integers(0, classes, 4)
    t[:2] = np.flatnonzero(~masked)[0]
    if "soft" in kind:
        t = (rng.random((4, classes)) * (masked if "masked" in kind else ~masked)).astype(np.float32)
    loss, grad = run(device, t, "logits", z, **options)
    wide = t.astype(float) if "soft" in kind else t
    want = definition.loss_with_grad(wide, logits=z.astype(float), reduction="none", **options)
    np.testing.assert_allclose(loss, want.loss, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(grad, want.grad, rtol=1e-5, atol=1e-6)
    if kind == "soft":
        assert (grad[:, masked] == 0).all()


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("dtype", "soft"), [("float64", True), ("bfloat16", False)])
def test_what_is_no_logit_spoils_its_own_row_alone(device, tiny_tiles_both_ways, classes, dtype, soft):
    at = sorted({k for k in (0, 3, 48, classes - 1) if k < classes})
    rows = 2 * len(at) + 9  # every other row is sound, and stays the same to the bit
    rng = np.random.default_rng(0)
    z = rng.normal(size=(rows, classes)).astype(DTYPES[dtype])
    targets = rng.integers(0, classes, rows)
    t = one_hot(targets, classes, np.float32) if soft else targets
    alone = run(device, t, "logits", z)
    z[1], z[3], z[5], z[7] = -INF, INF, NAN, -INF
    z[7, classes // 2] = INF
    for i, k in enumerate(at):
        z[9 + 2 * i, k] = -NAN if i % 2 else NAN
    loss, grad = run(device, t, "logits", z)
    assert np.isnan(loss[1::2]).all()
    assert np.isnan(grad[1::2]).all()
    same_bits(loss[::2], alone[0][::2])
    same_bits(grad[::2], alone[1][::2])


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", ["logits", "log_probs"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "class_weight": True}])
def test_rows_that_are_ignored_or_weigh_nothing_are_zero(
    device, tiny_tiles_both_ways, classes, kind, options
):
    rng = np.random.default_rng(0)
    options = dict(options)
    if options.pop("class_weight", False):
        options["class_weight"] = rng.uniform(0.5, 2, classes)
    targets, y = draw(rng, kind, "float32", None, (7, classes), -1, 1.0)
    y[1], y[3], y[5] = NAN, INF, -INF
    targets[[1, 5]] = -100
    weight = np.array([1.0, 2.0, 1.0, 0.0, 3.0, 0.0, 1.0])
    loss, grad = run(
        device, targets, kind, y, sample_weight=weight, scale=INF, **options
    )  # a mean over nothing: 1/0
    assert (loss[1:6:2] == 0).all()
    assert (grad[1:6:2] == 0).all()
    assert (loss[::2] > 0).all()
    soft = one_hot(np.maximum(targets, 0), classes, np.float32)
    soft[3] = NAN
    y[[1, 5]] = y[0]
    loss, grad = run(device, soft, kind, y, sample_weight=weight, **options)
    assert loss[3] == 0
    assert (grad[3] == 0).all()
    assert np.isfinite(loss).all()


@pytest.mark.parametrize("classes", [60])
@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("int64", [-1, 2**40, -(2**63), 2**63 - 1]),
        ("int32", [-1, 2**31 - 1]),
        ("uint64", [2**63, 2**64 - 100]),
    ],
)
def test_an_index_that_is_no_class_makes_its_row_nan(
    device, tiny_tiles_both_ways, classes, kind, dtype, values
):
    values = [*values, classes]
    targets, y = draw(
        np.random.default_rng(0), kind, "float32", None, (2 * len(values) + 1, classes), -1, 1.0
    )
    class_weight = np.random.default_rng(1).uniform(0.5, 2, classes)
    alone = run(device, targets, kind, y, class_weight=class_weight)
    targets = targets.astype(dtype)
    targets[1::2] = values
    loss, grad = run(device, targets, kind, y, class_weight=class_weight)
    assert np.isnan(loss[1::2]).all()
    assert np.isnan(grad[1::2]).all()
    same_bits(loss[::2], alone[0][::2])
    same_bits(grad[::2], alone[1][::2])


@pytest.mark.parametrize("classes", [3, 100])
def test_a_target_class_of_weight_zero_counts_only_where_something_else_does(device, tiny_tiles, classes):
    class_weight = np.ones(classes)
    class_weight[1] = 0
    z = np.random.default_rng(0).normal(size=(3, classes))
    z[1] = NAN
    loss, grad = run(device, np.arange(3), "logits", z, class_weight=class_weight)
    assert loss[1] == 0
    assert (grad[1] == 0).all()
    for option in ({"label_smoothing": 0.1}, {"z_loss": 0.1}):
        assert np.isnan(run(device, np.arange(3), "logits", z, class_weight=class_weight, **option)[0][1])


@pytest.mark.parametrize("classes", [2, 70])
@pytest.mark.parametrize("soft", [False, True])
def test_probability_zero_at_the_target_is_infinitely_wrong(device, tiny_tiles, classes, soft):
    y = np.zeros((2, classes), np.float32)
    y[:, 0] = 1
    targets = np.array([0, classes - 1])
    t = one_hot(targets, classes, np.float32) if soft else targets
    loss, grad = run(device, t, "probs", y)
    assert loss.tolist() == [0, INF]
    assert grad[0, 0] == -1
    assert grad[1, -1] == -INF
    assert np.count_nonzero(grad) == 2
    loss, grad = run(device, t, "log_probs", np.where(y == 0, -INF, 0).astype(np.float32))
    assert loss.tolist() == [0, INF]
    assert grad[[0, 1], targets].tolist() == [-1, -1]
    assert np.count_nonzero(grad) == 2


@pytest.mark.parametrize("kind", ["probs", "log_probs"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("classes", [2, 17])
def test_what_is_no_probability_spoils_its_own_row_alone(device, tiny_tiles, kind, soft, classes):
    targets, y = draw(np.random.default_rng(0), kind, "float32", None, (5, classes), -1, 1.0)
    t = one_hot(targets, classes, np.float32) if soft else targets
    alone = run(device, t, kind, y)
    y = y.copy()
    y[1, 0], y[3, classes - 1] = NAN, INF
    loss, grad = run(device, t, kind, y)
    assert np.isnan(loss[1::2]).all()
    assert np.isnan(grad[1::2]).all()
    same_bits(loss[::2], alone[0][::2])
    same_bits(grad[::2], alone[1][::2])


@pytest.mark.parametrize("softcap", [3.0, 50.0])
def test_the_softcap_comes_before_infinite_logits_are_judged(device, softcap):
    z = np.zeros((2, 40), np.float32)
    z[0, 1], z[1, 1] = INF, -INF
    loss, grad = run(device, np.array([1, 1]), "logits", z, softcap=softcap)
    np.testing.assert_allclose(
        loss, [np.log1p(39 * np.exp(-softcap)), softcap + np.log(39 + np.exp(-softcap))], rtol=1e-5
    )
    assert (grad[:, 1] == 0).all()
    assert (grad[1, [0, 39]] != 0).all()


@pytest.mark.parametrize("shape", [(0, 3), (0, 100), (2, 100, 0)])
def test_a_batch_without_rows(device, shape):
    z = torch.zeros(shape, device=device)
    losses = torch.zeros(0, dtype=torch.float64, device=device)
    targets = torch.zeros((*shape[:1], *shape[2:]), dtype=torch.int64, device=device)
    dense.run(z, targets, None, None, Options(axis=1), losses=losses, out=torch.zeros_like(z))
    dense.target_slopes(z, z, None, None, Options(axis=1), out=torch.zeros_like(z))


@pytest.mark.parametrize("classes", [3, 40])
@pytest.mark.parametrize("targets", [None, "float32"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.1}])
def test_the_bits_of_a_row_depend_on_nothing_but_the_row(
    device, monkeypatch, request, classes, targets, options
):
    rng = np.random.default_rng(0)
    t, z = draw(rng, "logits", "float32", targets, (9, classes), -1, 3.0)
    z *= rng.choice([1.0, 6.0], (9, 1)).astype(np.float32)
    results = []
    for some in (slice(None), slice(4, 5), slice(4, 9), np.array([8, 1, 4])):
        loss, grad = run(device, t[some], "logits", z[some], **options)
        at = {0: 4, 3: 2}.get(len(results), 0)
        results.append((loss[at], grad[at]))
    for loss, grad in results[1:]:
        same_bits(loss, results[0][0])
        same_bits(grad, results[0][1])


@pytest.mark.parametrize("classes", [17, 60])
@pytest.mark.parametrize("targets", [None, "float32"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_spans_apart_come_to_the_bits_of_one_program(device, monkeypatch, classes, targets, dtype):
    from kosa.gpu import plan

    monkeypatch.setattr(
        plan, "plan", lambda *_: plan.Plan(1, 8, 16, 1 << (-(-classes // 16) - 1).bit_length(), 1)
    )
    t, z = draw(np.random.default_rng(0), "logits", dtype, targets, (4, classes), -1, 4.0)
    z[1] *= 20
    z[2, :40] = -INF
    z[3] = NAN
    found = []
    for processors in (0, 10**6):
        monkeypatch.setattr(plan, "processors", lambda device, n=processors: n)
        found.append(run(device, t, "logits", z))
    same_bits(found[0][0], found[1][0])
    same_bits(found[0][1], found[1][1])


@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("targets", [None, "float32"])
@pytest.mark.parametrize("dtype", ["bfloat16"])
@pytest.mark.parametrize("layout", ["rows", "side by side"])
def test_the_gradient_may_take_the_place_of_the_predictions(
    device, tiny_tiles_both_ways, kind, targets, dtype, layout
):
    for classes in (7, 60):
        t, x = draw(np.random.default_rng(0), kind, dtype, targets, (3, classes), -1, 2.0)
        x = as_tensor(x, device)
        if layout == "side by side":
            x = x.T.contiguous().T
        loss, grad = run(device, t, kind, x)
        again, in_place = run(device, t, kind, x, out=x)
        same_bits(again, loss)
        same_bits(in_place, grad)
        same_bits(array_of(x), grad)


def laid_out(tensor):
    """The same values in other layouts, and in ones whose axes no two steps can walk."""
    padded = torch.full([n + 3 for n in tensor.shape], 7.0, dtype=tensor.dtype, device=tensor.device)
    inside = padded[tuple(slice(1, n + 1) for n in tensor.shape)]
    inside.copy_(tensor)
    every_other = torch.full(
        [*tensor.shape[:-1], 2 * tensor.shape[-1]], 7.0, dtype=tensor.dtype, device=tensor.device
    )
    every_other[..., ::2] = tensor
    backwards = tensor.permute(*reversed(range(tensor.dim()))).contiguous()
    return {
        "plain": tensor, "a part": inside, "every other": every_other[..., ::2],
        "turned round": backwards.permute(*reversed(range(tensor.dim()))),
    }  # fmt: skip


@pytest.mark.parametrize("axis", [0, 3])
@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_tensors_of_any_strides(device, tiny_tiles, axis, kind):
    shape = (3, 2, 2, 4)
    t, x = draw(np.random.default_rng(0), kind, "float32", "float32", shape, axis, 2.0)
    plain = [as_tensor(a, device) for a in (x, t)]
    want = run(device, plain[1], kind, plain[0], axis=axis)
    for name, predictions in laid_out(plain[0]).items():
        for targets in laid_out(plain[1]).values():
            out = laid_out(torch.zeros_like(plain[0]))[name]
            loss, grad = run(device, targets, kind, predictions, axis=axis, out=out)
            np.testing.assert_allclose(loss, want[0], rtol=1e-6)
            np.testing.assert_allclose(grad, want[1], rtol=1e-5, atol=1e-6)


def test_rows_and_classes_of_stride_0(device, tiny_tiles):
    z = torch.randn(1, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
    targets = torch.arange(4, device=device)
    loss, grad = run(
        device, targets, "logits", z.expand(4, 20), out=torch.zeros(4, 20, dtype=torch.float64, device=device)
    )
    want = run(device, targets, "logits", z.repeat(4, 1))
    same_bits(loss, want[0])
    same_bits(grad, want[1])
    one = torch.zeros(4, 1, device=device)
    loss, _ = run(device, targets, "logits", one.expand(4, 20), out=None)
    np.testing.assert_allclose(loss, np.log(20.0), rtol=1e-6)


def test_weights_and_targets_of_any_strides(device):
    targets, z = draw(np.random.default_rng(0), "logits", "float32", None, (6, 20), -1, 2.0)
    weight, class_weight = np.linspace(0.5, 2.0, 6), np.linspace(0.5, 2.0, 20)
    want = run(device, targets, "logits", z, sample_weight=weight, class_weight=class_weight)
    apart = [as_tensor(np.stack([a, 0 * a], 1), device)[:, 0] for a in (targets, weight, class_weight)]
    got = run(device, apart[0], "logits", z, sample_weight=apart[1], class_weight=apart[2])
    same_bits(got[0], want[0])
    same_bits(got[1], want[1])


@pytest.mark.parametrize("axis", [0, 1])
def test_elements_beyond_2_to_the_31(device, axis):
    far = 2**31 + 8  # 4 GiB of addresses, of which a few pages are touched
    memory = torch.empty(far + 64, dtype=torch.float16, device=device)
    z = memory.as_strided((2, 20), (far, 1)) if axis == 1 else memory.as_strided((2, 20), (1, far // 19))
    _, values = draw(np.random.default_rng(0), "logits", "float16", None, (2, 20), -1, 3.0)
    z.copy_(as_tensor(values, device))
    z, values = (z, values) if axis == 1 else (z.T, values.T)
    shape = z.shape[:axis] + z.shape[axis + 1 :]
    targets = np.arange(shape[0]) % z.shape[axis]
    want = run(device, targets, "logits", np.ascontiguousarray(values), axis=axis)
    loss, grad = run(device, targets, "logits", z, axis=axis, out=z)
    np.testing.assert_allclose(loss, want[0], rtol=1e-6)
    np.testing.assert_allclose(grad, want[1], rtol=2.0**-10, atol=2.0**-12)


def test_a_class_of_weight_0_counts_for_nothing_in_a_row_of_infinite_weight(device):
    z, class_weight = np.array([[0.0, -5.0, 1.0]] * 2, np.float32), np.array([0.0, 1.0, 1.0])
    loss, grad = run(
        device, np.array([0, 1]), "logits", z, class_weight=class_weight, sample_weight=np.array([INF, 1.0])
    )
    assert loss[0] == 0 < loss[1]
    assert grad[0].tolist() == [0, 0, 0]
