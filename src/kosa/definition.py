"""Cross-entropy as it is defined, in float64 NumPy: to be read beside the text, and the oracle of the tests.

    one row   E = −t·(log y)ᵀ = −Σ_k t_k log y_k         1×K · K×1 = 1×1
    a batch   E_n = −Σ_k T_nk log Y_nk                    the diagonal of −T·(log Y)ᵀ, which is never formed
    logits    log y = z − lse(z),  lse(z) = log Σ_k exp z_k,  ∂E/∂z = (Σ_k t_k)·softmax(z) − t

t holds the targets, y the predicted probabilities, z the logits; logarithms are natural, so losses are in
nats. Plain formulas, no tricks for speed. Nothing here is shared with the engines: an oracle that shared code
with what it checks would share its mistakes.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Reduction = Literal["mean", "sum", "none"]
Empty = Literal["nan", "zero"]


def transpose(a: ArrayLike) -> Array:
    """aᵀ: rows become columns, m×n → n×m. A vector of K numbers is taken as the row 1×K and becomes K×1."""
    return _matrix(a, "a").T


def dot(a: ArrayLike, b: ArrayLike) -> Array:
    """The matrix product (m×n)·(n×l) = m×l, c_ij = Σ_k a_ik b_kj.

    The columns of the left must equal the rows of the right, else ValueError. A vector is taken as a row.

    >>> dot([[1, 2, 3], [4, 5, 6]], [[7, 8], [9, 10], [11, 12]])
    array([[ 58.,  64.],
           [139., 154.]])
    """
    left, right = _matrix(a, "a"), _matrix(b, "b")
    (m, n), (rows, columns) = left.shape, right.shape
    if n != rows:
        message = (
            f"`a` is {m}×{n} and `b` is {rows}×{columns}: they do not multiply, because the columns of the "
            f"left ({n}) must equal the rows of the right ({rows})."
        )
        if m == rows == 1 and n == columns:
            message += f" Both are row vectors: transpose the right one to {n}×1, dot(a, transpose(b))."
        elif n == columns:
            message += f" Transpose the right one to {columns}×{rows}: dot(a, transpose(b))."
        elif m == rows:
            message += f" Transpose the left one to {n}×{m}: dot(transpose(a), b)."
        raise ValueError(message)
    product: Array = np.einsum("mn,nl->ml", left, right)
    return product


@np.errstate(all="ignore")
def cross_entropy(t: ArrayLike, y: ArrayLike) -> float:
    """E = −t·(log y)ᵀ of one row, in nats. t and y: K numbers, or 1×K. 0·log 0 = 0.

    >>> round(cross_entropy([0, 1, 0], [0.2, 0.7, 0.1]), 6)
    0.356675
    """
    row_t, row_y = _pair(t, y)
    if row_t.shape[0] != 1:
        raise ValueError(
            f"`t` must be one row, but is {row_t.shape[0]}×{row_t.shape[1]}: batch_cross_entropy takes many."
        )
    if _spoiled(row_y)[0]:
        return float("nan")
    log_y = np.where(row_t == 0, 0.0, np.log(row_y))
    return float(0.0 - dot(row_t, transpose(log_y))[0, 0])


@np.errstate(all="ignore")
def batch_cross_entropy(t: ArrayLike, y: ArrayLike) -> Array:
    """E_n = −Σ_k T_nk log Y_nk, one loss for each of the N rows of the N×K `t` and `y`, in nats.

    This is diag(−T·(log Y)ᵀ). That product is N×N and only its diagonal is wanted, so it is not formed.
    """
    rows_t, rows_y = _pair(t, y)
    return _row_sums(rows_t, np.log(rows_y), _spoiled(rows_y))


@np.errstate(all="ignore")
def gradient(t: ArrayLike, z: ArrayLike) -> Array:
    """∂E/∂z = (Σ_k t_k)·softmax(z) − t of E = −t·(log softmax(z))ᵀ, so y − t where Σ t = 1.

    At the argmax it is Σ_{j≠k} t_j − (Σt)·R/(1+R): y − 1 = −R/(1+R) keeps its digits where y rounds to 1.
    """
    targets, logits = np.asarray(t, np.float64), np.asarray(z, np.float64)
    _, is_argmax, rest = _maximum(logits)
    total = np.sum(targets, axis=-1, keepdims=True)
    others = np.sum(np.where(is_argmax, 0.0, targets), axis=-1, keepdims=True)
    at_argmax = others - total * rest / (1 + rest)
    grad: Array = np.where(is_argmax, at_argmax, total * softmax(logits) - targets)
    return grad


@np.errstate(all="ignore")
def log_sum_exp(z: ArrayLike) -> Array:
    """lse(z) = log Σ_k exp z_k = m + log(1 + R) over the last axis; m = max z, R = Σ_{k≠argmax} exp(z_k − m).

    −∞ adds nothing. A row that is all −∞, or holds +∞ or NaN, gives NaN.
    """
    maximum, _, rest = _maximum(np.asarray(z, np.float64))
    return (maximum + np.log1p(rest))[..., 0]


@np.errstate(all="ignore")
def softmax(z: ArrayLike) -> Array:
    """softmax(z)_k = exp z_k / Σ_j exp z_j = exp(z_k − m)/(1 + R) over the last axis; NaN as in lse."""
    logits = np.asarray(z, np.float64)
    maximum, _, rest = _maximum(logits)
    return np.exp(logits - maximum) / (1 + rest)


@np.errstate(all="ignore")
def log_softmax(z: ArrayLike) -> Array:
    """log softmax(z)_k = z_k − lse(z) = −(log(1 + R) + (m − z_k)) over the last axis; NaN as there.

    Both parts of the sum are ≥ 0, so nothing cancels: the log-probability −log1p(R) of a confident row keeps
    its relative accuracy where z − lse would round to 0.
    """
    logits = np.asarray(z, np.float64)
    maximum, _, rest = _maximum(logits)
    return 0.0 - (np.log1p(rest) + (maximum - logits))


@np.errstate(all="ignore")
def _maximum(z: Array) -> tuple[Array, NDArray[np.bool_], Array]:
    """m = max z, where its first argmax is, and R = Σ_{k≠argmax} exp(z_k − m), by rows of the last axis."""
    maximum = np.max(z, axis=-1, keepdims=True)
    maximum = np.where(np.isfinite(maximum), maximum, np.nan)
    is_argmax = np.arange(z.shape[-1]) == np.argmax(z, axis=-1, keepdims=True)
    rest = np.sum(np.where(is_argmax, 0.0, np.exp(z - maximum)), axis=-1, keepdims=True)
    return maximum, is_argmax, rest


class LossAndGrad(NamedTuple):
    """The reduced loss, and its gradient with respect to the array of predictions, both float64."""

    loss: Array | np.float64
    grad: Array


def loss(targets: ArrayLike, **options: Any) -> Array | np.float64:
    """The loss alone; arguments as in `loss_with_grad`."""
    return loss_with_grad(targets, **options).loss


@np.errstate(all="ignore")
def loss_with_grad(
    targets: ArrayLike,
    *,
    logits: ArrayLike | None = None,
    probs: ArrayLike | None = None,
    log_probs: ArrayLike | None = None,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    denominator: float | None = None,
    empty: Empty = "nan",
) -> LossAndGrad:
    """Cross-entropy in nats with every option, applied in this order, and its gradient.

        z ← softcap·tanh(z/softcap)        z ← z/temperature
        t ← (1−ε)·t + ε/K                  t_k ← class_weight_k·t_k
        E = −Σ_k t_k log y_k               (log y = z − lse(z) from logits)
        E ← E + z_loss·lse(z)²             E ← sample_weight·E        reduce

    One of `logits`, `probs`, `log_probs` holds the predictions, with the K classes along `axis`. Integer
    `targets` are class indices, of that shape without `axis`; floating ones are distributions of that shape.
    The gradient is with respect to the array passed, of the reduced loss (of the sum for "none").

    - 0·log 0 = 0: a term whose t_k is 0 adds nothing. Yet NaN or +∞ anywhere in a row that counts makes its
      loss NaN, and so does a row of logits that are all −∞. Where the loss is NaN, so is the gradient.
    - A target on a class of probability 0 has loss +∞ and, from logits, the gradient p − t. The softcap comes
      first: an infinite logit under a softcap is ±softcap, with gradient 0.
    - Rows whose index is `ignore_index`, rows of sample_weight 0 and (index targets, neither smoothing nor
      z-loss) rows of class_weight 0 do not count: loss and gradient are 0 whatever they hold.
    - `probs` and `log_probs` are taken as they are: gradients −t/y and −t.
    - "mean" divides by `denominator`, else by the sum over the rows that count of class_weight[target]·
      sample_weight for indices, of sample_weight for distributions. Where that is 0 the loss is NaN (0 if
      `empty` is "zero") and the gradient 0.
    """
    given, kind = _predictions(logits, probs, log_probs)
    if kind != "logits" and (softcap is not None or temperature != 1.0 or z_loss != 0.0):
        raise ValueError(
            f"`softcap`, `temperature` and `z_loss` act on logits: they do not go with `{kind}`."
        )
    x = np.ascontiguousarray(np.moveaxis(given, axis, -1))
    rows, classes = x.shape[:-1], x.shape[-1]
    if classes == 0:
        raise ValueError(f"`{kind}` has no classes: shape {given.shape}, axis {axis}.")
    t, index, ignored = _targets(np.asarray(targets), given.shape, x.shape, axis, ignore_index)
    class_w = np.ones(classes) if class_weight is None else np.asarray(class_weight, np.float64)
    sample_w = np.broadcast_to(np.asarray(1.0 if sample_weight is None else sample_weight, np.float64), rows)

    a = class_w * ((1 - label_smoothing) * t + label_smoothing / classes)
    if kind == "logits":
        z = _transformed(x, softcap, temperature)
        lse = log_sum_exp(z)
        row_loss = _row_sums(a, log_softmax(z), np.isnan(lse)) + z_loss * lse**2
        row_grad = gradient(a, z) + 2 * z_loss * lse[..., None] * softmax(z)
        row_grad = row_grad / temperature * _softcap_slope(x, softcap)
    elif kind == "probs":
        row_loss = _row_sums(a, np.log(x), _spoiled(x))
        row_grad = np.where(a == 0, 0.0, -a / x)
    else:
        row_loss = _row_sums(a, x, _spoiled(x))
        row_grad = 0.0 - a
    row_grad = np.where(np.isnan(row_loss)[..., None], np.nan, row_grad)

    dropped = ignored | (sample_w == 0)
    mean_weight = np.where(ignored, 0.0, sample_w)
    if index is not None:
        target_weight = class_w[index]
        mean_weight = mean_weight * target_weight
        if label_smoothing == 0 and z_loss == 0:
            dropped = dropped | (target_weight == 0)
    return _reduced(row_loss, row_grad, sample_w, dropped, mean_weight, reduction, denominator, empty, axis)


def binary_loss(targets: ArrayLike, **options: Any) -> Array | np.float64:
    """The loss alone; arguments as in `binary_loss_with_grad`."""
    return binary_loss_with_grad(targets, **options).loss


@np.errstate(all="ignore")
def binary_loss_with_grad(
    targets: ArrayLike,
    *,
    logits: ArrayLike | None = None,
    probs: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    denominator: float | None = None,
    empty: Empty = "nan",
) -> LossAndGrad:
    """E = −[pos_weight·t·log p + (1−t)·log(1−p)] in nats, each element a row of its own, and its gradient.

    p = 1/(1 + exp(−z)) from `logits`, so −log p = softplus(−z) and −log(1−p) = softplus(z), where softplus(z)
    = log(1 + exp z). Smoothing: t ← t(1−ε) + ε/2. `targets` are bool, integers 0 and 1, or floats;
    `ignore_index` acts on integers. A term whose factor is 0 adds nothing, but NaN gives NaN. Logits of ±∞
    are p = 1 and p = 0 exactly; an infinite "probability" gives NaN. "mean" divides by `denominator`, else by
    Σ sample_weight over the elements that count. All else as in `loss_with_grad`.
    """
    x, kind = _predictions(logits, probs, None)
    given = np.asarray(targets)
    if given.shape != x.shape:
        raise ValueError(f"`targets` has shape {given.shape}, `{kind}` has {x.shape}: they must be the same.")
    ignored = given == ignore_index if given.dtype.kind in "iu" else np.zeros(x.shape, bool)
    t = given.astype(np.float64) * (1 - label_smoothing) + label_smoothing / 2
    positive = np.asarray(1.0 if pos_weight is None else pos_weight, np.float64) * t
    negative = 1 - t
    if kind == "logits":
        minus_log_p, minus_log_q, spoiled = _softplus(-x), _softplus(x), np.isnan(x)
        slope_p, slope_q = -_sigmoid(-x), _sigmoid(x)
    else:
        minus_log_p, minus_log_q, spoiled = -np.log(x), -np.log1p(-x), ~np.isfinite(x)
        slope_p, slope_q = -1 / x, 1 / (1 - x)
    row_loss = _product(positive, minus_log_p) + _product(negative, minus_log_q)
    row_grad = _product(positive, slope_p) + _product(negative, slope_q)
    row_loss = np.where(spoiled, np.nan, row_loss)
    row_grad = np.where(np.isnan(row_loss), np.nan, row_grad)

    sample_w = np.broadcast_to(
        np.asarray(1.0 if sample_weight is None else sample_weight, np.float64), x.shape
    )
    dropped = ignored | (sample_w == 0)
    mean_weight = np.where(ignored, 0.0, sample_w)
    return _reduced(row_loss, row_grad, sample_w, dropped, mean_weight, reduction, denominator, empty, None)


class Statistics(NamedTuple):
    """One entry a row. Without targets `loss`, `brier` and `target_entropy` are None."""

    loss: Array | np.float64 | None
    lse: Array
    argmax: NDArray[np.int64]
    confidence: Array
    entropy: Array
    brier: Array | None
    target_entropy: Array | None


@np.errstate(all="ignore")
def statistics(targets: ArrayLike | None = None, **options: Any) -> Statistics:
    """Figures of each row of predictions p; arguments as in `loss_with_grad` less the reduction's.

        loss            as `loss` gives it with reduction="none", nats
        lse             log Σ_k exp z_k (after softcap and temperature; log_probs too); of probs log Σ y
        argmax          the first index of the maximum; −1 in a row with NaN
        confidence      max_k p_k
        entropy         −Σ_k p_k log p_k, nats
        brier           Σ_k (p_k − t_k)², t as given: neither smoothed nor weighted; 0 for an ignored row
        target_entropy  −Σ_k t_k log t_k of the given targets, nats; 0 for class indices

    A row that `loss` calls NaN for what its predictions hold has NaN in every figure but `argmax`.
    """
    axis, ignore_index = options.get("axis", -1), options.get("ignore_index", -100)
    given, kind = _predictions(*(options.get(name) for name in ("logits", "probs", "log_probs")))
    x = np.ascontiguousarray(np.moveaxis(given, axis, -1))
    if kind == "logits":
        x = _transformed(x, options.get("softcap"), options.get("temperature", 1.0))
        lse, p, log_p = log_sum_exp(x), softmax(x), log_softmax(x)
    elif kind == "probs":
        lse, p, log_p = np.log(np.sum(x, axis=-1)), x, np.log(x)
    else:
        # Log-probabilities are taken as they are: all of them −∞ are probabilities 0, whose sum has the log −∞.
        lse = np.where(np.isneginf(x).all(axis=-1), -np.inf, log_sum_exp(x))
        p, log_p = np.exp(x), x
    spoiled = np.isnan(lse) if kind == "logits" else _spoiled(x)
    argmax = np.where(np.isnan(x).any(axis=-1), -1, np.argmax(x, axis=-1)).astype(np.int64)
    confidence = np.where(spoiled, np.nan, np.max(p, axis=-1))
    entropy = _row_sums(p, log_p, spoiled)
    lse = np.where(spoiled, np.nan, lse)
    if targets is None:
        return Statistics(None, lse, argmax, confidence, entropy, None, None)

    row_loss = loss(targets, **options, reduction="none")
    t, _, ignored = _targets(np.asarray(targets), given.shape, x.shape, axis, ignore_index)
    # From logits p − t at the argmax is (1 − t) − R/(1+R): Σ (p − t)² keeps its digits where p rounds to 1.
    difference = p - t
    if kind == "logits":
        _, is_argmax, rest = _maximum(x)
        difference = np.where(is_argmax, (1 - t) - rest / (1 + rest), difference)
    brier = np.where(spoiled, np.nan, np.sum(difference**2, axis=-1))
    target_entropy = _row_sums(t, np.log(t), _spoiled(t))
    return Statistics(
        row_loss, lse, argmax, confidence, entropy, np.where(ignored, 0.0, brier), target_entropy
    )


def _matrix(a: ArrayLike, name: str) -> Array:
    """`a` as a float64 matrix; a vector is the row 1×K."""
    matrix = np.asarray(a, np.float64)
    if matrix.ndim == 1:
        return matrix[None, :]
    if matrix.ndim != 2:
        raise ValueError(f"`{name}` must be a vector or a matrix, but has shape {matrix.shape}.")
    return matrix


def _pair(t: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Targets and predictions as matrices of one shape."""
    rows_t, rows_y = _matrix(t, "t"), _matrix(y, "y")
    if rows_t.shape != rows_y.shape:
        (n, k), (rows, columns) = rows_t.shape, rows_y.shape
        raise ValueError(f"`t` is {n}×{k} and `y` is {rows}×{columns}: each target needs its prediction.")
    return rows_t, rows_y


