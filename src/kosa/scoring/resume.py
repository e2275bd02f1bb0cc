"""State files that a run keeps while it goes, so that the same command goes on where it was interrupted."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kosa.scoring.columns import Selection
from kosa.scoring.errors import InputError
from kosa.scoring.readers import Reader
from kosa.scoring.setup import Setup
from kosa.scoring.state import State
from kosa.scoring.tokenreaders import TokenReader

_SECONDS = 5.0  # between two savings
_SHARE = 20  # of the time at most 1/20 goes into saving


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a request to end, after the state was saved; the text says how to go on."""


def run_of(readers: Sequence[Reader], selection: Selection, setup: Setup, force: bool) -> dict[str, Any]:
    """What a run is a run of, as JSON values: only the same run may go on from its state."""
    files = []
    for name in _files(readers, selection):
        found = os.stat(name)
        files.append({"path": os.path.abspath(name), "bytes": found.st_size, "changed": found.st_mtime_ns})
    options = setup.to_json() | {"force": force}
    if isinstance(readers[0], TokenReader):
        # Behind it the columns have names of its own making: what was asked of it is not in `selection`.
        options |= {"tokens": str(readers[0].tokens), "wanted": str(readers[0].wanted)}
    run = {"files": files, "columns": asdict(selection), "options": options}
    plain: dict[str, Any] = json.loads(json.dumps(run))
    return plain


def _files(readers: Sequence[Reader], selection: Selection) -> Iterator[str]:
    """Every file that is read, NPY files beside those that are named included."""
    for reader in readers:
        yield reader.name
        for name in selection.all:
            beside = Path(reader.name).with_name(f"{name}.npy")
            if reader.name.endswith(".npy") and beside != Path(reader.name) and beside.exists():
                yield str(beside)


class Checkpoint:
    """Keeps a run's state in a file; without a file it keeps nothing."""

    def __init__(self, path: str | os.PathLike[str] | None, run: dict[str, Any]) -> None:
        self._path = path
        self._run = run
        self._next = time.monotonic() + _SECONDS
        self._asked = False

    def begin(self, empty: State) -> State:
        """The state to go on from: the file's, if there is one, else the empty one given."""
        if self._path is None or not os.path.exists(self._path):
            empty.notes = {"run": self._run, "counts": []}
            return empty
        state = State.load(self._path)
        self._require_same(state)
        state.setup.require_equal(empty.setup)
        return state

    def _require_same(self, state: State) -> None:
        run = state.notes.get("run")
        counts = state.notes.get("counts")
        if not isinstance(run, dict) or not isinstance(counts, list):
            raise self._refusal("it was not kept by a run of `kosa score --state`")
        if state.ranges not in ((), ((0, state.rows),)):
            raise self._refusal("it holds rows from here and there")
        if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) > state.rows:
            raise self._refusal("its counts of rows do not fit together")
        for name in ("files", "columns", "options"):
            before, now = run.get(name), self._run[name]
            if before != now:
                raise self._refusal(_difference(name, before, now))

    def _refusal(self, reason: str) -> InputError:
        return InputError(
            f"{str(self._path)!r} is a state of another run: {reason}; delete it, or name another file by `state`"
        )

    def keep(self, state: State) -> None:
        """Called between batches, when the state is whole: saves if some seconds have passed, stops if asked to."""
        if self._path is None:
            return
        if self._asked:
            self._save(state)
            raise Interrupted(
                f"interrupted after {state.rows:,} rows; the same command goes on from {str(self._path)!r}"
            )
        if time.monotonic() >= self._next:
            self._save(state)

    def _save(self, state: State) -> None:
        assert self._path is not None
        start = time.monotonic()
        state.save(self._path)
        end = time.monotonic()
        self._next = end + max(_SECONDS, _SHARE * (end - start))

    @contextmanager
    def guard(self, state: State) -> Iterator[None]:
        """Hold the file, take Ctrl-C and SIGTERM as a wish to stop at the next batch, and save what came to its end.

        After an error nothing is saved: it may have come while the state was changed.
        """
        if self._path is None:
            yield
            return
        with self._signals():
            yield
        self._save(state)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def ask(number: int, frame: Any) -> None:
            if self._asked:  # twice: at once
                raise KeyboardInterrupt
            self._asked = True

        for number in before:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _difference(name: str, before: Any, now: Any) -> str:
    """The first thing that is different, in words."""
    if name == "files":
        if not isinstance(before, list) or len(before) != len(now):
            return f"of {len(before) if isinstance(before, list) else 'no'} files, and these are {len(now)}"
        for old, new in zip(before, now, strict=True):
            if old != new:
                same = isinstance(old, dict) and old.get("path") == new["path"]
                path = old.get("path") if isinstance(old, dict) else None
                return (
                    f"{new['path']!r} has changed since"
                    if same
                    else f"of {path!r}, and this is {new['path']!r}"
                )
    for key in now:
        if not isinstance(before, dict) or before.get(key) != now[key]:
            old = before.get(key) if isinstance(before, dict) else None
            return f"{name}: `{key}` was {_short(old)}, and is {_short(now[key])}"
    return f"other {name}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
