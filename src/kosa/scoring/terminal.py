"""`kosa score` as it is typed: progress on stderr, the table on stdout."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from kosa.scoring.errors import InputError
from kosa.scoring.output import check_paths, show, title_of
from kosa.scoring.run import score

_LINE_EVERY = 20.0  # seconds between lines of progress where there is no terminal


def run_score(
    files: Sequence[str],
    columns: dict[str, Any],
    *,
    classes: str | None,
    json_path: str | None,
    report: str | None = None,
    lang: str = "en",
    **options: Any,
) -> None:
    """Score files and print; `options` are further arguments of `kosa.score`.

    Raises InputError or OSError, whose text is one line for the user.
    """
    check_paths(json_path, report, options.get("state"), [*files, *(options.get("against") or ())])
    with _progress() as progress, _told():
        result = score(
            list(files),
            **columns,
            classes=None if classes is None else class_list(classes),
            progress=progress,
            **options,
        )
    show(result, json_path, report, lang, title_of(files))


def class_list(text: str) -> list[str]:
    """Class names `a,b,c`, or `@FILE` with one a line."""
    if text.startswith("@"):
        try:
            return Path(text[1:]).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"`classes`: {text[1:]!r} is not in UTF-8") from error
    return [name.strip() for name in text.split(",")]


@contextmanager
def _told() -> Iterator[None]:
    """What the run says of itself, on stderr: warnings always, its plan on a terminal."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.print(record.getMessage(), markup=False)

    log, handler = logging.getLogger("kosa"), Shown()
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO if console.is_terminal else logging.WARNING)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


@contextmanager
def _progress() -> Iterator[Callable[[int, float], None]]:
    """A bar on a terminal; elsewhere a line now and then."""
    console = Console(stderr=True, highlight=False)
    start = time.monotonic()
    if not console.is_terminal:
        last = start

        def say(rows: int, fraction: float) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _LINE_EVERY:
                last = now
                print(_line(rows, fraction, now - start), file=sys.stderr, flush=True)

        yield say
        return
    fields = TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f} rows/s")
    with Progress(
        BarColumn(), TaskProgressColumn(), fields, TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("", total=None, rows=0, rate=0.0)

        def move(rows: int, fraction: float) -> None:
            known = not math.isnan(fraction)
            rate = rows / max(time.monotonic() - start, 1e-9)
            bar.update(
                task, total=1.0 if known else None, completed=fraction if known else 0.0, rows=rows, rate=rate
            )

        yield move


def _line(rows: int, fraction: float, seconds: float) -> str:
    parts = [f"kosa: {rows:,} rows", f"{rows / seconds:,.0f} rows/s"]
    if 0.0 < fraction <= 1.0:
        parts += [f"{fraction:.0%}", f"{seconds * (1 - fraction) / fraction:,.0f} s left"]
    return ", ".join(parts)
