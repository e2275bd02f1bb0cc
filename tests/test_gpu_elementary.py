"""The Triton engine's elementary functions and pairs, against high precision: what the interpreter can show of them.

It computes exp2 and divisions as NumPy does; the hardware's approximations are 2 ulp each (docs/gpu.md).
"""

import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from gpu_engine import array_of, tensor_of
from oracle import DTYPES, same_bits

from kosa.gpu import elementary
from kosa.gpu.launch import launching

pytestmark = pytest.mark.gpu
ULP = 2.0**-23


@triton.jit
def apply(x, y, out, FUNCTION: tl.constexpr, W: tl.constexpr, N: tl.constexpr):
    k = tl.arange(0, N)
    a = tl.load(x + k)
    b = tl.load(y + k)
    if FUNCTION == 0:
        r = elementary.exp(a)
    elif FUNCTION == 1:
        r = elementary.log(a)
    elif FUNCTION == 2:
        r = elementary.log1p(a)
    elif FUNCTION == 3:
        r = elementary.capped(a, b)
    elif FUNCTION == 4:
        r = elementary.cap_slope(a, b)
    elif FUNCTION == 5:
        r = elementary.decay(a, elementary.rate_of(tl.full((), 1.0, tl.float64), W))
    else:
        r = elementary.tanh(a)
    tl.store(out + k, r)


FUNCTIONS = {"exp": 0, "log": 1, "log1p": 2, "capped": 3, "cap_slope": 4, "decay": 5, "tanh": 6}


def computed(device, name, x, dtype, second=1.0):
    """The function of all numbers, of the second argument where it has one."""
    count = 1 << max(0, len(x) - 1).bit_length()
    padded = np.ones(count, dtype)
    padded[: len(x)] = x
    a, b = tensor_of(padded, device), tensor_of(np.full(count, second, dtype), device)
    out = torch.empty_like(a)
    with launching(a):
        working = tl.float64 if dtype == np.float64 else tl.float32
        apply[(1,)](a, b, out, FUNCTION=FUNCTIONS[name], W=working, N=count, enable_fp_fusion=True)
    return array_of(out)[: len(x)].astype(np.float64)


def numbers(name, dtype):
    """Numbers of every size where the function is defined."""
    rng = np.random.default_rng(0)
    small = 10.0 ** rng.uniform(-30, -1, 1000) * rng.choice([-1.0, 1.0], 1000)
    x = {
        "exp": np.concatenate([rng.uniform(-87, 88, 2000), small]),
        "log": np.concatenate([10.0 ** rng.uniform(-37, 38, 2000), 1 + rng.uniform(-0.3, 0.5, 1000), 1 + small / 1e3]),
        "log1p": np.concatenate([10.0 ** rng.uniform(-37, 38, 2000), rng.uniform(0, 3, 1000)]),
        "decay": rng.uniform(-85, 85, 3000),
    }.get(name, np.concatenate([rng.uniform(-60, 60, 2000), rng.uniform(-2, 2, 1000), small]))  # fmt: skip
    return x.astype(dtype)


EXACT = {
    "exp": np.exp, "log": np.log, "log1p": np.log1p, "decay": lambda x: np.exp(-np.abs(x)), "tanh": np.tanh,
    "capped": lambda x: 30.0 * np.tanh(x / 30.0), "cap_slope": lambda x: 1.0 / np.cosh(x / 30.0) ** 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "ulps"), [("exp", 3), ("log", 2), ("log1p", 3), ("capped", 3), ("cap_slope", 8), ("tanh", 6)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_error(device, name, ulps, dtype):
    x = numbers(name, dtype)
    exact = EXACT[name](x.astype(np.longdouble)).astype(np.float64)
    error = np.abs(computed(device, name, x, dtype, 30.0) - exact) / np.maximum(np.abs(exact), 1e-300)
    assert error.max() <= (ulps * ULP if dtype == np.float32 else 12 * 2.0**-52)


def test_the_decay_of_a_gap_has_the_error_it_states(device):
    x = numbers("decay", np.float32)
    exact = np.exp(-np.abs(x.astype(np.float64)))
    error = np.abs(computed(device, "decay", x, np.float32) - exact) / exact
    assert (error <= 2 * ULP + 2 * np.abs(x) * math.log2(math.e) * 2.0**-24).all()
    assert error.max() < 1e-5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(device, dtype):
    inf, nan = math.inf, math.nan
    tiny = float(np.finfo(dtype).smallest_subnormal) if dtype == np.float32 else 1e-300
    same_bits(computed(device, "exp", [-inf, -1e5, nan, 0.0], dtype), np.array([0.0, 0.0, nan, 1.0]))
    same_bits(
        computed(device, "log", [0.0, 1.0, -1.0, inf, nan], dtype), np.array([-inf, 0.0, nan, inf, nan])
    )
    assert computed(device, "log", [tiny], dtype)[0] == pytest.approx(math.log(tiny), rel=1e-6)
    same_bits(computed(device, "log1p", [0.0, inf, nan], dtype), np.array([0.0, inf, nan]))
    same_bits(computed(device, "capped", [inf, -inf, nan, 0.0], dtype, 5.0), np.array([5.0, -5.0, nan, 0.0]))
    same_bits(
        computed(device, "cap_slope", [inf, -inf, nan, 0.0], dtype, 5.0), np.array([0.0, 0.0, nan, 1.0])
    )
    same_bits(
        computed(device, "decay", [inf, -inf, nan, 0.0, 1e4], dtype), np.array([0.0, 0.0, nan, 1.0, 0.0])
    )


@triton.jit
def convert(x, out, N: tl.constexpr):
    k = tl.arange(0, N)
    tl.store(out + k, elementary.narrow(elementary.widen(tl.load(x + k), tl.float64), out.dtype.element_ty))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_rounds_to_nearest_even(device, dtype):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=470), 1 + np.arange(40) * 2.0**-10, [math.inf, math.nan]]).astype(
        np.float32
    )
    a = tensor_of(x, device)
    out = torch.empty(512, dtype=getattr(torch, dtype), device=device)
    with launching(a):
        convert[(1,)](a, out, N=512, enable_fp_fusion=True)
    same_bits(array_of(out).astype(np.float32), x.astype(DTYPES[dtype]).astype(np.float32))


