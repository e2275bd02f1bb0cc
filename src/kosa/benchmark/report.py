"""Tables of a run, for a terminal and for a Markdown file: both print the same cells."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from kosa.benchmark.harness import median_of

Run = dict[str, Any]
_CONTESTANTS = ("limit", "kosa", "NumPy", "SciPy", "scikit-learn", "torch eager", "torch.compile", "jax.jit")


@dataclass(frozen=True)
class Table:
    """A title, the columns, the cells as text; the first column is words, the others are figures."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def print(self, console: Console) -> None:
        # Not the table's own title: that is wrapped to the width of the table.
        console.print(self.title, style="bold")
        table = RichTable()
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=number == 0)
        for row in self.rows:
            style = "bold" if row[0].startswith("kosa") else None
            table.add_row(*row, style=style)
        console.print(table)

    def markdown(self) -> str:
        lines = [_line(self.columns), _line(["---", *["---:"] * (len(self.columns) - 1)])]
        return f"### {self.title}\n\n" + "\n".join(lines + [_line(row) for row in self.rows]) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def seconds(value: float) -> str:
    """Three significant digits in the unit that fits: `16.2 ms`."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale:
            return f"{_digits(value / scale)} {unit}"
    return f"{_digits(value * 1e9)} ns"


def size(value: float) -> str:
    """A number of bytes in the binary unit that fits."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale:
            return f"{_digits(value / scale)} {unit}"
    return f"{value:.0f} B"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(value: float | None) -> str:
    """How many times: `1.25×`."""
    return "" if value is None else f"{value:.2f}×" if value < 10 else f"{value:.0f}×"


def spread(pair: list[float]) -> str:
    """From … to …."""
    return f"{seconds(pair[0])} – {seconds(pair[1])}"


def title(found: Run) -> str:
    """The machine in one line."""
    machine = found["machine"]
    memory = "" if machine["memory_gib"] is None else f", {machine['memory_gib']:g} GiB"
    vector = f" ({machine['vector']})" if machine["vector"] else ""
    return (
        f"{machine['cpu']}{vector}, {machine['cores']} cores{memory}, {machine['system']}, {machine['date']}"
    )


def versions(found: Run) -> str:
    """Python and every library that is installed, with its version."""
    machine = found["machine"]
    listed = [f"{name} {version}" for name, version in machine["versions"].items() if version is not None]
    return ", ".join([f"Python {machine['python']}", *listed])


def case_table(case: dict[str, Any]) -> Table:
    rows: list[tuple[str, ...]] = []
    for r in case.get("results", []):
        if "missing" in r:
            rows.append((r["name"], r["missing"], "", "", ""))
        else:
            ratios = ratio(r.get("times_limit")), ratio(r.get("times_kosa"))
            rows.append((r["name"], seconds(r["median_s"]), spread(r["quartiles_s"]), *ratios))
    if "skipped" in case:
        rows.append((case["skipped"], "", "", "", ""))
    columns = ("", "median", "quartiles", "÷ limit", f"÷ {case['main']}")
    return Table(_with_shape(case), columns, rows)


def _with_shape(case: dict[str, Any]) -> str:
    shape = "×".join(str(n) for n in case.get("shape", []))
    # A quick run keeps the case's name, and says what it ran instead.
    return (
        case["title"]
        if not shape or shape in case["title"].replace(",", "")
        else f"{case['title']} ({shape})"
    )


def overview(found: Run) -> Table:
    """One row a case: the medians of all contestants beside each other."""
    rows = []
    for case in found["cases"]:
        results = case.get("results", [])
        names = [case["main"] if name == "kosa" else name for name in _CONTESTANTS]
        medians = [median_of(results, name) for name in names]
        if any(m is not None for m in medians[:2]) and any(r["name"] == "NumPy" for r in results):
            rows.append((_with_shape(case), *("–" if m is None else seconds(m) for m in medians)))
    return Table("medians", ("", *_CONTESTANTS), rows)


def goals_table(found: Run) -> Table:
    rows = []
    for goal in found["goals"]:
        shown = {"x": ratio, "s": seconds, "bytes": size}[goal["unit"]]
        value = "not measured" if goal["measured"] is None else shown(goal["measured"])
        bound = (
            f"≤ {shown(goal['at_most'])}"
            if goal["at_most"] is not None
            else f"≥ {shown(goal['at_least'])} as fast"
        )
        against = "" if goal["against"] is None else goal["against"]
        verdict = {True: "reached", False: "missed", None: "–"}[goal["reached"]]
        rows.append((goal["what"], against, bound, value, verdict))
    return Table("goals", ("", "against", "goal", "measured", ""), rows)


def series_table(series: dict[str, Any]) -> Table:
    rows: list[tuple[str, ...]] = []
    names = ("limit", "kosa", "NumPy", "torch eager")
    for point in series["points"]:
        count = f"{point['elements']:,}"
        if "skipped" in point:
            rows.append((f"{count}: {point['skipped']}", "", "", "", ""))
            continue
        medians = [median_of(point["results"], name) for name in names]
        rows.append(
            (count, *("–" if m is None else f"{m / point['elements'] * 1e9:.3g} ns" for m in medians))
        )
    return Table(series["title"], ("elements", *names), rows)


def memory_table(memory: dict[str, Any]) -> Table:
    rows: list[tuple[str, ...]] = []
    for r in memory["results"]:
        if "missing" in r:
            rows.append((f"{r['case']}: {r['name']}", r["missing"], ""))
            continue
        cells = ("–" if r[key] is None else size(r[key]) for key in ("traced_bytes", "resident_bytes"))
        rows.append((f"{r['case']}, {r['rows']}×{r['classes']}: {r['name']}", *cells))
    return Table(memory["title"], ("", "tracemalloc", "peak RSS"), rows)


def start_up_table(start_up: dict[str, Any]) -> Table:
    words = {
        "import": "import kosa, beyond NumPy's own import",
        "first call": "first call of a process, kernels cached",
        "cold compile": "first call ever: one function is compiled",
    }
    rows = [
        (words[name], seconds(r["median_s"]), spread(r["range_s"]), str(r["rounds"]))
        for name, r in start_up["results"].items()
    ]
    return Table(start_up["title"], ("", "median", "range", "processes"), rows)


def table_of(found: Run, name: str) -> Table:
    """The table of one part of a run, by the name that `--case` takes."""
    if name == "series":
        return series_table(found["series"])
    if name == "memory":
        return memory_table(found["memory"])
    if name == "start-up":
        return start_up_table(found["start_up"])
    return case_table(next(case for case in found["cases"] if case["name"] == name))


def closing_tables(found: Run) -> list[Table]:
    """What stands at the end of a run: all medians in one table, then the goals."""
    tables = [overview(found), goals_table(found)]
    return [table for table in tables if table.rows]


def markdown(found: Run) -> str:
    """The whole run; the closing tables come first, for they are what is read."""
    names = [case["name"] for case in found["cases"]]
    names += [
        name
        for name, key in (("series", "series"), ("memory", "memory"), ("start-up", "start_up"))
        if key in found
    ]
    tables = [*closing_tables(found), *(table_of(found, name) for name in names)]
    head = f"{title(found)}\n\n{versions(found)}; {found['threads']} threads each.\n"
    return "\n".join([head, *(table.markdown() for table in tables)])
