"""A small transformer learns the Python standard library, once by Kosa's linear cross-entropy and once by PyTorch's own.

Run it with `make example-lm`, or: python examples/language_model.py --help. It makes a vocabulary (BPE) of the running
Python's own sources, trains on them twice, with the same seed and the same batches, each in a process of its own, and
shows time, memory and losses side by side. The swap is one line, `loss_by_kosa` in language_model_training.py.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import language_model_report as report
import language_model_text as text
import torch
from rich.console import Console

TRAINING = Path(__file__).with_name("language_model_training.py")
FULL = {"batch": 16, "length": 128, "width": 128, "heads": 4, "layers": 4, "rate": 2e-3, "bytes": 16_000_000}
QUICK = {"batch": 4, "length": 64, "width": 64, "heads": 2, "layers": 2, "rate": 2e-3, "bytes": 1_000_000}
QUICK_STEPS, QUICK_VOCABULARY = 20, 2048
TRIAL = 8  # steps of each, to see how many fit into the time
MEASURING = 36  # what measuring six times on held-out text takes, in steps
STARTING = 12.0  # seconds in which two processes start and stop


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--steps", type=int, help="steps of each run, instead of a time")
    amount.add_argument(
        "--minutes", type=float, default=5.0, help="about how long all of it may take (%(default)g)"
    )
    parser.add_argument("--vocabulary", type=int, help="tokens, customarily 8192 to 32768 (16384)")
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model and few steps, to see that it works"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(".kosa-example-lm"), help="for what it writes (%(default)s)"
    )
    given = parser.parse_args()
    if given.steps is not None and given.steps < 1:
        parser.error("--steps must be at least 1")
    if given.minutes <= 0:
        parser.error("--minutes must be more than 0")
    if given.vocabulary is not None and not 512 <= given.vocabulary <= 65536:
        parser.error(
            "--vocabulary must be from 512 to 65536: 256 bytes, the end of a file, and room for pairs"
        )
    return given


def train(settings: dict[str, Any], loss: str, name: str, **other: Any) -> dict[str, Any]:
    """One run in its own process."""
    passed = {**settings, "loss": loss, "name": name, **other}
    status = subprocess.run([sys.executable, TRAINING, json.dumps(passed)]).returncode
    if status:
        sys.exit(f"{name} ended with status {status}.")
    return json.loads((Path(settings["folder"]) / f"{loss}.json").read_text())


def fitting_steps(settings: dict[str, Any], deadline: float) -> int:
    """How many steps of both runs fit before the deadline, by a trial of each."""
    trial = {"steps": TRIAL, "measure": False, "quiet": True}
    both = sum(train(settings, loss, "trial", **trial)["step_seconds"] for loss in report.NAMES)
    return max(20, round((deadline - time.perf_counter() - STARTING) / both) - MEASURING)


def main() -> None:
    start = time.perf_counter()
    if hasattr(sys.stdout, "reconfigure"):
        # A console of another encoding shows ? for what it cannot show, and the example goes on.
        sys.stdout.reconfigure(errors="replace")
    given = arguments()
    console = Console()
    given.folder.mkdir(parents=True, exist_ok=True)
    settings = dict(QUICK if given.quick else FULL, folder=str(given.folder), quiet=False, measure=True)
    settings["threads"] = torch.get_num_threads()
    settings["vocabulary"] = given.vocabulary or (QUICK_VOCABULARY if given.quick else 16384)
    console.print("Making a vocabulary of Python's standard library …")
    console.print(text.prepare(given.folder, settings["vocabulary"], settings["bytes"]))
    settings["vocabulary"] = len(text.load(given.folder).token_bytes)
    if given.steps or given.quick:
        settings["steps"] = given.steps or QUICK_STEPS
    else:
        console.print(f"A short trial, to see how many steps fit into {given.minutes:g} minutes …")
        settings["steps"] = fitting_steps(settings, start + 60 * given.minutes)
    runs = {}
    for loss, name in report.NAMES.items():
        console.print(f"\n{name}: {settings['steps']} steps", highlight=False)
        runs[loss] = train(settings, loss, loss)
    console.print()
    report.show(console, **runs)
    report.draw(given.folder / "losses.svg", **runs)
    console.print(
        f"Curves: {(given.folder / 'losses.svg').as_posix()}; every figure: kosa.json, torch.json beside it. Done in "
        f"{time.perf_counter() - start:.0f} s.",
        highlight=False,
    )


if __name__ == "__main__":
    main()
