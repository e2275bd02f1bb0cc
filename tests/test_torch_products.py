"""What the linear form of `kosa.torch` costs: how many matrix products, and how much memory."""

import subprocess
import sys
import time
from itertools import product

import pytest
import torch

import kosa.torch
from kosa.torch import products

pytestmark = pytest.mark.usefixtures("one_thread")
X, W, BIAS = (torch.ones(shape) for shape in ((6, 3), (5, 3), (5,)))
Y, SOFT = torch.tensor([0, 1, 2, 3, 4, 0]), torch.full((6, 5), 0.2)


def matrix_products(call):
    """The result, and how many products of matrices PyTorch's libraries made for it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        result = call()
    names = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::matmul", "aten::linear")
    return result, sum(event.count for event in profile.key_averages() if event.key in names)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("wanted", list(product([False, True], repeat=4)), ids=str)
def test_what_wants_no_gradient_gets_none_and_costs_no_product(wanted, reduction):
    tensors = [x.clone().requires_grad_(want) for x, want in zip((X, W, BIAS, SOFT), wanted, strict=True)]
    x, w, bias, t = tensors
    function = kosa.torch.linear_cross_entropy
    loss, forward = matrix_products(lambda: function(x, w, t, linear_bias=bias, reduction=reduction).sum())
    _, backward = matrix_products(lambda: loss.backward() if any(wanted) else None)
    assert [tensor.grad is not None for tensor in tensors] == list(wanted)
    slopes = wanted[0] + wanted[1]
    if reduction == "mean":
        assert (forward, backward) == (1 + slopes, 0)
    else:  # which cannot know its upstream gradient beforehand
        assert (forward, backward) == (1, 1 + slopes if any(wanted) else 0)


def test_without_gradients_there_is_one_product():
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    with torch.no_grad():
        assert matrix_products(lambda: kosa.torch.linear_cross_entropy(x, w, Y))[1] == 1
    assert matrix_products(lambda: kosa.torch.linear_row_statistics(x, w, Y))[1] == 1


def test_rows_that_do_not_count_take_part_in_no_product():
    ignored = torch.full((6,), -100)
    loss, count = matrix_products(
        lambda: kosa.torch.linear_cross_entropy(X.clone().requires_grad_(), W, ignored)
    )
    assert (count, loss.isnan().item()) == (0, True)


MEMORY = """
import resource, sys, torch, kosa.torch
dtype, workspace = getattr(torch, sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1); kosa.set_num_threads(1)
def run(rows, classes, workspace):
    x = torch.zeros(rows, 64, dtype=dtype, requires_grad=True)
    w = torch.zeros(classes, 64, dtype=dtype, requires_grad=True)
    y = torch.zeros(rows, dtype=torch.long)
    kosa.torch.linear_cross_entropy(x, w, y, workspace=workspace).backward()
run(64, 128, workspace)                          # compiled, libraries loaded
run(64, 16384, 1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(4096, 16384, workspace)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_stays_within_the_workspace_beyond_inputs_and_gradients(dtype):
    """4096×16384 logits are 256 MiB of float32; by peak RSS, in a process of its own."""
    workspace, item = 16 << 20, 4 if dtype == "float32" else 2
    command = [sys.executable, "-c", MEMORY, dtype, str(workspace)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    tensors = 2 * (4096 + 16384) * 64 * item + 4096 * 8 * 4  # with gradients; targets, losses
    accumulator = 0 if dtype == "float32" else 16384 * 64 * 4
    slack = 8 << 20  # what allocators and libraries round up
    assert int(done.stdout) <= workspace + tensors + accumulator + slack


def test_the_library_that_is_clearly_faster_multiplies(monkeypatch):
    def slowed(multiply):
        def slow(*matrices):
            time.sleep(0.05)
            multiply(*matrices)

        return slow

    for name, other in (("_torch", "_numpy"), ("_numpy", "_torch")):
        with monkeypatch.context() as patched:
            patched.setattr(products, name, slowed(getattr(products, name)))
            assert products.fastest.__wrapped__(1) is getattr(products, other)


@pytest.fixture
def measures(monkeypatch):
    """Every call in float32 is large enough to measure the libraries, which the first one does."""
    monkeypatch.setattr(products, "_WORTH", 0)
    products.fastest.cache_clear()
    yield
    products.fastest.cache_clear()


def test_measuring_leaves_random_numbers_as_they_would_be(measures):
    before = torch.get_rng_state()
    kosa.torch.linear_cross_entropy(X, W, Y)
    assert products.fastest.cache_info().misses == 1
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("soft", [False, True])
def test_other_defaults_of_device_and_dtype_change_nothing(measures, soft):
    def computed():
        leaves = [x.clone().requires_grad_() for x in (X, W, BIAS, *([SOFT] if soft else []))]
        x, w, bias, *target = leaves
        loss = kosa.torch.linear_cross_entropy(x, w, *(target or [Y]), linear_bias=bias, shift=1)
        ignored = kosa.torch.linear_cross_entropy(
            x, w, torch.full_like(Y, -100), linear_bias=bias, reduction="sum"
        )
        stats = kosa.torch.linear_row_statistics(x, w, *(target or [Y]))
        return loss, stats.loss, *torch.autograd.grad(loss + ignored + stats.loss.sum(), leaves)

    expected = computed()
    products.fastest.cache_clear()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            found = computed()
    finally:
        torch.set_default_dtype(torch.float32)
    assert products.fastest.cache_info().misses == 1
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_deterministic_algorithms_are_not_chosen_by_the_clock(measures):
    torch.use_deterministic_algorithms(True)
    try:
        kosa.torch.linear_cross_entropy(X, W, Y)
    finally:
        torch.use_deterministic_algorithms(False)
    assert products.fastest.cache_info().misses == 0


def test_products_of_numpy_give_the_same_loss_and_gradients(monkeypatch):
    hidden, weight = (torch.randn(n, 8, generator=torch.Generator().manual_seed(n)) for n in (40, 70))
    target = torch.arange(40)
    calls = []

    def counted(a, b, out):
        calls.append(out.shape)
        products._numpy(a, b, out)

    def computed():
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = kosa.torch.linear_cross_entropy(*leaves, target, workspace=0)
        return loss.detach(), *torch.autograd.grad(loss, leaves)

    expected = computed()
    monkeypatch.setattr(products, "_WORTH", 0)
    monkeypatch.setattr(products, "fastest", lambda threads: counted)
    for ours, theirs in zip(computed(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert len(calls) == 2 * 40  # a row at a time: logits and the gradient of hidden
