"""`kosa merge`: states of parts of a data set to the figures of the whole; needs neither an engine nor a reader."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kosa.scoring.coverage import Source, joined
from kosa.scoring.errors import InputError
from kosa.scoring.output import check_paths, check_writable, show, title_of
from kosa.scoring.pairstate import AnyState, merge_any, parse_any
from kosa.scoring.view import View


def run_merge(
    paths: Sequence[str],
    *,
    output: str | None,
    json_path: str | None,
    report: str | None = None,
    lang: str = "en",
    overlapping: bool = False,
    **shown: Any,
) -> None:
    """Append states in the order given, print their figures, and keep them as one state where `output` says.

    overlapping: whether rows of a file that two states have both counted count twice, and are no error.  shown: arguments
    of `State.result`. Raises InputError or OSError, whose text is one line for the user.
    """
    check_paths(json_path, report)
    if output is not None:
        check_writable(Path(output))
    View.of(**shown, counted=())
    digests: dict[str, str] = {}
    whole: AnyState | None = None
    covered: list[tuple[str, list[tuple[Source, ...]]]] = []
    for path in paths:
        content = Path(path).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest in digests:
            raise InputError(
                f"{path!r} and {digests[digest]!r} are the same state: its rows would be counted twice"
            )
        digests[digest] = path
        state = parse_any(content, path)
        here = [each.sources for each in state.states]
        if not overlapping:
            for earlier, sources in covered:
                _require_apart(earlier, sources, path, here)
        covered.append((path, here))
        if whole is None:
            whole = state
            continue
        try:
            _append(whole, state, overlapping)
        except InputError as error:
            raise InputError(f"{path!r} and {paths[0]!r}: {error}") from error
    assert whole is not None
    result = whole.result(**shown)
    if output is not None:
        whole.notes = {}
        whole.save(output)
    show(result, json_path, report, lang, title_of(paths))


def _require_apart(
    earlier: str, sources: Sequence[tuple[Source, ...]], path: str, others: Sequence[tuple[Source, ...]]
) -> None:
    """Refuse two states that have counted the same rows of a file."""
    for mine, other in zip(sources, others, strict=False):
        try:
            joined(mine, other)
        except InputError as error:
            raise InputError(
                f"{path!r} and {earlier!r}: {error}; `--allow-overlap` counts them again"
            ) from error


def _append(whole: AnyState, state: AnyState, overlapping: bool) -> None:
    """Add what comes after. Two runs of their own both begin with row 0; pieces of one run keep their numbers."""
    if state.ranges and whole.ranges and state.ranges[0][0] == whole.ranges[0][0] == 0:
        state = state.shifted(whole.ranges[-1][1])
    pairs = zip(whole.states, state.states, strict=False)
    covered = [joined(mine.sources, other.sources, overlapping) for mine, other in pairs]
    for each in state.states:
        each.cover(())
    merge_any(whole, state)
    for each, sources in zip(whole.states, covered, strict=True):
        each.cover(sources)
