"""Memory beyond inputs and outputs: O(N) for a value, O(threads·K) for a gradient, by allocation and by peak RSS."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from oracle import draw

import kosa
from kosa.cpu import threads

ROWS, CLASSES = 4000, 1000  # float32: 16 MB of logits, so that a temporary of their size stands out
SLACK = 64 * 1024  # Python's own objects


@pytest.fixture(autouse=True)
def two_threads():
    before = threads.num_threads()
    kosa.set_num_threads(2)
    yield
    kosa.set_num_threads(before)


def peak_of(call):
    """The most that is allocated during a call at one time, its result included."""
    call()  # compiled, and the threads are up
    tracemalloc.start()
    try:
        result = call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del result
    return peak


def arrays(layout, dtype="float32", targets=None):
    shape, axis = (ROWS, CLASSES), -1
    if layout == "classes not last":
        shape, axis = (4, CLASSES, 1000), 1
    t, z = draw(np.random.default_rng(0), "logits", dtype, targets, shape, axis, 2.0)
    if layout == "Fortran":
        z = np.asfortranarray(z)
    elif layout == "sliced":
        wide = np.zeros((ROWS, CLASSES + 8), z.dtype)
        wide[:, 3:-5] = z
        z = wide[:, 3:-5]
    elif layout == "every other class":
        wide = np.zeros((ROWS, 2 * CLASSES), z.dtype)
        wide[:, ::2] = z
        z = wide[:, ::2]
    elif layout == "backwards":
        z = z[::-1].copy()[::-1]
    elif layout == "read-only":
        z.flags.writeable = False
    return t, z, axis


LAYOUTS = ["C", "Fortran", "sliced", "every other class", "backwards", "read-only", "classes not last"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pair", [("float32", None), ("float32", "float32"), ("bfloat16", None)])
def test_a_value_takes_memory_for_its_rows_alone(layout, pair):
    t, z, axis = arrays(layout, *pair)
    options = {"axis": axis, "label_smoothing": 0.1, "class_weight": np.ones(CLASSES), "sample_weight": None}
    peak = peak_of(lambda: kosa.cross_entropy(t, logits=z, **options))
    tiles = 2 * 2 * 64 * CLASSES * 4  # two threads, logits and targets, at most 64 rows side by side
    assert peak <= 16 * ROWS + 64 * CLASSES + tiles + SLACK
    assert peak < z.nbytes / 4


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pair", [("float32", None), ("float32", "float32"), ("bfloat16", None)])
def test_a_gradient_takes_the_memory_of_its_output_and_a_row_a_thread(layout, pair):
    t, z, axis = arrays(layout, *pair)
    out = z.copy(order="K")
    peak = peak_of(lambda: kosa.cross_entropy_with_grad(t, logits=z, axis=axis, out=out))
    tiles = 2 * 2 * 64 * CLASSES * 4
    assert peak <= 16 * ROWS + 2 * 16 * CLASSES * 8 + tiles + SLACK
    fresh = peak_of(lambda: kosa.cross_entropy_with_grad(t, logits=z, axis=axis))
    assert fresh <= z.nbytes + 16 * ROWS + 2 * 16 * CLASSES * 8 + tiles + SLACK


@pytest.mark.parametrize("kind", ["probs", "log_probs"])
def test_probabilities_take_no_more(kind):
    t, y = draw(np.random.default_rng(0), kind, "float32", None, (ROWS, CLASSES), -1, 2.0)
    assert peak_of(lambda: kosa.cross_entropy(t, **{kind: y})) <= 16 * ROWS + 2 * 2 * 4096 * 8 + SLACK
    assert (
        peak_of(lambda: kosa.cross_entropy_with_grad(t, **{kind: y}, out=y))
        <= 16 * ROWS + 2 * 2 * 4096 * 8 + SLACK
    )


def test_few_classes_take_memory_for_their_rows_alone():
    t, z = draw(np.random.default_rng(0), "logits", "float32", None, (400_000, 10), -1, 2.0)
    tiles = 2 * 2 * 16384 * 8
    assert peak_of(lambda: kosa.cross_entropy(t, logits=z)) <= 16 * 400_000 + tiles + SLACK
    assert peak_of(lambda: kosa.cross_entropy_with_grad(t, logits=z, out=np.empty_like(z))) <= (
        16 * 400_000 + tiles + SLACK + z.nbytes
    )


def test_statistics_take_memory_for_their_rows_alone():
    t, z, _ = arrays("C")
    figures = 7 * 8
    bound = (figures + 16) * ROWS + 2 * 2 * CLASSES * 8 + 2 * 2 * 16384 * 8 + SLACK
    assert peak_of(lambda: kosa.row_statistics(t, logits=z)) <= bound


def test_arrays_that_must_be_copied_are_copied_in_pieces():
    t, z, _ = arrays("C")
    swapped = z.astype(">f4")
    piece = 2**20 * 4 * 2  # 2²⁰ elements: the copy in native bytes, and the foreign ones it came of
    bound = 16 * ROWS + piece + 2 * 2 * 16384 * 8 + SLACK
    assert peak_of(lambda: kosa.cross_entropy(t, logits=swapped)) <= bound


RSS = """
import sys
import numpy as np, kosa
def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
kosa.set_num_threads(2)
rng = np.random.default_rng(0)
rows, classes = 16_000, 2000  # 128 MB of float32
shape, axis = ((rows, classes), -1) if sys.argv[2] != "classes not last" else ((16, classes, 1000), 1)
z = rng.random(shape, dtype=np.float32)
t = rng.integers(0, classes, shape[:axis] + shape[axis % len(shape) + 1:] if axis != -1 else shape[:-1])
if sys.argv[2] == "Fortran":
    z = z.reshape(classes, rows).T
small = np.asfortranarray(z[:2]) if sys.argv[2] == "Fortran" else z[:2]
out = np.empty((0,) * z.ndim, np.float32)
if sys.argv[1] == "value":
    call = lambda t, z, out: kosa.cross_entropy(t, logits=z, axis=axis)
else:
    call = lambda t, z, out: kosa.cross_entropy_with_grad(t, logits=z, axis=axis, out=out)
call(t[:2], small, small.copy())  # compiled
if z.ndim == 2:
    call(t[:200], z[:200], z[:200].copy(order="K"))  # and the threads are up
else:
    call(t[:1], z[:1], z[:1].copy())
before = peak()
call(t, z, z)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("what", ["value", "gradient in place"])
@pytest.mark.parametrize("layout", ["C", "Fortran", "classes not last"])
def test_the_resident_peak_does_not_grow_by_an_array(what, layout):
    done = subprocess.run(
        [sys.executable, "-c", RSS, what, layout], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 6 * 2**20  # 16,000 rows of 16 bytes, tiles, a little of malloc's: of 128 MB
