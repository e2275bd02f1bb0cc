"""The accuracy that `kosa.cpu.elementary` states of each function, row by row, against mpmath."""

import mpmath as mp
import numba
import numpy as np
import pytest

from kosa.cpu import elementary

NAN, INF = np.nan, np.inf


@numba.njit(error_model="numpy")
def exp_all(x, y):
    for i in range(x.size):
        y[i] = elementary.exp(x[i])


@numba.njit(error_model="numpy")
def log_all(x, y):
    for i in range(x.size):
        y[i] = elementary.log(x[i])


@numba.njit(error_model="numpy")
def log1p_all(x, y):
    for i in range(x.size):
        y[i] = elementary.log1p(x[i])


@numba.njit(error_model="numpy")
def tanh_all(x, y):
    for i in range(x.size):
        y[i] = elementary.tanh(x[i])


@numba.njit(error_model="numpy")
def sech2_all(x, y):
    for i in range(x.size):
        y[i] = elementary.sech2(x[i])


def apply(loop, x):
    y = np.full_like(x, 7)
    loop(x, y)
    return y


def errors(y, x, exact, unit):
    """|y − exact(x)| in units of `unit(exact)`."""
    with mp.workdps(50):
        found = []
        for got, value in zip(y, x, strict=True):
            true = exact(mp.mpf(float(value)))
            found.append(float(abs(mp.mpf(float(got)) - true) / mp.mpf(float(unit(float(true))))))
    return np.array(found)


def ulp32(value):
    return np.spacing(np.float32(abs(value)))


def ulp64(value):
    return np.spacing(abs(value))


def spread(low, high, dtype=np.float64, count=6000):
    """Numbers over a range, evenly and at random, and both its ends."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.linspace(low, high, count // 2), rng.uniform(low, high, count // 2)]).astype(
        dtype
    )


def powers(low, high, count=6000):
    """Numbers evenly over orders of magnitude."""
    return np.exp2(spread(np.log2(low), np.log2(high), count=count))


def test_exp_of_float32_within_1_ulp():
    x = np.concatenate([spread(-87.3, 88, np.float32), -powers(1e-30, 1).astype(np.float32)])
    x = x[x >= np.float32(-87.3)]
    assert errors(apply(exp_all, x), x, mp.exp, ulp32).max() <= 1.0


def test_exp_of_float64_within_one_and_a_half_ulp():
    x = np.concatenate([spread(-708, 709), -powers(1e-300, 1)])
    assert errors(apply(exp_all, x), x, mp.exp, ulp64).max() <= 1.5


def test_log_within_1_ulp():
    x = np.concatenate(
        [powers(5e-324, 1.7e308), spread(0.5, 2.0), 1 + powers(2.0**-52, 0.1), 1 - powers(2.0**-53, 0.1)]
    )
    assert errors(apply(log_all, x), x, mp.log, ulp64).max() <= 1.0


def test_log1p_within_2_ulp_from_minus_a_half_up():
    x = np.concatenate([spread(-0.5, 2.0), powers(1e-300, 1e300), -powers(1e-300, 0.5)])
    assert errors(apply(log1p_all, x), x, mp.log1p, ulp64).max() <= 2.0


def test_log1p_below_minus_a_half_is_relatively_exact():
    x = np.concatenate([spread(-1 + 2.0**-53, -0.5), -1 + powers(2.0**-53, 0.5)])
    assert errors(apply(log1p_all, x), x, mp.log1p, abs).max() <= 1e-15


def test_tanh_within_6_ulp():
    x = np.concatenate([spread(-20, 20), spread(-0.2, 0.2), powers(1e-300, 1e300), -powers(1e-300, 1e300)])
    y = apply(tanh_all, x)
    assert errors(y, x, mp.tanh, ulp64).max() <= 6.0
    assert (np.abs(y) <= 1).all()


def test_sech2_within_8_ulp():
    x = np.concatenate([spread(-300, 300), powers(1e-300, 350)])  # beyond 354 the result is subnormal
    assert errors(apply(sech2_all, x), x, lambda v: mp.sech(v) ** 2, ulp64).max() <= 8.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_at_the_ends_of_its_range(dtype):
    lowest = {np.float32: -87.3, np.float64: -708.0}[dtype]
    below = np.nextafter(dtype(lowest), dtype(-INF))
    x = np.array([below, -1000, -1e30, -INF, 0.0, -0.0, NAN, -NAN], dtype)
    assert apply(exp_all, x)[:6].tolist() == [0, 0, 0, 0, 1, 1]
    assert np.isnan(apply(exp_all, x)[6:]).all()
    assert apply(exp_all, np.array([lowest], dtype))[0] > 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_of_every_kind_of_nan_is_nan(dtype):
    width = np.dtype(dtype).itemsize
    infinity = int(np.array(INF, dtype).view(f"u{width}"))
    rng = np.random.default_rng(0)
    payloads = np.concatenate([[1, 2**22, 2**20 + 1], rng.integers(1, 2**22, 1000)]).astype(f"u{width}")
    signs = np.array(1 << (8 * width - 1), f"u{width}") * (np.arange(payloads.size) % 2).astype(f"u{width}")
    x = (payloads + np.array(infinity, f"u{width}") + signs).view(dtype)
    assert np.isnan(apply(exp_all, x)).all()


def test_logarithms_at_the_ends_of_their_ranges():
    x = np.array([0.0, -0.0, INF, 1.0, -1.0, -5e-324, -INF, NAN])
    y = apply(log_all, x)
    assert y[:4].tolist() == [-INF, -INF, INF, 0]
    assert np.isnan(y[4:]).all()
    y = apply(log1p_all, np.array([-1.0, 0.0, 5e-324, -1.5, -INF, NAN]))
    assert y[:3].tolist() == [-INF, 0, 5e-324]
    assert np.isnan(y[3:]).all()


def test_tanh_and_its_slope_at_infinity_and_nan():
    assert apply(tanh_all, np.array([INF, -INF, 1e308, 0.0])).tolist() == [1, -1, 1, 0]
    assert apply(sech2_all, np.array([INF, -INF, 1e308, 0.0])).tolist() == [0, 0, 0, 1]
    assert np.isnan(apply(tanh_all, np.array([NAN, -NAN]))).all()
    assert np.isnan(apply(sech2_all, np.array([NAN, -NAN]))).all()