def _predictions(
    logits: ArrayLike | None, probs: ArrayLike | None, log_probs: ArrayLike | None
) -> tuple[Array, Literal["logits", "probs", "log_probs"]]:
    """The one array of predictions that was given, and what it holds."""
    if (logits is not None) + (probs is not None) + (log_probs is not None) != 1:
        raise ValueError("Give exactly one of `logits`, `probs` and `log_probs`.")
    if logits is not None:
        return np.asarray(logits, np.float64), "logits"
    if probs is not None:
        return np.asarray(probs, np.float64), "probs"
    return np.asarray(log_probs, np.float64), "log_probs"


def _targets(
    given: NDArray[Any], shape: tuple[int, ...], last: tuple[int, ...], axis: int, ignore_index: int
) -> tuple[Array, NDArray[np.intp] | None, NDArray[np.bool_]]:
    """Targets as rows of t (class axis last), the class indices if they are such, and the ignored rows."""
    rows, classes = last[:-1], last[-1]
    if given.dtype.kind not in "iu":
        if given.shape != shape:
            raise ValueError(
                f"`targets` has shape {given.shape}, the predictions have {shape}: must be the same."
            )
        if given.dtype.kind == "b":
            raise TypeError("`targets` of the predictions' shape are bool: one-hot targets must be floating.")
        t = np.ascontiguousarray(np.moveaxis(given.astype(np.float64), axis, -1))
        return t, None, np.zeros(rows, bool)
    if given.shape == shape:
        raise TypeError("`targets` of the predictions' shape are integers: one-hot targets must be floating.")
    if given.shape != rows:
        raise ValueError(
            f"`targets` has shape {given.shape}: class indices for predictions {shape} must be {rows}."
        )
    ignored = given == ignore_index
    index = np.where(ignored, 0, given).astype(np.intp)
    if ((index < 0) | (index >= classes)).any():
        raise IndexError(f"`targets` holds a class outside 0..{classes - 1}.")
    one_hot = (np.arange(classes) == index[..., None]) & ~ignored[..., None]
    return one_hot.astype(np.float64), index, ignored


