"""The benchmark of the GPU engine, with a clock that is no GPU's: contestants on tiny tensors, shares, goals, files."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from gpu_engine import GPU

import kosa
from kosa.benchmark import gpu, gpu_clock, gpu_dense, gpu_linear, gpu_report
from kosa.benchmark.harness import Missing
from kosa.cli import main

FAR = time.monotonic() + 1e9


class Clock:
    """The CPU as a card: time stands still but for what `speeds` says, a number a contestant in the order of warm-up."""

    device, cache, name, memory, driver = "cpu", 0, "Fake Card 9000 (80GB)", 8 << 30, "CUDA 0"

    def __init__(self, free=1 << 40):
        self._free, self.calls, self.released = free, 0, 0

    def seconds(self, call, times):
        for _ in range(times):
            self.calls += 1
            call()
        return 0.25

    def peak(self, call):
        call()
        return 3 << 20

    def free(self):
        return self._free

    def release(self):
        self.released += 1


def named(name):
    return next(case for case in gpu.CASES if case.name == name)


def entries_of(case, *without):
    return [entry for entry in case.entries if entry[0] not in without]


@pytest.mark.parametrize("case", gpu.CASES, ids=[case.name for case in gpu.CASES])
def test_contestants_that_are_installed_compute_the_same(case):
    problem = case.build("cpu", 0, True)
    results = gpu.measure(
        entries_of(case, "torch.compile", "cut-cross-entropy"), problem, Clock(), 1, FAR, lambda text: None
    )
    missing = {r["name"]: r["missing"] for r in results if "missing" in r}
    assert set(missing) <= {"Liger-Kernel", "quack", "F.linear_cross_entropy, options"}
    assert all(
        "not installed" in reason or "N×K only" in reason
        for name, reason in missing.items()
        if "F." not in name
    )
    measured = [r for r in results if "missing" not in r]
    assert {"kosa"} <= {r["name"] for r in measured}
    for r in measured:
        assert r["peak_bytes"] == 3 << 20
        assert r["name"] == "limit" or r["relative_error"] <= problem.tolerance


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("shape", [(9, 7), (3, 7, 4, 5)])
def test_the_reference_of_dense_cases_is_the_definition(gradient, shape):
    problem = gpu_dense.dense(shape, "float32", gradient)("cpu", 0, False)
    z, t = problem.sets[0]
    assert z.shape == shape
    loss, rows = problem.reference()
    expected, grad = kosa.definition.loss_with_grad(t.numpy(), logits=z.double().numpy(), axis=1)
    assert loss == pytest.approx(expected, rel=1e-12)
    if gradient:
        np.testing.assert_allclose(rows, grad[problem.rows], rtol=0, atol=1e-15)
    else:
        assert rows is None


def test_the_reference_of_the_linear_cases_is_the_definition():
    problem = gpu_linear.linear(1, 1, 1, True)("cpu", 0, True)
    h, w, t = (x.double().numpy() if x.is_floating_point() else x.numpy() for x in problem.sets[0])
    loss, rows = problem.reference()
    expected, dz = kosa.definition.loss_with_grad(t, logits=h @ w.T)
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(rows, (dz @ w)[problem.rows], rtol=0, atol=1e-6)


def test_sets_of_tensors_are_together_larger_than_the_cache_and_differ():
    size = 100 * 10 * 4
    problem = gpu_dense.dense((100, 10), "float32", True)("cpu", 5 * size, False)
    assert len(problem.sets) == 15
    assert not torch.equal(problem.sets[0][0], problem.sets[1][0])
    seen = []
    gpu.measure(
        [("own", lambda p: lambda z, t: seen.append(z.data_ptr()) or (0, z))], problem, Clock(), 1, FAR, print
    )
    assert len(set(seen)) <= 1  # a wrong answer: it was called once, and not again
    seen.clear()
    gpu.measure(
        [("limit", lambda p: lambda z, t: seen.append(z.data_ptr()))],
        problem,
        Clock(),
        8,
        FAR,
        lambda text: None,
    )
    assert len(set(seen)) == len(seen[1:]) == 10  # peak, once, and eight rounds


def test_whoever_fails_is_left_out_with_the_reason():
    problem = gpu_dense.dense((4, 3), "float32", False)("cpu", 0, False)

    def absent(problem):
        raise Missing("not here")

    def broken(problem):
        raise RuntimeError("no memory\nand more")

    entries = [
        ("absent", absent), ("broken", broken), ("wrong", lambda p: lambda z, t: 7.0), ("kosa", gpu_dense.kosa),
    ]  # fmt: skip
    clock = Clock()
    *bad, good = gpu.measure(entries, problem, clock, 2, FAR, lambda text: None)
    assert [r["missing"] for r in bad[:2]] == ["not here", "failed: RuntimeError: no memory"]
    assert "wrong value: 7 instead" in bad[2]["missing"]
    assert good["median_s"] == 0.25
    assert clock.released == 1


def test_after_the_deadline_only_kosa_and_the_limit_are_measured():
    problem = gpu_dense.dense((4, 3), "float32", False)("cpu", 0, False)
    entries = [("limit", gpu_dense.limit), ("kosa", gpu_dense.kosa), ("torch eager", gpu_dense.torch_eager)]
    results = gpu.measure(entries, problem, Clock(), 1, time.monotonic() - 1, lambda text: None)
    assert [r.get("missing") for r in results] == [None, None, "no time left"]


def test_a_case_that_does_not_fit_or_comes_too_late_is_skipped():
    case = named("value 8192×32000 bfloat16")
    assert gpu._case(case, Clock(free=1 << 30), False, 1, FAR, print)["skipped"] == (
        "skipped: needs 8 GiB of free memory, there are 1.0"
    )
    assert gpu._case(case, Clock(), False, 1, 0.0, print)["skipped"] == "skipped: no time left"


def test_a_quick_run_is_written_with_shares_and_the_cards_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_report, "Card", Clock)
    chosen = [named(name) for name in ("gradient 8192×32000 bfloat16", "linear", "text")]
    monkeypatch.setattr(gpu, "CASES", chosen)
    gpu_report.bench(str(tmp_path), quick=True, rounds=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "gpu-fake-card-9000-80gb.json", "gpu-fake-card-9000-80gb.md",
    ]  # fmt: skip
    found = json.loads((tmp_path / "gpu-fake-card-9000-80gb.json").read_text())
    assert found["goals"] == []
    gradient, linear, text = found["cases"]
    kosa_out = next(r for r in gradient["results"] if r["name"] == "kosa, out=")
    assert kosa_out["share"] == kosa_out["times_kosa"] == 1.0
    assert kosa_out["bytes_a_second"] == 64 * 1000 * 2 * 2 / 0.25
    three = next(r for r in linear["results"] if r["name"] == "limit")
    assert three["flops_a_second"] == 3 * 2 * 64 * 32 * 1000 / 0.25
    assert "share" not in text["results"][0]
    page = (tmp_path / "gpu-fake-card-9000-80gb.md").read_text()
    assert page.startswith("Fake Card 9000 (80GB), 8 GiB, CUDA 0; ")
    assert "share of the bare copy" in page
    assert "share of the three bare products" in page
    out = capsys.readouterr().out
    assert "kosa, out=" in out
    assert "gpu-fake-card-9000-80gb.json" in out


def results_of(**seconds):
    return [
        {"name": name.replace("_", " "), "median_s": value, "peak_bytes": 5 << 30}
        for name, value in seconds.items()
    ]


def test_goals_hold_kosa_to_the_limit_to_memory_and_to_the_fastest_peer():
    wide, small = named("value 8192×128256 bfloat16"), named("value 1000000×10 float32")
    cases = [
        {"name": wide.name, "title": wide.title, "main": "kosa", "limit": "bare read",
         "results": results_of(limit=1.0, kosa=1.1, torch_eager=9.0, quack=1.05)},
        {"name": small.name, "title": small.title, "main": "kosa", "limit": "bare read",
         "results": results_of(limit=1.0, kosa=2.0, torch_eager=3.0)},
        {"name": "linear", "title": "linear", "main": "kosa", "limit": "three bare products", "outputs": 4 << 30,
         "results": results_of(limit=1.0, kosa=1.2)},
        {"name": "linear, evaluation", "title": "evaluation", "main": "kosa", "limit": "bare product", "outputs": 0,
         "results": results_of(limit=1.0, kosa=1.4)},
        {"name": "text", "title": "text", "main": "kosa", "limit": "bare read", "skipped": "skipped"},
    ]  # fmt: skip
    found = [(g["against"], g["at_most"], g["reached"]) for g in gpu.goals(cases)]
    assert found == [
        ("bare read", 1 / 0.85, True), ("quack", 1.0, False), ("torch eager", 1.0, True),
        ("three bare products", 1.15, False), (None, 2**30, True), ("bare product", 1.5, True), (None, 2**26, False),
    ]  # fmt: skip


def test_all_sizes_are_there():
    names = " ".join(case.title for case in gpu.CASES)
    for size in (
        "8192×32000",
        "8192×128256",
        "4096×256000",
        "1000000×10",
        "8×21×512×512",
        "N=8192 D=4096 K=128256",
    ):
        assert size in names
    assert all(case.main in [name for name, _ in case.entries] for case in gpu.CASES)


@pytest.mark.skipif(GPU, reason="it would run")
def test_without_a_gpu_the_command_says_so_in_one_line_and_exits_with_2(tmp_path):
    with pytest.raises(gpu_clock.NoGpu, match=r"needs a GPU that PyTorch .* can use, and finds none"):
        gpu_clock.Card()
    done = subprocess.run(
        [sys.executable, "-c", "from kosa.cli import main; main()", "bench", "--gpu", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("kosa: the benchmark of the GPU engine needs a GPU")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(("args", "message"), [
    (["--gpu", "/nowhere"], "cannot write to /nowhere: there is no such folder"),
    (["--gpu", ".", "--case", "value"], "leave --case, --json, --markdown out"),
])  # fmt: skip
def test_bad_options_of_the_command(monkeypatch, capsys, args, message):
    monkeypatch.setattr(sys, "argv", ["kosa", "bench", *args])
    with pytest.raises(SystemExit) as exit_status:
        main()
    assert exit_status.value.code == 2
    assert message in capsys.readouterr().err
