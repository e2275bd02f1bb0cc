"""`make example-lm` in small: both runs are the same training, and what it says of them is in its files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "language_model.py"
# The losses, near 7.5, are float32: 1e-6 is 2 ulp, and 8 steps let the runs' rounding drift apart.
APART = 1e-5
STEPS = 8


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    command = [sys.executable, EXAMPLE, "--quick", "--steps", str(STEPS), "--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    results = (json.loads((folder / f"{name}.json").read_text()) for name in ("kosa", "torch"))
    return done.stdout, folder, *results


def test_losses_agree_step_by_step(ran):
    _, _, kosa, torch = ran
    assert len(kosa["losses"]) == STEPS
    assert kosa["losses"] == pytest.approx(torch["losses"], rel=0, abs=APART)
    for ours, theirs in zip(kosa["held_out"], torch["held_out"], strict=True):
        assert ours == pytest.approx(theirs, rel=0, abs=APART)


def test_it_learns_and_the_average_follows(ran):
    _, _, kosa, _ = ran
    first, last = kosa["held_out"][0], kosa["held_out"][-1]
    assert last[0] == STEPS
    assert last[1] < first[1] - 0.1
    # Weights of earlier steps, so a loss above that of the last ones and below that of the first.
    assert last[1] < last[2] < first[2]


def test_what_is_printed_is_what_was_measured(ran):
    printed, folder, kosa, torch = ran
    assert "PyTorch is F.linear + F.cross_entropy, Kosa is kosa.torch.linear_cross_entropy." in printed
    for run in (kosa, torch):
        assert f"{run['held_out'][-1][1]:.4f} nats" in printed
        assert f"{run['held_out'][-1][2]:.4f} nats" in printed
        assert f"{1000 * run['step_seconds']:.0f} ms" in printed
    bits = kosa["held_out"][-1][2] * kosa["nats_to_bits_per_byte"]
    assert f"{bits:.4f} bits/byte" in printed
    assert 1 < bits < 8
    assert "averaged weights against the last ones" in printed
    svg = (folder / "losses.svg").read_text(encoding="utf-8")
    assert svg.count("<path") > 10


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--steps", "0"], "--steps must be at least 1"),
        (["--minutes", "0"], "--minutes must be more than 0"),
        (["--vocabulary", "300"], "--vocabulary must be from 512 to 65536"),
        (["--steps", "3", "--minutes", "1"], "not allowed with argument"),
    ],
)
def test_bad_arguments(given, said, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    monkeypatch.setattr(sys, "argv", ["language_model.py", *given])
    import language_model

    with pytest.raises(SystemExit, match="2"):
        language_model.arguments()
    assert said in capsys.readouterr().err
