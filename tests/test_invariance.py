"""A row's loss and gradient are the same bits whatever the batch, its place in it, the chunk and the threads."""

import numpy as np
import pytest
from oracle import draw, same_bits

import kosa
from kosa.cpu import threads

PAIRS = [("float32", None), ("float32", "float32"), ("float64", None), ("bfloat16", None)]
OPTIONS = [{}, {"label_smoothing": 0.1, "z_loss": 0.01}, {"softcap": 5.0, "temperature": 0.7}]


@pytest.fixture
def as_before():
    before = threads.num_threads()
    yield
    kosa.set_num_threads(before)


def each(targets, z, kind="logits", **options):
    return kosa.cross_entropy_with_grad(targets, **{kind: z}, reduction="none", **options)


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 17, 63, 64, 65, 100, 511, 513, 4095, 4096, 4097, 8193])
@pytest.mark.parametrize("pair", PAIRS)
def test_any_split_of_the_batch_gives_the_same_bits(classes, pair):
    rows = max(20, min(1000, 150_000 // classes))
    targets, z = draw(np.random.default_rng(classes), "logits", *pair, (rows, classes), -1, 4.0)
    whole = each(targets, z)
    for cuts in ([1], [15, 16, 17], [rows // 2 + 3], [rows - 1]):
        parts = [each(t, part) for t, part in zip(np.split(targets, cuts), np.split(z, cuts), strict=True)]
        same_bits(np.concatenate([part.loss for part in parts]), whole.loss)
        same_bits(np.concatenate([part.grad for part in parts]), whole.grad)
    for n in (0, 7, rows - 1):
        alone = each(targets[n], z[n])
        same_bits(alone.loss, whole.loss[n])
        same_bits(alone.grad, whole.grad[n])


@pytest.mark.parametrize("classes", [3, 21, 64, 65, 513, 4100])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
def test_any_order_of_the_rows_gives_the_same_bits(classes, options, kind):
    if kind != "logits":
        options = {name: value for name, value in options.items() if name == "label_smoothing"}
    rng = np.random.default_rng(0)
    targets, z = draw(rng, kind, "float32", None, (300, classes), -1, 4.0)
    order = rng.permutation(300)
    whole, mixed = each(targets, z, kind, **options), each(targets[order], z[order], kind, **options)
    same_bits(mixed.loss, whole.loss[order])
    same_bits(mixed.grad, whole.grad[order])


@pytest.mark.parametrize("classes", [3, 64, 65, 100, 513])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("options", OPTIONS)
def test_images_give_the_same_bits_together_and_alone(classes, pair, options):
    targets, z = draw(np.random.default_rng(0), "logits", *pair, (3, classes, 5, 7), 1, 3.0)
    whole = each(targets, z, axis=1, **options)
    for n in range(3):
        alone = each(targets[n : n + 1], z[n : n + 1], axis=1, **options)
        same_bits(alone.loss, whole.loss[n : n + 1])
        same_bits(alone.grad, whole.grad[n : n + 1])
        single = each(targets[n], z[n], axis=0, **options)
        same_bits(single.loss, whole.loss[n])
        same_bits(single.grad, whole.grad[n])
    soft = targets.ndim == 4
    one = each(targets[..., 2:3, 3:4], z[..., 2:3, 3:4], axis=1, **options)
    same_bits(one.loss, whole.loss[:, 2:3, 3:4])
    same_bits(one.grad, whole.grad[..., 2:3, 3:4])
    band = each(targets[..., 1:4, :] if soft else targets[:, 1:4], z[:, :, 1:4], axis=1, **options)
    same_bits(band.loss, whole.loss[:, 1:4])
    same_bits(band.grad, whole.grad[:, :, 1:4])


@pytest.mark.parametrize(
    ("rows", "classes"), [(70_000, 10), (20_000, 64), (15_000, 65), (300, 4097), (1, 600_000)]
)
@pytest.mark.parametrize("pair", [("float32", None), ("float32", "float32")])
def test_any_number_of_threads_gives_the_same_bits(rows, classes, pair, as_before):
    targets, z = draw(np.random.default_rng(0), "logits", *pair, (rows, classes), -1, 4.0)
    weight = np.random.default_rng(1).random(rows)
    kosa.set_num_threads(1)
    first = kosa.cross_entropy_with_grad(targets, logits=z, sample_weight=weight)
    losses = kosa.cross_entropy(targets, logits=z, sample_weight=weight, reduction="none")
    for number in (2, 3, 5):
        kosa.set_num_threads(number)
        again = kosa.cross_entropy_with_grad(targets, logits=z, sample_weight=weight)
        same_bits(again.loss, first.loss)
        same_bits(again.grad, first.grad)
        same_bits(kosa.cross_entropy(targets, logits=z, sample_weight=weight, reduction="none"), losses)
    # 65,536 elements and fewer are one thread's: a row is the same there.
    some = slice(rows // 2, rows // 2 + max(1, 60_000 // classes))
    same_bits(
        kosa.cross_entropy(targets[some], logits=z[some], sample_weight=weight[some], reduction="none"),
        losses[some],
    )


def test_threads_give_the_same_statistics_and_binary_losses(as_before):
    targets, z = draw(np.random.default_rng(0), "logits", "float32", None, (9000, 70), -1, 4.0)
    kosa.set_num_threads(1)
    stats = kosa.row_statistics(targets, logits=z)
    binary = kosa.binary_cross_entropy_with_grad(z > 0, logits=z, reduction="none")
    for number in (2, 3, 5):
        kosa.set_num_threads(number)
        for figure, again in zip(stats, kosa.row_statistics(targets, logits=z), strict=True):
            same_bits(again, figure)
        for figure, again in zip(
            binary, kosa.binary_cross_entropy_with_grad(z > 0, logits=z, reduction="none"), strict=True
        ):
            same_bits(again, figure)


@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_elements_are_the_same_bits_in_any_batch_and_with_or_without_gradient(
    kind, soft, dtype, weighted
):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, 1003)
    x = (x if kind == "logits" else 1 / (1 + np.exp(-x))).astype(dtype)
    t = rng.random(1003).astype(dtype) if soft else rng.integers(0, 2, 1003)
    weight = rng.uniform(0.5, 2, 1003)

    def some(part, call=kosa.binary_cross_entropy_with_grad):
        weights = {"sample_weight": weight[part], "pos_weight": weight[::-1][part]} if weighted else {}
        return call(t[part], **{kind: x[part]}, reduction="none", **weights)

    whole = some(slice(None))
    for part in (slice(0, 1), slice(5, 22), slice(500, None), slice(1002, 1003)):
        same_bits(some(part).loss, whole.loss[part])
        same_bits(some(part).grad, whole.grad[part])
        same_bits(some(part, kosa.binary_cross_entropy), whole.loss[part])
    same_bits(some(slice(None), kosa.binary_cross_entropy), whole.loss)


@pytest.mark.parametrize("classes", [3, 21, 64, 65, 513, 4095, 4097, 8193])
@pytest.mark.parametrize("pair", [*PAIRS, ("float16", "float16")])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_loss_is_the_same_bits_with_and_without_gradient_and_in_place(classes, pair, options):
    targets, z = draw(np.random.default_rng(0), "logits", *pair, (37, classes), -1, 4.0)
    loss = kosa.cross_entropy(targets, logits=z, reduction="none", **options)
    fresh = each(targets, z, **options)
    in_place = each(targets, z, out=z, **options)
    same_bits(fresh.loss, loss)
    same_bits(in_place.loss, loss)
    same_bits(in_place.grad, fresh.grad)
    assert in_place.grad is z


@pytest.mark.parametrize("offset", range(1, 17))
@pytest.mark.parametrize("classes", [10, 100, 4100])
def test_where_an_array_begins_in_memory_changes_no_bit(offset, classes):
    targets, z = draw(np.random.default_rng(0), "logits", "float32", None, (9, classes), -1, 4.0)
    buffer, out = np.empty(z.size + 17, np.float32), np.empty(z.size + 17, np.float32)
    moved = buffer[offset : offset + z.size].reshape(z.shape)
    moved[...] = z
    whole, again = each(targets, z), each(targets, moved, out=out[offset : offset + z.size].reshape(z.shape))
    same_bits(again.loss, whole.loss)
    same_bits(again.grad, whole.grad)


@pytest.mark.parametrize("classes", [10, 100])
def test_the_neighbours_of_a_row_change_no_bit(classes):
    targets, z = draw(np.random.default_rng(0), "logits", "float32", None, (300, classes), -1, 4.0)
    whole = each(targets, z)
    z[1::2] = np.array([np.nan, np.inf, -np.inf, 1e30, -1e-40], np.float32)[np.arange(150) % 5, None]
    again = each(targets, z)
    same_bits(again.loss[::2], whole.loss[::2])
    same_bits(again.grad[::2], whole.grad[::2])
    ignored = np.where(np.arange(300) % 2, -100, targets)
    same_bits(each(ignored, z).grad[::2], whole.grad[::2])


def test_the_gradient_of_the_mean_is_that_of_the_sum_divided(as_before):
    # A power of two as divisor: division then changes no bit, whatever comes first.
    targets, z = draw(np.random.default_rng(0), "logits", "float32", None, (64, 100), -1, 4.0)
    mean = kosa.cross_entropy_with_grad(targets, logits=z)
    total = kosa.cross_entropy_with_grad(targets, logits=z, reduction="sum")
    same_bits(mean.grad * 64, total.grad)
