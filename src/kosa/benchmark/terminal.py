"""`kosa bench` as it is typed: runs, prints each table as soon as it is known, writes the files asked for."""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from kosa.benchmark import report
from kosa.benchmark.runner import Run, check, run

# Wide enough for the table of all medians where the output is a file and has no width of its own.
_FILE_WIDTH = 160


def bench(
    names: Sequence[str], *, quick: bool, rounds: int | None, json_path: str | None, markdown_path: str | None
) -> None:
    """Raises ValueError or OSError for a bad option or path before anything is measured."""
    check(names, rounds)
    for path in (json_path, markdown_path):
        if path is not None and path != "-":
            _check_writable(Path(path))
    # The tables move to stderr where stdout carries a document.
    console = Console(stderr="-" in (json_path, markdown_path), highlight=False)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    progress = console if console.is_terminal else Console(stderr=True)

    def show(found: Run, name: str) -> None:
        report.table_of(found, name).print(console)
        console.print()

    # No refresh of its own: a spinner's thread would take part in what is timed.
    with Live(console=progress, auto_refresh=False, transient=True) as live:

        def say(text: str) -> None:
            if progress.is_terminal:
                live.update(text, refresh=True)

        found = run(names, quick=quick, rounds=rounds, say=say, show=show)
    for table in report.closing_tables(found):
        table.print(console)
        console.print()
    console.print(report.title(found), report.versions(found), sep="\n", style="dim")
    if json_path is not None:
        _write(json_path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    if markdown_path is not None:
        _write(markdown_path, report.markdown(found))


def _check_writable(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"cannot write {path}: there is no folder {path.parent} that you may write to")


def _write(path: str, text: str) -> None:
    if path == "-":
        sys.stdout.write(text)
        return
    # Whole or not at all: a run that is stopped here leaves no half file.
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=Path(path).parent, prefix=".kosa-", delete=False
    ) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
