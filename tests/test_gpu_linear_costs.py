"""What the linear form on the Triton engine costs: matrix products, memory, waiting; and how it is cut into pieces."""

import numpy as np
import pytest
import torch
from test_gpu_linear import DTYPES, drawn, indices
from torch.utils._python_dispatch import TorchDispatchMode

from kosa.gpu import evaluation, linear
from kosa.loss import Options

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("one_thread")]


class Watching(TorchDispatchMode):
    """Counts matrix products, and fails where the host would wait for the device."""

    def __init__(self):
        super().__init__()
        self.products = 0
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select")
        if name == "index":
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), (
                "a mask is nonzero() in disguise"
            )
        self.products += name in ("mm", "addmm", "addmm_", "matmul", "bmm")
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.shapes.append((name, tuple(out.shape)))
        return out


class Unlaunched:
    def __getitem__(self, grid):
        return lambda *args, **kwargs: None


@pytest.fixture
def unlaunched(monkeypatch):
    """Kernels left out: the interpreter itself reads what a GPU would not let it."""
    for module, name in ((linear.dense, "run"), (linear.dense, "target_slopes"), (linear.statistics, "run")):
        monkeypatch.setattr(module, name, lambda *args, **kwargs: None)
    for name in ("project", "finish"):
        monkeypatch.setattr(evaluation, name, Unlaunched())


