"""What the tests hold the engine against: `kosa.definition` in float64, and the tolerances of the contract, in ULP.

    float32 and 16-bit   loss within 4 ulp of max(loss, w) and within 1e-5 relative, w the row's weight;
                         gradient within 2⁻²⁰ of the row's largest entry, 16-bit formats half an ulp of theirs more;
                         1e-5 of that entry in a confident row, where it is below w/1000
    float64              both within 1e-12
Of a gradient that is a difference, as p − t of soft targets is, the largest entry is that of both its terms: p is
rounded, and where the terms meet that rounding is what is left.
"""

from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import kosa
from kosa import definition

ULP = 2.0**-23  # of float32, at 1
TINY = 2.0**-149  # the least float32: what results below 1e-38 are rounded to
DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
# A kernel is compiled for each pair of types, a second or more each: these cross every format on both sides.
PAIRS = [
    ("float32", None), ("float64", None), ("float16", None), ("bfloat16", None),
    ("float32", "float32"), ("float64", "float64"), ("bfloat16", "float32"), ("float16", "float16"),
    ("float32", "bfloat16"), ("float32", "float64"), ("float64", "float32"),
]  # fmt: skip
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", ">i4", ">u8"]
# 64 | 65: from many rows side by side to a row by itself. 512: classes whose sum goes to float64. 4096: a tile.
CLASSES = [1, 2, 3, 10, 15, 16, 17, 63, 64, 65, 100, 511, 512, 513, 4095, 4096, 4097, 8193]
ROWS = [1, 15, 16, 17, 255, 256, 257, 1000]  # 16 and 256: the blocks of rows that go side by side
WEIGHTS = ("class_weight", "sample_weight")


