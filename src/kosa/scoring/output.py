"""How the command line shows a score and its errors; JSON is written whole or not at all."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath

from rich.console import Console

from kosa.scoring.errors import InputError
from kosa.scoring.files import expand
from kosa.scoring.report.words import check_lang
from kosa.scoring.result import Score
from kosa.scoring.wholefile import write_whole

_FILE_WIDTH = 110  # of the table, where the output is a file and has no width of its own


def check_paths(
    json_path: str | None, report: str | None, state: str | None = None, read: Sequence[str] = ()
) -> None:
    """Say before the work that its JSON or its report could not be written, or would replace what is read."""
    written = {"--json": json_path if json_path != "-" else None, "--report": report}
    seen = {os.path.realpath(path): f"the input {path!r}" for path in expand(read) if os.path.exists(path)}
    if state is not None:
        seen[os.path.realpath(state)] = f"the state {state!r}"
    for option, path in written.items():
        if path is None:
            continue
        check_writable(Path(path))
        taken = seen.setdefault(os.path.realpath(path), f"{option} {path!r}")
        if taken != f"{option} {path!r}":
            raise InputError(f"`{option}` {path!r} would replace {taken}; give it another name")


def show(
    result: Score, json_path: str | None, report: str | None = None, lang: str = "en", title: str = ""
) -> None:
    """Print the table, or the JSON alone for `-`; write JSON and report where their paths say."""
    if report is not None:
        result.report(report, check_lang(lang), title=title)
    to_stdout = json_path == "-"
    if json_path is not None and not to_stdout:
        write_whole(Path(json_path), (result.to_json() + "\n").encode("utf-8", "backslashreplace"))
    if to_stdout:
        # A console that is not UTF-8 would turn names into what is no JSON: \uXXXX says the same everywhere.
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        sys.stdout.write(result.to_json(ascii_only=not utf8) + "\n")
        return
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _FILE_WIDTH
    console.print(result)


# Arguments of `kosa.score` that are options; the state's and the table's own names are none.
_OPTIONS = frozenset(
    [
        "against",
        "batch_size",
        "bins",
        "classes",
        "confidence",
        "documents",
        "force",
        "group",
        "id",
        "jobs",
        "lang",
        "log_probs",
        "logits",
        "mask",
        "memory",
        "on",
        "padding",
        "per",
        "probs",
        "report",
        "state",
        "target",
        "temperature",
        "token_log_probs",
        "top_k",
        "weight",
        "worst",
    ]
)


def _as_option(found: re.Match[str]) -> str:
    return f"`--{found[1].replace('_', '-')}`" if found[1] in _OPTIONS else found[0]


def message(error: Exception) -> str:
    """An error as one line for the user, who typed options where Python has arguments."""
    if isinstance(error, InputError):
        text = " ".join(str(error).split())
        return re.sub(r"`([a-z_]+)`", _as_option, text)
    if isinstance(error, OSError) and error.filename:
        return f"cannot read or write {error.filename!r}: {error.strerror}"
    return " ".join(str(error).split())


def title_of(files: Sequence[str]) -> str:
    """What a report calls its data: the files' names, of many the first."""
    names = [PurePath(name).name or name for name in files]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)})"


def check_writable(path: Path) -> None:
    """Say before the work that its result could not be written."""
    if path.is_dir():
        raise InputError(f"cannot write {str(path)!r}: it is a directory")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {str(path)!r}: there is no directory {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {str(path)!r}: no permission to write into {str(path.parent)!r}")
