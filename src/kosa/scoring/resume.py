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
from kosa.scoring.coverage import fingerprint
from kosa.scoring.errors import InputError
from kosa.scoring.pairstate import AnyState, PairState, load_any
from kosa.scoring.readers import Reader
from kosa.scoring.setup import Setup
from kosa.scoring.side import Side
from kosa.scoring.tokenreaders import TokenReader

_SECONDS = 5.0  # between two savings
_SHARE = 20  # of the time at most 1/20 goes into saving


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a request to end, after the state was saved; the text says how to go on."""


def run_of(sides: Sequence[Side], setups: Sequence[Setup], force: bool) -> dict[str, Any]:
    """What a run is a run of, as JSON values: only the same run may go on from its state."""
    run: dict[str, Any] = {}
    for prefix, side, setup in zip(("", "against "), sides, setups, strict=False):
        files = []
        for name in _files(side.readers, side.selection):
            found = os.stat(name)
            files.append(
                {"path": os.path.abspath(name), "bytes": found.st_size, "changed": found.st_mtime_ns}
            )
        options = setup.to_json() | {"force": force}
        first = side.readers[0]
        if isinstance(first, TokenReader):
            # Behind it the columns have names of its own making: what was asked of it is not in `selection`.
            options |= {"tokens": str(first.tokens), "wanted": str(first.wanted)}
        found_run = {"files": files, "columns": asdict(side.selection), "options": options}
        run |= {f"{prefix}{name}": value for name, value in found_run.items()}
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
    """Keeps a run's state in a file, with the place up to which its files were read; without a file it keeps nothing."""

    def __init__(
        self, path: str | os.PathLike[str] | None, sides: Sequence[Side], setups: Sequence[Setup], force: bool
    ) -> None:
        self._path = path
        self._sides = sides
        self._run: dict[str, Any] = {}
        self._prints: list[list[tuple[int, str]]] = []
        if path is not None:
            self._run = run_of(sides, setups, force)
            self._prints = [[fingerprint(reader.name) for reader in side.readers] for side in sides]
        self._next = time.monotonic() + _SECONDS
        self._asked = False

    def begin(self, empty: AnyState) -> AnyState:
        """The state to go on from: the file's, if there is one, else the empty one given."""
        if self._path is None or not os.path.exists(self._path):
            return empty
        state = load_any(self._path)
        if type(state) is not type(empty):
            raise self._refusal(
                "that one is a comparison, and this is none"
                if isinstance(state, PairState)
                else "that one is no comparison, and this is one"
            )
        self._require_same(state)
        state.require_equal(empty)  # type: ignore[arg-type]
        return state

    def _require_same(self, state: AnyState) -> None:
        run, places = state.notes.get("run"), state.notes.get("places")
        if not isinstance(run, dict) or not isinstance(places, list) or len(places) != len(self._sides):
            raise self._refusal("it was not kept by a run of `kosa score --state`")
        if state.ranges not in ((), ((0, state.rows),)):
            raise self._refusal("it holds rows from here and there")
        for name, now in self._run.items():
            before = run.get(name)
            if before != now:
                raise self._refusal(_difference(name, before, now))
        resumed = [side.resume(place) for side, place in zip(self._sides, places, strict=True)]
        if not all(resumed) or any(side.row > state.rows for side in self._sides):
            raise self._refusal("its counts of rows do not fit together")

    def _refusal(self, reason: str) -> InputError:
        return InputError(
            f"{str(self._path)!r} is a state of another run: {reason}; delete it, or name another file by `state`"
        )

    def keep(self, state: AnyState) -> None:
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

    def _save(self, state: AnyState) -> None:
        assert self._path is not None
        start = time.monotonic()
        state.notes = {"run": self._run, "places": [side.place() for side in self._sides]}
        state.cover(
            *(
                side.covered(prints, state.rows)
                for side, prints in zip(self._sides, self._prints, strict=True)
            )
        )
        state.save(self._path)
        end = time.monotonic()
        self._next = end + max(_SECONDS, _SHARE * (end - start))

    @contextmanager
    def guard(self, state: AnyState) -> Iterator[None]:
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
    if name.endswith("files"):
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
