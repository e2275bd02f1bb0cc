"""Hypothesis strategies: calls of the loss functions in every combination of options."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from oracle import CLASSES, DTYPES, INTEGERS, PAIRS, ROWS, draw

ELEMENTS = 40_000  # an example at most: the definition makes a dozen float64 arrays of it
SHAPES = [
    *(((rows, classes), -1) for rows in ROWS for classes in CLASSES if rows * classes <= ELEMENTS),
    *(((rows, classes), -1) for rows in (0, 1, 3) for classes in (1, 5, 100)),
    *(((classes,), 0) for classes in (1, 7, 65, 4097)),
    *(((classes, rows), 0) for rows in (1, 17, 300) for classes in (3, 64, 65)),
    *(((2, classes, 5, 7), 1) for classes in (1, 21, 64, 65, 100)),
    *(((1, classes, 3, 4), -3) for classes in (10, 65)),
    ((4, 9, 33, 2), 2), ((3, 4, 5, 70), 3), ((2, 0, 6), 2), ((0, 4, 6), 1),
]  # fmt: skip


@st.composite
def calls(choose: Any, elements: int = ELEMENTS) -> tuple[np.ndarray, str, np.ndarray, dict[str, Any]]:
    """Targets, the kind of predictions, predictions (of at most so many elements), options."""
    kind = choose(st.sampled_from(["logits", "logits", "logits", "probs", "log_probs"]))
    pair = choose(st.sampled_from(PAIRS))
    shape, axis = choose(st.sampled_from([s for s in SHAPES if np.prod(s[0]) <= elements]))
    rng = np.random.default_rng(choose(st.integers(0, 2**32 - 1)))
    targets, predictions = draw(
        rng, kind, *pair, shape, axis, choose(st.sampled_from([0.01, 1.0, 4.0, 15.0]))
    )
    rows = shape[:axis] + shape[axis % len(shape) + 1 :] if axis != -1 else shape[:-1]
    options: dict[str, Any] = {"axis": axis}
    if pair[1] is None:
        dtype = np.dtype(choose(st.sampled_from(INTEGERS)))
        targets = np.minimum(targets, min(np.iinfo(dtype).max, shape[axis])).astype(dtype)
        options["ignore_index"] = ignore = choose(st.sampled_from([-100, 0, -1, shape[axis] - 1]))
        if np.can_cast(np.min_scalar_type(ignore), targets.dtype) and choose(st.booleans()):
            targets = np.where(rng.random(rows) < 0.3, np.asarray(ignore, targets.dtype), targets)
    if choose(st.booleans()):
        options["class_weight"] = rng.uniform(0.2, 3.0, shape[axis]) * (rng.random(shape[axis]) < 0.9)
    if choose(st.booleans()):
        options["sample_weight"] = rng.uniform(0.2, 3.0, rows) * (rng.random(rows) < 0.8)
    if choose(st.booleans()):
        options["label_smoothing"] = choose(st.sampled_from([0.1, 0.5, 1.0]))
    if kind == "logits":
        options["softcap"] = choose(st.sampled_from([None, None, 5.0, 30.0]))
        options["temperature"] = choose(st.sampled_from([1.0, 1.0, 0.5, 3.0]))
        options["z_loss"] = choose(st.sampled_from([0.0, 0.0, 1e-4, 0.1]))
    options["reduction"] = choose(st.sampled_from(["mean", "sum", "none"]))
    if options["reduction"] == "mean":
        options["denominator"] = choose(st.sampled_from([None, None, 7.5]))
        options["empty"] = choose(st.sampled_from(["nan", "zero"]))
    return targets, kind, predictions, options


BINARY_SHAPES = [(), (1,), (7,), (16,), (257,), (3, 5), (4, 3, 2, 5), (0,), (2, 0), (1000,)]
# A kernel is compiled for each pair of types.
BINARY_PAIRS = [
    ("float32", "int"), ("float64", "int"), ("float16", "int"), ("bfloat16", "int"),
    ("float32", "float32"), ("float64", "float64"), ("bfloat16", "float32"), ("float16", "float16"),
    ("float64", "bfloat16"),
]  # fmt: skip


@st.composite
def binary_calls(choose: Any) -> tuple[np.ndarray, str, np.ndarray, dict[str, Any]]:
    """Targets, the kind of predictions, predictions, options; of the binary loss."""
    dtype, form = choose(st.sampled_from(BINARY_PAIRS))
    shape = choose(st.sampled_from(BINARY_SHAPES))
    kind = choose(st.sampled_from(["logits", "probs"]))
    rng = np.random.default_rng(choose(st.integers(0, 2**32 - 1)))
    x = rng.normal(0, choose(st.sampled_from([0.1, 3.0, 30.0])), shape)
    x = np.asarray(x if kind == "logits" else 1 / (1 + np.exp(-x))).astype(DTYPES[dtype])
    options: dict[str, Any] = {}
    if form == "int":
        integer = choose(st.sampled_from(["bool", "int8", "uint8", "int64", "uint64", ">i4"]))
        t = np.asarray(rng.integers(0, 2, shape)).astype(integer)
        ignore = choose(st.sampled_from([-100, 0, 1, 5, 255]))
        options["ignore_index"] = ignore
        if integer != "bool" and np.can_cast(np.min_scalar_type(ignore), t.dtype):
            t = np.where(rng.random(shape) < 0.3, np.asarray(ignore, t.dtype), t)
    else:
        t = np.asarray(rng.random(shape) * (rng.random(shape) < 0.7)).astype(DTYPES[form])
    if choose(st.booleans()):
        options["sample_weight"] = np.asarray(rng.uniform(0.2, 3, shape) * (rng.random(shape) < 0.8))
    if choose(st.booleans()):
        options["pos_weight"] = np.asarray(rng.uniform(0.2, 3, shape[-1:]) * (rng.random(shape[-1:]) < 0.9))
    options["label_smoothing"] = choose(st.sampled_from([0.0, 0.0, 0.1, 1.0]))
    options["reduction"] = choose(st.sampled_from(["mean", "sum", "none"]))
    if options["reduction"] == "mean":
        options["denominator"] = choose(st.sampled_from([None, 7.5]))
        options["empty"] = choose(st.sampled_from(["nan", "zero"]))
    return t, kind, x, options