def _transformed(z: Array, softcap: float | None, temperature: float) -> Array:
    """Logits after softcap and temperature."""
    capped = z if softcap is None else softcap * np.tanh(z / softcap)
    return capped / temperature


def _softcap_slope(z: Array, softcap: float | None) -> Array:
    """d(softcap·tanh(z/softcap))/dz = 1 − tanh²x = 4e/(1+e)², e = exp(−2|x|): 1 − tanh² would cancel."""
    if softcap is None:
        return np.ones_like(z)
    e = np.exp(-2 * np.abs(z / softcap))
    slope: Array = 4 * e / (1 + e) ** 2
    return slope


def _spoiled(x: Array) -> NDArray[np.bool_]:
    """The rows that hold NaN or +∞."""
    spoiled: NDArray[np.bool_] = (np.isnan(x) | (x == np.inf)).any(axis=-1)
    return spoiled


def _row_sums(a: Array, log_y: Array, spoiled: NDArray[np.bool_]) -> Array:
    """−Σ_k a_k log y_k by rows, with 0·log 0 = 0, NaN in the spoiled ones."""
    return np.where(spoiled, np.nan, 0.0 - np.sum(_product(a, log_y), axis=-1))


def _product(a: Array, b: Array) -> Array:
    """a·b where 0 times anything, even −∞, is 0."""
    return np.where(a == 0, 0.0, a * b)