@pytest.mark.usefixtures("unlaunched")
@pytest.mark.parametrize("dtype", DTYPES[1:3], ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_nothing_waits_for_the_device_and_no_product_is_made_in_vain(device, soft, dtype):
    rows, classes = 300, 50
    x, w = drawn(2, rows // 2, 8, dtype=dtype, device=device), drawn(classes, 8, dtype=dtype, device=device)
    bias = drawn(classes, dtype=dtype, device=device)
    target = drawn(2, rows // 2, classes).softmax(-1) if soft else indices(2, rows // 2, classes=classes)
    class_weight, row_weight = torch.rand(classes, device=device), torch.rand(2, rows // 2, device=device)
    args = (
        x,
        w,
        bias,
        target.to(dtype if soft else torch.int32).to(device),
        class_weight,
        row_weight,
        Options(),
    )
    upstream = torch.ones((), dtype=torch.float64, device=device)
    linear.adds_wide(w.device, dtype)
    for shift, workspace in ((0, None), (1, None), (2, 64 * (classes + 8) * w.itemsize)):
        chunks = 1 if workspace is None else -(-(rows - 2) // 64)
        for needs in (
            (True, True, True, soft),
            (True, False, False, False),
            (False, True, False, False),
            (False, False, True, False),
        ):
            with Watching() as watching:
                linear.gradients(upstream, None, *args, needs, workspace, shift)
            if linear.adds_wide(w.device, dtype) or dtype == torch.float32 or chunks == 1:
                assert watching.products == chunks * (1 + needs[0] + needs[1])
        with Watching() as watching:
            linear.losses(*args, workspace, shift)
            linear.statistics_of(*args, workspace, shift)
        if workspace is None:
            assert watching.products == 2 + (
                soft and shift > 0
            )  # rows without a distribution go by themselves
        elif not soft:
            assert watching.products == 0


def peak(device, call):
    """The bytes that were allocated at once beyond those before."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        return result, torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        result = call()
    sizes = [e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert any(size > 0 for size in sizes)
    return result, max(np.cumsum(sizes))


@pytest.mark.usefixtures("unlaunched")
@pytest.mark.parametrize("needs_hidden", [True, False])
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("dtype", DTYPES[1:3], ids=str)
def test_memory_stays_within_the_workspace_beyond_results_and_the_accumulator(
    device, dtype, wide, needs_hidden, monkeypatch
):
    """2048×4096 logits are 32 MiB of float32; the gradient of the weight is 1 MiB, and no part of it is made beside."""
    rows, classes, features, workspace = 2048, 4096, 64, 1 << 20

    def added(total, a, b, beta):
        for i in range(0, len(total), 64):
            total[i : i + 64].addmm_(a[i : i + 64].float(), b.float(), beta=beta)

    if device == "cpu":
        monkeypatch.setattr(linear, "adds_wide", lambda device, dtype: wide)
        monkeypatch.setattr(linear, "add_wide", added)
    x, w = (
        drawn(rows, features, dtype=dtype, device=device),
        drawn(classes, features, dtype=dtype, device=device),
    )
    y = indices(rows, classes=classes, device=device)
    upstream = torch.ones((), dtype=torch.float64, device=device)
    needs = (needs_hidden, True, False, False)
    results, most = peak(
        device,
        lambda: linear.gradients(upstream, None, x, w, None, y, None, None, Options(), needs, workspace),
    )
    kept = sum(t.nbytes for t in results if t is not None)
    accumulator = 0 if dtype == torch.float32 else 4 * w.numel()
    vectors = 4 * rows + (4 << 10)  # masks; losses are among the results
    slack = 0 if device == "cpu" else 32 << 20  # libraries' own workspaces
    assert most <= workspace + kept + accumulator + vectors + slack
    _, most = peak(device, lambda: linear.losses(x, w, None, y, None, None, Options(), 16 << 10))
    assert most <= (16 << 10) + 8 * rows + (1 << 10)


def test_chunks_are_few_equal_and_of_whole_tiles():
    gib = 1 << 30
    assert linear.chunk_rows(8192, 2 * 128256, gib) == 4096
    assert linear.chunk_rows(8192, 2 * 256000, gib) == 2048
    assert linear.chunk_rows(100, 2 * 1000, gib) == 100
    assert linear.chunk_rows(0, 2 * 1000, gib) == 0
    for rows in (1, 17, 300, 8192, 10_000):
        for budget in (0, 1000, 50_000, 1 << 20, 1 << 26):
            size = linear.chunk_rows(rows, 1000, budget)
            assert 1 <= size <= rows
            assert size * 1000 <= max(budget, 1000)
            assert size == rows or size % 16 == 0 or size < 16


def test_the_grid_takes_every_tile_once_and_fills_the_card_evenly():
    """The order of programs is that of `project`, written here once more."""
    h100 = evaluation.Card("cuda", 132, 50 << 20, 227 << 10)
    tile = evaluation.tiles(h100, 2, "ieee")
    for rows, classes, features in (
        (8192, 128256, 4096),
        (300, 128256, 4096),
        (100_000, 5000, 512),
        (129, 257, 8),
    ):
        plan = evaluation.grid(rows, classes, 2 * features, 12, tile, h100, evaluation.MEMORY)
        assert plan.splits * rows * 12 <= evaluation.MEMORY
        pieces = -(-classes // tile.classes)
        assert plan.splits == pieces or plan.splits * plan.group >= 132
        taken = np.zeros((plan.blocks, pieces), int)
        for program in range(plan.blocks * plan.splits):
            first = program // (plan.group * plan.splits) * plan.group
            size = min(plan.blocks - first, plan.group)
            within = program % (plan.group * plan.splits)
            split = within // size
            taken[
                first + within % size, split * pieces // plan.splits : (split + 1) * pieces // plan.splits
            ] += 1
        assert (taken == 1).all()
        if rows * classes > 1 << 28:
            waves = -(-plan.blocks * plan.splits // 132) * -(-pieces // plan.splits)
            assert waves <= 1.08 * plan.blocks * pieces / 132


def test_tf32_is_taken_only_where_pytorch_is_told_so():
    settings_of, nvidia = torch.backends.cuda.matmul, evaluation.Card("cuda", 132, 50 << 20, 227 << 10)
    before = settings_of.fp32_precision
    try:
        settings_of.fp32_precision = "ieee"
        assert evaluation.precision(nvidia, torch.float32) == "ieee"
        settings_of.fp32_precision = "tf32"
        assert evaluation.precision(nvidia, torch.float32) == "tf32"
        assert evaluation.precision(nvidia, torch.bfloat16) == "ieee"
        assert evaluation.precision(nvidia._replace(name="hip"), torch.float32) == "ieee"
        assert evaluation.precision(nvidia._replace(shared=64 << 10), torch.float32) == "ieee"
    finally:
        settings_of.fp32_precision = before


@pytest.mark.parametrize(
    ("shared", "taken"), [(64 << 10, {torch.float32}), (100 << 10, set(DTYPES) - {torch.float64})]
)
def test_logits_are_written_where_triton_has_no_matrix_units_for_them(monkeypatch, shared, taken):
    monkeypatch.setattr(evaluation, "card", lambda device: evaluation.Card("cuda", 40, 4 << 20, shared))
    x = {dtype: torch.zeros(4, 8, dtype=dtype) for dtype in DTYPES}
    assert {dtype for dtype in DTYPES if evaluation.evaluates(x[dtype], x[dtype])} == taken