@triton.jit
def pairs_of(z, out, N: tl.constexpr, LANES: tl.constexpr, W: tl.constexpr):
    """(m, R) of N logits: by lanes that grow, by one lane each, and by halves that merge."""
    rate = elementary.rate_of(tl.full((), 1.0, tl.float64), W)
    lanes = tl.arange(0, LANES)
    m = tl.full((LANES,), elementary.lowest(W), W)
    r = tl.full((LANES,), -1.0, W)
    for start in range(0, N, LANES):
        m, r = elementary.grown(m, r, tl.load(z + start + lanes), rate)
    top, rest = elementary.joined(m, r, rate, 0)
    tl.store(out, top)
    tl.store(out + 1, rest)
    ones = elementary.single(tl.load(z + tl.arange(0, N)))
    top, rest = elementary.joined(ones[0], ones[1], rate, 0)
    tl.store(out + 2, top)
    tl.store(out + 3, rest)
    half: tl.constexpr = N // 2
    first = elementary.single(tl.load(z + tl.arange(0, half)))
    second = elementary.single(tl.load(z + half + tl.arange(0, half)))
    m, r = elementary.merged(first[0], first[1], second[0], second[1], rate)
    top, rest = elementary.joined(m, r, rate, 0)
    tl.store(out + 4, top)
    tl.store(out + 5, rest)


LEAST = float(np.finfo(np.float32).min)
ROWS = {
    "ordinary": [0.5, -1.0, 2.0, 0.25, 1.0, 1.5, -3.0, 0.0],
    "confident": [-60.0, 9.0, -55.0, -58.0, -70.0, -61.0, -62.0, -59.0],
    "ties": [3.0, 1.0, 3.0, 3.0, -2.0, 3.0, 0.0, 3.0],
    "masked": [-math.inf, -math.inf, 1.0, -math.inf, -math.inf, -math.inf, -math.inf, 0.5],
    "all but one masked": [-math.inf] * 6 + [4.0, -math.inf],
    "all masked": [-math.inf] * 8,
    "least": [LEAST] * 8,
    "least and masked": [LEAST, -math.inf] * 4,
    "least and more": [LEAST, 1.0, LEAST, LEAST, 2.0, -math.inf, LEAST, LEAST],
    "nan": [1.0, math.nan, 2.0, -math.inf, 0.0, 0.0, 0.0, 0.0],
    "two infinite": [1.0, math.inf, 2.0, math.inf, 0.0, math.inf, 0.0, 0.0],
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pairs_grow_merge_and_join_to_the_sum_beside_the_maximum(device, name, dtype):
    row = np.array(ROWS[name], dtype)
    z, out = tensor_of(row, device), torch.empty(6, dtype=getattr(torch, np.dtype(dtype).name), device=device)
    with launching(z):
        working = tl.float64 if dtype == np.float64 else tl.float32
        pairs_of[(1,)](z, out, N=8, LANES=2, W=working, enable_fp_fusion=True)
    found = array_of(out).astype(np.float64).reshape(3, 2)
    if "nan" in name or "two" in name:
        assert np.isnan(found[:, 1]).all()
    elif name == "all masked":
        assert (found[:, 1] == -1).all()
    else:
        wide = row.astype(np.float64)
        at = int(np.argmax(wide))
        assert (found[:, 0] == wide[at]).all()
        rest = np.exp(np.delete(wide, at) - wide[at]).sum()
        np.testing.assert_allclose(found[:, 1], rest, rtol=1e-5 if dtype == np.float32 else 1e-13)
