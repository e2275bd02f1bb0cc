"""What a run on a GPU prints and leaves behind: tables, and gpu-<card>.json and gpu-<card>.md."""

import json
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from kosa.benchmark import gpu, machine
from kosa.benchmark.gpu_clock import Card
from kosa.benchmark.report import Table, goals_table, ratio, seconds, size, spread, title, versions

_PEERS = ("triton", "liger-kernel", "quack-kernels", "cut-cross-entropy")


def table(case: dict[str, Any]) -> Table:
    """One case: times, what they mean in bytes or operations a second, shares of the limit, memory."""
    columns = (
        "",
        "median",
        "quartiles",
        "a second",
        f"share of the {case['limit']}",
        "peak memory",
        f"÷ {case['main']}",
    )
    rows: list[tuple[str, ...]] = []
    for r in case.get("results", []):
        if "missing" in r:
            rows.append((r["name"], r["missing"], *[""] * 5))
            continue
        share = "" if "share" not in r else f"{r['share']:.0%}"
        cells = (seconds(r["median_s"]), spread(r["quartiles_s"]), rate(r), share, size(r["peak_bytes"]))
        rows.append((r["name"], *cells, ratio(r.get("times_kosa"))))
    if "skipped" in case:
        rows.append((case["skipped"], *[""] * 6))
    return Table(case["title"], columns, rows)


def rate(result: dict[str, Any]) -> str:
    """Bytes or operations a second: `2910 GB/s`, `640 TFLOP/s`."""
    if "bytes_a_second" in result:
        return f"{result['bytes_a_second'] / 1e9:.0f} GB/s"
    if "flops_a_second" in result:
        return f"{result['flops_a_second'] / 1e12:.0f} TFLOP/s"
    return ""


def file_name(card: str) -> str:
    """The card's name as part of a file's: `NVIDIA H100 80GB HBM3` → `gpu-nvidia-h100-80gb-hbm3`."""
    return "gpu-" + re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def markdown(found: dict[str, Any]) -> str:
    """The whole run; the goals come first."""
    card = found["card"]
    head = (
        f"{card['name']}, {card['memory_gib']:g} GiB, {card['driver']}; {title(found)}\n\n{versions(found)}.\n\n"
        "The limit is a bare read (of the logits), copy or matrix product by PyTorch on the same card. Peak memory is "
        "beside the inputs, and includes the gradients.\n"
    )
    tables = [goals_table(found)] if found["goals"] else []
    return "\n".join([head, *(t.markdown() for t in [*tables, *map(table, found["cases"])])])


def bench(folder: str, *, quick: bool, rounds: int | None) -> None:
    """Run, print, and write both files into the folder; NoGpu where there is none, OSError for no such folder."""
    if not Path(folder).is_dir():
        raise ValueError(f"cannot write to {folder}: there is no such folder")
    clock = Card()
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160

    def show(case: dict[str, Any]) -> None:
        table(case).print(console)
        console.print()

    with console.status("") as status:
        cases = gpu.run(clock, quick=quick, rounds=rounds, say=status.update, show=show)
    found = assembled(clock, cases, quick)
    if found["goals"]:
        goals_table(found).print(console)
    path = Path(folder) / file_name(clock.name)
    path.with_suffix(".json").write_text(
        json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    path.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
    console.print(f"{path}.json, {path}.md", style="dim")


def assembled(clock: Any, cases: list[dict[str, Any]], quick: bool) -> dict[str, Any]:
    """The run as one plain dictionary: card, machine, cases, and the goals, which are set for full sizes."""
    host = machine.describe()
    host["versions"] |= machine.versions_of(_PEERS)
    card = {"name": clock.name, "memory_gib": round(clock.memory / 2**30, 1), "driver": clock.driver}
    return {
        "card": card,
        "machine": host,
        "quick": quick,
        "cases": cases,
        "goals": [] if quick else gpu.goals(cases),
    }