def half_ulp(expected: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Half the distance of neighbours at `expected` in a 16-bit format; 0 for the wider ones."""
    if dtype.itemsize != 2:
        return np.zeros_like(expected)
    bits, least = (11, -24) if dtype.kind == "f" else (8, -133)
    _, exponent = np.frexp(expected)
    return 0.5 * np.exp2(np.maximum(exponent - bits, least).astype(float))


def assert_within(actual: Any, expected: Any, tolerance: Any, what: str) -> None:
    """Every entry within its tolerance; NaN and infinities in the very same places."""
    actual, expected = np.asarray(actual).astype(np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    tolerance = np.broadcast_to(tolerance, expected.shape)
    with np.errstate(all="ignore"):
        fits = np.where(np.isfinite(expected), np.abs(actual - expected) <= tolerance, actual == expected)
    fits = fits | (np.isnan(actual) & np.isnan(expected))
    if not fits.all():
        worst = np.unravel_index(np.argmin(fits), fits.shape)
        count = np.count_nonzero(~fits)
        raise AssertionError(
            f"{what}: {count} of {fits.size} wrong, first at {tuple(map(int, worst))}: {actual[worst]!r}, expected "
            f"{expected[worst]!r} ± {tolerance[worst]:.3g}"
        )


def loss_tolerance(loss: np.ndarray, weight: Any, dtype: np.dtype) -> np.ndarray:
    """How far each row's loss may be off: `weight` is what a loss of 1 nat counts in that row."""
    size = np.abs(loss)
    if dtype.itemsize == 8:
        return 1e-12 * size
    return np.minimum(4 * ULP * np.maximum(size, weight), 1e-5 * size) + TINY


class Expected(NamedTuple):
    loss: np.ndarray
    grad: np.ndarray
    loss_tolerance: np.ndarray
    grad_tolerance: np.ndarray


def expected(targets: Any, kind: str, predictions: Any, **options: Any) -> Expected:
    """Loss and gradient of `definition`, and what they may be off by."""
    x = np.asarray(predictions)
    dtype = x.dtype if x.dtype.kind != "i" else DTYPES["float64"]
    given = np.asarray(targets)
    given = given.astype(np.float64) if given.dtype.kind not in "iub" else given
    wide = x.astype(np.float64)
    axis = options.get("axis", -1) % x.ndim
    whole = definition.loss_with_grad(given, **{kind: wide}, **options)
    rest = {k: v for k, v in options.items() if k not in ("reduction", "denominator", "empty")}
    each = definition.loss_with_grad(given, **{kind: wide}, **rest, reduction="none")

    # What the terms of each row weigh: a = class_weight·((1−ε)t + ε/K), times the row's weight.
    rows = each.loss.shape
    class_weight = np.asarray(options.get("class_weight", np.ones(x.shape[axis])), np.float64)
    sample_weight = np.broadcast_to(np.asarray(options.get("sample_weight", 1.0), np.float64), rows)
    epsilon = options.get("label_smoothing", 0.0)
    mean_weight = sample_weight
    if given.dtype.kind in "iu":
        counts = given != options.get("ignore_index", -100)
        index = np.where(counts, given, 0).astype(int)
        mean_weight = np.where(counts, sample_weight * class_weight[index], 0.0)
        a = (1 - epsilon) * (np.arange(x.shape[axis]) == index[..., None]) + epsilon / x.shape[axis]
    else:
        a = (1 - epsilon) * np.moveaxis(given, axis, -1) + epsilon / x.shape[axis]
    a = a * class_weight
    row_tolerance = loss_tolerance(each.loss, np.abs(sample_weight) * a.sum(-1), dtype)

    divisor = 1.0
    loss_off = row_tolerance
    if options.get("reduction", "mean") != "none":
        if options.get("reduction", "mean") == "mean":
            divisor = options.get("denominator") or mean_weight.sum()
        one_rounding = ULP if dtype.itemsize < 8 else 2.0**-52
        loss_off = one_rounding * np.abs(whole.loss)
        if divisor != 0:
            loss_off = loss_off + np.sum(row_tolerance) / abs(divisor)

    grad = np.moveaxis(whole.grad, axis, -1)
    largest = np.max(np.where(np.isfinite(grad), np.abs(grad), 0.0), axis=-1, initial=0.0)
    if given.dtype.kind not in "iu" or epsilon != 0:
        slope = 1.0 / options.get("temperature", 1.0)
        if options.get("softcap") is not None:
            slope = slope * (1 - np.tanh(np.moveaxis(wide, axis, -1) / options["softcap"]) ** 2)
        with np.errstate(all="ignore"):
            terms = np.abs(sample_weight / divisor) * np.max(a * slope, axis=-1, initial=0.0)
        largest = np.maximum(largest, np.where(np.isfinite(terms), terms, 0.0))
    with np.errstate(all="ignore"):
        confident = largest < 1e-3 * np.abs(sample_weight / divisor) * a.sum(-1)
    relative = 1e-12 if dtype.itemsize == 8 else np.where(confident, 1e-5, 2.0**-20)
    if kind != "logits":  # each entry is one product or quotient: nothing to share an error with
        grad_off = (1e-12 if dtype.itemsize == 8 else 2.0**-20) * np.abs(whole.grad)
    else:
        grad_off = np.moveaxis(np.broadcast_to((relative * largest)[..., None], grad.shape), -1, axis)
    grad_off = grad_off + half_ulp(whole.grad, dtype)
    return Expected(np.asarray(whole.loss), whole.grad, loss_off, grad_off)


def to_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """As the values that format holds, in float64; a number beyond its range is infinite."""
    with np.errstate(over="ignore"):
        return values.astype(dtype).astype(np.float64)


def check_loss(targets: Any, kind: str, predictions: Any, against: Any = None, **options: Any) -> Expected:
    """Hold `kosa.cross_entropy` against the definition. `against`: the same call on arrays plainly laid out."""
    plain_targets, plain = against if against is not None else (targets, predictions)
    want = expected(plain_targets, kind, plain, **options)
    loss = kosa.cross_entropy(targets, **{kind: predictions}, **options)
    dtype = np.asarray(plain).dtype
    assert loss.dtype == (np.float64 if dtype.itemsize == 8 else np.float32)
    if options.get("reduction", "mean") == "none":
        assert loss.shape == want.loss.shape
    else:
        assert isinstance(loss, np.floating)
    assert_within(loss, want.loss, want.loss_tolerance, "loss")
    return want


def check_grad(
    targets: Any, kind: str, predictions: Any, against: Any = None, out: Any = None, **options: Any
) -> None:
    """Hold `kosa.cross_entropy_with_grad` against the definition, and its loss against the bits of the loss alone."""
    plain_targets, plain = against if against is not None else (targets, predictions)
    plain = np.array(plain)  # before `out` may be written over it
    want = check_loss(targets, kind, predictions, (plain_targets, plain), **options)
    alone = kosa.cross_entropy(targets, **{kind: predictions}, **options)
    loss, grad = kosa.cross_entropy_with_grad(targets, **{kind: predictions}, **options, out=out)
    same_bits(loss, alone)
    if out is not None:
        assert grad is out
    assert grad.dtype.newbyteorder("=") == plain.dtype.newbyteorder("=")
    rounded = to_dtype(want.grad, plain.dtype)
    infinite = np.isinf(rounded)  # −t/y can leave the range of 16 bits
    assert_within(grad, np.where(infinite, rounded, want.grad), want.grad_tolerance, "grad")


def check_statistics(
    got: Any, targets: Any, kind: str, predictions: Any, against: Any = None, **options: Any
) -> None:
    """Hold the seven figures of `row_statistics` against the definition: 1e-12 relative; where a figure may cancel to 0,
    of the terms that cancel. `against`: the same call on arrays plainly laid out.
    """
    t, x = against if against is not None else (targets, predictions)
    if t is not None and t.dtype.kind not in "iu":
        t = t.astype(np.float64)
    want = definition.statistics(t, **{kind: x.astype(np.float64)}, **options)
    if kind == "log_probs" and t is not None and t.dtype.kind in "iu":
        # The definition rounds p before it takes 1 from it.
        rows = np.moveaxis(x.astype(np.float64), options.get("axis", -1), -1)
        hit = np.arange(rows.shape[-1]) == np.asarray(t)[..., None]
        with np.errstate(all="ignore"):
            brier = np.sum(np.where(hit, np.expm1(rows), np.exp(rows)) ** 2, axis=-1)
        want = want._replace(brier=np.where((want.brier == 0) | np.isnan(want.brier), want.brier, brier))
    for name, value, figure in zip(want._fields, want, got, strict=True):
        if value is None:
            assert figure is None
            continue
        assert figure.dtype == (np.int64 if name == "argmax" else np.float64)
        size = np.abs(np.asarray(value, np.float64))
        if name == "lse":  # m + log1p(R) and log Σ y both pass through 0
            size = np.maximum(size, 1)
        if name == "brier" and t is not None and t.dtype.kind == "f":
            # p − t of a distribution may cancel, and p is right to some 1e-14.
            size = size + 0.02 * np.sqrt(size)
        assert_within(figure, value, 0 if name == "argmax" else 1e-12 * size, name)


def check_binary(loss: Any, grad: Any, targets: Any, kind: str, x: np.ndarray, **options: Any) -> None:
    """Hold a binary loss and its gradient against the definition: 1e-12 in float64; else a rounding to x's format."""
    t = targets.astype(np.float64) if targets.dtype.kind not in "iub" else targets
    wide = {kind: x.astype(np.float64)}
    want = definition.binary_loss_with_grad(t, **wide, **options)
    eight = x.dtype.itemsize == 8
    size = np.abs(np.asarray(want.loss))
    off = 1e-12 * size if eight else np.minimum(4 * ULP * np.maximum(size, 1), 1e-5 * size) + TINY
    assert_within(loss, want.loss, off, "loss")
    # Targets between 0 and 1 have a gradient of two opposed terms: its error is that of the larger.
    sides = [
        np.abs(definition.binary_loss_with_grad(np.full(x.shape, float(side)), **wide, **options).grad)
        for side in (0, 1)
    ]
    terms = np.where(t == 1, sides[1], np.where(t == 0, sides[0], np.maximum(*sides)))
    if options.get("label_smoothing"):
        terms = np.maximum(*sides)
    terms = np.where(np.isfinite(terms), terms, 0)
    relative = 1e-12 if eight else 2.0**-22
    rounded = to_dtype(want.grad, x.dtype)
    target = np.where(np.isinf(rounded), rounded, want.grad)
    assert_within(
        grad, target, relative * terms + half_ulp(want.grad, x.dtype) + (0 if eight else TINY), "grad"
    )


def same_bits(a: Any, b: Any) -> None:
    """The same dtype, shape and bits; NaNs count as one."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    bits = f"u{a.dtype.itemsize}"
    same = np.ascontiguousarray(a).view(bits) == np.ascontiguousarray(b).view(bits)
    same = same | (np.isnan(a) & np.isnan(b)) if a.dtype.kind in "fV" else same
    assert same.all(), f"{np.count_nonzero(~same)} of {same.size} differ, first at {np.argwhere(~same)[0]}"


def draw(
    rng: np.random.Generator,
    kind: str,
    dtype: str,
    targets: str | None,
    shape: tuple[int, ...],
    axis: int,
    spread: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Random targets (class indices for None) and predictions of these formats."""
    z = np.moveaxis(rng.normal(0.0, spread, shape), axis, -1)
    if kind != "logits":
        z = z - np.log(np.exp(z - z.max(-1, initial=-np.inf, keepdims=True)).sum(-1, keepdims=True))
        z = z - z.max(-1, initial=-np.inf, keepdims=True) if z.size == 0 else definition.log_softmax(z)
        z = np.exp(z) if kind == "probs" else z
    x = np.ascontiguousarray(np.moveaxis(z, -1, axis)).astype(DTYPES[dtype])
    if targets is None:
        rows = shape[:axis] + shape[axis % len(shape) + 1 :] if axis != -1 else shape[:-1]
        return rng.integers(0, shape[axis], rows), x
    weights = rng.random(shape) ** 4
    return (weights / weights.sum(axis, keepdims=True)).astype(DTYPES[targets]), x


def layouts(array: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """The same values in every layout that NumPy has."""
    ndim = array.ndim
    padded = np.full([n + 5 for n in array.shape], 7, array.dtype)
    padded[tuple(slice(2, n + 2) for n in array.shape)] = array
    every_other = np.full([*array.shape[:-1], 2 * array.shape[-1]], 7, array.dtype)
    every_other[..., ::2] = array
    reverse = tuple(slice(None, None, -1) for _ in array.shape)
    read_only = array.copy()
    read_only.flags.writeable = False
    raw = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    raw[...] = array
    mapped = np.memmap(folder / f"{array.dtype.name}-{array.size}", array.dtype, "w+", shape=array.shape)
    mapped[...] = array
    found = {
        "C": array.copy(),
        "Fortran": np.asfortranarray(array),
        "sliced": padded[tuple(slice(2, n + 2) for n in array.shape)],
        "backwards": array[reverse].copy()[reverse],
        "backwards along classes": array[..., ::-1].copy()[..., ::-1],
        "backwards along rows": array[::-1].copy()[::-1],
        "every other class": every_other[..., ::2],
        "transposed": np.ascontiguousarray(array.transpose(*range(1, ndim), 0)).transpose(
            ndim - 1, *range(ndim - 1)
        ),
        "axes swapped": np.ascontiguousarray(np.swapaxes(array, 0, -1)).swapaxes(0, -1),
        "read-only": read_only,
        "unaligned": raw,
        "memory-mapped": mapped,
    }
    if array.dtype.kind in "fiu":
        found["byte-swapped"] = array.astype(array.dtype.newbyteorder("S"))
        found["byte-swapped Fortran"] = np.asfortranarray(found["byte-swapped"])
    return found
