"""`kosa score` as it is typed: progress on stderr, the table on stdout, JSON written whole or not at all."""

import math
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from kosa.scoring.errors import InputError
from kosa.scoring.run import score

_LINE_EVERY = 20.0  # seconds between lines of progress where there is no terminal
_FILE_WIDTH = 110  # of the table, where the output is a file and has no width of its own


def run_score(
    files: Sequence[str],
    columns: dict[str, Any],
    *,
    classes: str | None,
    force: bool,
    worst: int,
    batch_size: int | None,
    json_path: str | None,
) -> None:
    """Score files and print. Raises InputError or OSError, whose text is one line for the user."""
    to_stdout = json_path == "-"
    if json_path is not None and not to_stdout:
        check_writable(Path(json_path))
    with _progress() as progress:
        result = score(
            list(files),
            **columns,
            classes=None if classes is None else class_list(classes),
            force=force,
            worst=worst,
            batch_size=batch_size,
            progress=progress,
        )
    if json_path is not None and not to_stdout:
        write_whole(Path(json_path), result.to_json() + "\n")
    if to_stdout:
        # A console that is not UTF-8 would turn names into what is no JSON: \uXXXX says the same everywhere.
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        sys.stdout.write(result.to_json(ascii_only=not utf8) + "\n")
        return
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _FILE_WIDTH
    console.print(result)


def message(error: Exception) -> str:
    """An error as one line for the user, who typed options where Python has arguments."""
    if isinstance(error, InputError):
        text = " ".join(str(error).split())
        for name in ("log_probs", "batch_size"):
            text = text.replace(f"`{name}`", f"`--{name.replace('_', '-')}`")
        for name in ("logits", "probs", "target", "weight", "classes", "force"):
            text = text.replace(f"`{name}`", f"`--{name}`")
        return text
    if isinstance(error, OSError) and error.filename:
        return f"cannot read or write {error.filename!r}: {error.strerror}"
    return " ".join(str(error).split())


def class_list(text: str) -> list[str]:
    """Class names `a,b,c`, or `@FILE` with one a line."""
    if text.startswith("@"):
        return Path(text[1:]).read_text(encoding="utf-8").splitlines()
    return [name.strip() for name in text.split(",")]


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


def check_writable(path: Path) -> None:
    """Say before the work that its result could not be written."""
    if path.is_dir():
        raise InputError(f"cannot write {str(path)!r}: it is a directory")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {str(path)!r}: there is no directory {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {str(path)!r}: no permission to write into {str(path.parent)!r}")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that at any moment it is the old one or the new one, never a part."""
    with suppress(OSError):
        if not stat.S_ISREG(path.stat().st_mode):
            # A pipe or a device (/dev/stdout): replacing it by a file would destroy it.
            path.write_text(text, encoding="utf-8")
            return
    target = path.resolve()  # a link stays a link
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, _mode(target))
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _mode(path: Path) -> int:
    """The permissions of the file replaced, or those of any new file (mkstemp's are the owner's alone)."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
