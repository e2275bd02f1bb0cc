"""The demo as `make demo` runs it, and its training by itself."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).parent.parent / "examples" / "digits.py"


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, SCRIPT],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        env=None,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, folder


def test_no_digit_is_both_learnt_and_held_out(digits: ModuleType) -> None:
    data, held_out = digits.load()
    assert len(data.ids) + len(held_out.ids) == 1797
    assert not set(data.ids) & set(held_out.ids)


def test_training_makes_the_loss_fall_and_the_model_right(digits: ModuleType) -> None:
    data, held_out = digits.load()
    model, losses = digits.train(data, held_out)
    # Knowing nothing costs ln 10; every 20 steps the loss is lower than before.
    assert losses[0] == pytest.approx(np.log(10), rel=1e-6)
    assert np.all(np.diff(losses[::20]) < 0)
    assert losses[-1] < 0.1
    right = np.mean(model.logits(held_out.images).argmax(axis=1) == held_out.digits)
    assert right > 0.9


def test_demo_shows_the_loss_falling(demo: tuple[str, Path]) -> None:
    output, _ = demo
    losses = [float(loss) for loss in re.findall(r"^ +\d+ +([\d.]+) +[\d.]+ +[\d.]+%", output, re.MULTILINE)]
    assert len(losses) == 11
    assert losses == sorted(losses, reverse=True)


def test_demo_writes_the_predictions_it_scores(demo: tuple[str, Path], digits: ModuleType) -> None:
    output, folder = demo
    table = pq.read_table(folder / ".kosa-demo" / "digits.parquet")
    assert table.column_names == ["id", "digit", *(f"z{k}" for k in range(10))]
    logits = np.column_stack([table[f"z{k}"].to_numpy() for k in range(10)]).astype(np.float64)
    target = table["digit"].to_numpy()
    lse = np.log(np.exp(logits).sum(axis=1))
    losses = lse - logits[np.arange(len(target)), target]
    # What `kosa score` prints is the loss of that file, computed here from the definition.
    assert f"{losses.mean():.4f}" in output
    assert f"image {table['id'].to_numpy()[losses.argmax()]}:" in output


def test_demo_shows_the_commands_and_what_they_print(demo: tuple[str, Path]) -> None:
    output, _ = demo
    lines = output.splitlines()
    scored = lines.index("$ kosa score .kosa-demo/digits.parquet --target digit --logits 'z*' --id id")
    explained = next(number for number, line in enumerate(lines) if line.startswith("$ kosa explain"))
    assert explained - scored > 10
    assert len(lines) - explained > 10
    assert "perplexity" in "\n".join(lines[scored:explained]).lower()
    assert "nats" in "\n".join(lines[explained:])


def test_worst_digit_is_drawn(digits: ModuleType) -> None:
    image = np.zeros(64, np.float32)
    image[0], image[63] = 1, 0.5
    rows = [line[4:] for line in digits.draw(image).splitlines()]
    assert len(rows) == 8
    assert rows[0] == "██" + " " * 14
    assert rows[7] == " " * 14 + "▒▒"
