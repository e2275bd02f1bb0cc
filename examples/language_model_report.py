"""The two runs side by side: a table, and their curves as SVG."""

from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

NAMES = {"torch": "F.linear + F.cross_entropy", "kosa": "kosa.torch.linear_cross_entropy"}
COLOURS = {"torch": "#8a8f98", "kosa": "#0b6e4f"}
AVERAGE = "#d1495b"

Run = dict[str, Any]


def show(console: Console, kosa: Run, torch: Run) -> None:
    console.print(
        f"{kosa['steps']} steps of {kosa['batch']}×{kosa['length']} tokens, vocabulary K = {kosa['vocabulary']}, "
        f"width D = {kosa['width']}, {kosa['parameters']:,} parameters, float32, {kosa['threads']} threads, a process "
        "for each.\n"
        f"PyTorch is {NAMES['torch']}, Kosa is {NAMES['kosa']}.",
        highlight=False,
    )
    table = Table("", "PyTorch", "Kosa", "")
    for column in table.columns[1:]:
        column.justify = "right"

    def row(what: str, key: Any, form: str, better: str = "", worse: str = "") -> None:
        values = [key(run) for run in (torch, kosa)]
        if None in values:
            table.add_row(what, "–", "–", "")
            return
        high, low = max(values), max(min(values), 1e-9)
        factor = f"{high / low:.2f}× {better if values[0] >= values[1] else worse}" if better else ""
        table.add_row(what, *(form.format(value) for value in values), factor)

    # Where other programs take the processors too, the fastest steps are those that they disturbed least.
    row("a step, fastest tenth", lambda run: 1000 * quickest(run["seconds"]), "{:.0f} ms", "faster", "slower")
    row("a step, median", lambda run: 1000 * run["step_seconds"], "{:.0f} ms", "faster", "slower")
    row("all steps and compiling", lambda run: sum(run["seconds"]), "{:.1f} s", "faster", "slower")
    row("peak memory", lambda run: run["peak_mib"], "{:.0f} MiB", "less", "more")
    row("… above its start", beyond, "{:.0f} MiB", "less", "more")
    row("training loss, at last", lambda run: run["losses"][-1], "{:.4f} nats")
    for what, place in (("held out, last weights", 1), ("held out, averaged ones", 2)):
        row(what, lambda run, place=place: run["held_out"][-1][place], "{:.4f} nats")
        row("", lambda run, place=place: bits_per_byte(run, place), "{:.4f} bits/byte")
    console.print(table)
    apart = max(abs(a - b) for a, b in zip(kosa["losses"], torch["losses"], strict=True))
    step, last, averaged = kosa["held_out"][len(kosa["held_out"]) // 2]
    console.print(
        f"At no step do the training losses of the two runs differ by more than {apart:.1g} "
        "nats.\n"
        f"Held out, averaged weights against the last ones: {versus(*kosa['held_out'][-1][1:])} at the end, "
        f"{versus(last, averaged)} at step {step}.",
        highlight=False,
    )


def quickest(seconds: list[float]) -> float:
    """The time that a tenth of the steps stay under."""
    return sorted(seconds)[len(seconds) // 10]


def versus(last: float, averaged: float) -> str:
    return f"{abs(averaged - last):.4f} nats {'lower' if averaged < last else 'higher'}"


def beyond(run: Run) -> float | None:
    return None if run["peak_mib"] is None else run["peak_mib"] - run["before_mib"]


def bits_per_byte(run: Run, place: int) -> float:
    return run["held_out"][-1][place] * run["nats_to_bits_per_byte"]


def draw(path: Path, kosa: Run, torch: Run) -> None:
    """Left over steps, where the runs are one; right over time, where they are not."""
    figure, (by_step, by_time) = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for name, run, wide in (("torch", torch, 3.5), ("kosa", kosa, 1.2)):
        seconds = list(accumulate(run["seconds"]))
        steps = range(1, len(seconds) + 1)
        by_step.plot(steps, run["losses"], color=COLOURS[name], linewidth=wide, label=NAMES[name])
        by_time.plot(seconds, run["losses"], color=COLOURS[name], linewidth=1.2, label=NAMES[name])
    steps, last, averaged = zip(*kosa["held_out"], strict=True)
    by_step.plot(steps, last, "o-", color="black", markersize=4, linewidth=1, label="held out, last weights")
    by_step.plot(
        steps, averaged, "s-", color=AVERAGE, markersize=4, linewidth=1, label="held out, averaged weights"
    )
    by_step.set(xlabel="step", ylabel="loss (nats a token)", title="The same loss at every step")
    by_time.set(xlabel="seconds of training", title="and by the clock")
    for axes in (by_step, by_time):
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)