def _softplus(z: Array) -> Array:
    """log(1 + exp z) = max(z, 0) + log1p(exp(−|z|)): two parts ≥ 0, no overflow."""
    softplus: Array = np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))
    return softplus


def _sigmoid(z: Array) -> Array:
    """1/(1 + exp(−z)) = exp(min(z, 0))/(1 + exp(−|z|)), without overflow."""
    sigmoid: Array = np.exp(np.minimum(z, 0.0)) / (1 + np.exp(-np.abs(z)))
    return sigmoid


def _reduced(
    row_loss: Array,
    row_grad: Array,
    sample_w: Array,
    dropped: NDArray[np.bool_],
    mean_weight: Array,
    reduction: Reduction,
    denominator: float | None,
    empty: Empty,
    axis: int | None,
) -> LossAndGrad:
    """Weighted by row, without the rows that do not count, reduced; `axis` is where the classes belong."""
    losses = np.where(dropped, 0.0, sample_w * row_loss)
    if axis is None:
        grad = np.where(dropped, 0.0, sample_w * row_grad)
    else:
        grad = np.where(dropped[..., None], 0.0, sample_w[..., None] * row_grad)
        grad = np.moveaxis(grad, -1, axis)
    if reduction == "none":
        return LossAndGrad(losses, grad)
    total = np.sum(losses)
    if reduction == "sum":
        return LossAndGrad(total, grad)
    if reduction != "mean":
        raise ValueError(f"`reduction` must be 'mean', 'sum' or 'none', not {reduction!r}.")
    divisor = np.sum(mean_weight) if denominator is None else np.float64(denominator)
    if divisor == 0:
        return LossAndGrad(np.float64(np.nan if empty == "nan" else 0.0), np.zeros_like(grad))
    return LossAndGrad(total / divisor, grad / divisor)
