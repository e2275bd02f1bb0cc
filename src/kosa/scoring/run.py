"""`kosa.score`: the figures of a whole data set, streamed."""

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import numpy as np

from kosa.scoring import tokens
from kosa.scoring.against import PairScorer
from kosa.scoring.batch import Batch
from kosa.scoring.columns import Wanted
from kosa.scoring.errors import InputError, InputTypeError
from kosa.scoring.parts import together
from kosa.scoring.result import Score
from kosa.scoring.scale import Scale
from kosa.scoring.scorer import Scorer, Units, top_k_of
from kosa.scoring.side import Side
from kosa.scoring.sources import (
    Tables,
    is_names,
    is_path,
    read_arrays,
    read_batches,
    selections,
    table_readers,
)
from kosa.scoring.tokenreaders import wrap
from kosa.scoring.view import View, whole


def score(
    source: Any,
    target: str | Sequence[str] | None = None,
    *,
    logits: Any = None,
    probs: Any = None,
    log_probs: Any = None,
    token_log_probs: Any = None,
    weight: Any = None,
    id: Any = None,
    classes: Sequence[str] | None = None,
    force: bool = False,
    worst: int = 5,
    batch_size: int | None = None,
    group: Any = None,
    per: Any = None,
    top_k: int | Sequence[int] | None = None,
    bins: int = 15,
    equal_mass: bool = False,
    confidence: float = 0.95,
    temperature: bool = False,
    documents: bool = False,
    padding: float | str | None = None,
    mask: Any = None,
    against: Any = None,
    against_columns: Mapping[str, Any] | None = None,
    memory: int | str | None = None,
    jobs: int | None = None,
    executor: Any = None,
    on: str | None = None,
    state: str | os.PathLike[str] | None = None,
    progress: Callable[[int, float], object] | None = None,
) -> Score:
    """Cross-entropy and its companions over a data set, in one pass and bounded memory, computed in float64.

    Say what the predictions are: give exactly one of `logits`, `probs`, `log_probs` and `token_log_probs`. The
    sums are exact, so the result is the same to the last bit for any batch size and split, and any order of the rows.

    Args:
        source: a path or a list of paths, together one data set (Parquet, Arrow IPC file or stream, Feather,
            CSV, JSON Lines, NPY, NPZ); or a table (pyarrow, pandas, polars; a dict of arrays); or the array
            of targets; or an iterable of batches, each a (targets, predictions[, weights[, ids]]) tuple or a
            dict.
        target: the column of labels; several columns, or a column of lists, are soft targets. For batches that
            are dicts: the key, by default "targets". Not for arrays.
        logits, probs, log_probs: for files and tables the prediction columns: a glob "z*", a list "a,b,c" (or
            of strings), or one column of lists. A single column of numbers is a binary prediction, for class
            1. For arrays: the (N, K) array, or (N,) for binary. For batches: True, or the key where they are
            dicts.
        token_log_probs: the log-probability that a language model gave each token of a text, and nothing else: a
            column of numbers, one token a row; or of lists, one document a row (its tokens are a group, unless
            `group` says otherwise). No target. For arrays: True, and the (N,) or (documents, tokens) array is the
            source.
        weight: column, array or key (default "weights") of one weight a row, finite and not negative.
        id: column, array or key (default "ids") that names the worst rows; without it their number does.
        classes: the names of the classes in the order of the predictions; default: the columns' names less
            what they share, else 0..K−1. Integer labels are positions, unless `classes` are integers and so
            name them.
        force: score rows that do not look like what they are said to be, as they are.
        worst: how many of the worst rows to keep.
        batch_size: rows worked on at a time; default: eight million predictions, at most 65,536 rows, and what fits
            into `memory`.
        group: column, array or key of one name a row (strings or integers). Each group gets its figures, and the
            confidence interval is over groups: rows of one group may depend on each other. They need not stand
            together.
        per: units to give the loss by, besides rows: a name ("tokens") where every row is one, or a mapping from
            names to a column, array or key of counts a row, or to the total number in the data set, as in
            {"words": "n_words", "bytes": 1_290_590}.
        top_k: one k or several: how often the target is among the k most probable classes.
        bins: of the reliability diagram and the calibration error; a divisor of 8,400 where they are of equal
            width.
        equal_mass: bins of about equal weight.
        confidence: of the interval of the cross-entropy.
        temperature: look for the temperature of least loss; the whole then takes two to three times as long.
        documents: a row is a document: each column holds a list with one entry a token, the predictions a list of
            lists.
        padding: a place with this target (with `token_log_probs`: with this value) holds no token; "null" and
            "nan" are such.
        mask: column (array) that is 0 where a place holds no token.
        against: other predictions of the same rows in the same order, compared row by row: files or a table as
            `source` is; for arrays the other array. The result's `against` says which is better, and where.
        against_columns: the prediction columns of `against`, if other than those of `source`: {"probs": "p*"}.
        memory: the most bytes to take, as a number or as in "500MB"; shared by the local processes. It decides the rows
            of a batch; ValueError, before anything is scored, where the columns cannot be read in so little.
        jobs: of files: how many local processes score them. A script that uses it needs its
            `if __name__ == "__main__":`, as all that starts processes does.
        executor: of files: any `concurrent.futures.Executor`, whose workers see the files under the same names. Each
            worker reads parts of its own and returns a state.
        on: of files: the address of a Dask scheduler, as in "tcp://scheduler:8786".
        state: of files: a path where the state is kept while the run goes, every few seconds and at Ctrl-C or SIGTERM.
            The same call goes on from there; a file of another run is refused.
        progress: called after each batch with the rows so far and the fraction of the bytes read (NaN:
            unknown).

    Returns:
        A `Score`; its docstring gives each figure's formula and denominator.

    Raises:
        ValueError: no rows; columns, shapes or options that do not fit; a null; a weight that is none; and,
            unless `force`: NaN, probabilities outside [0, 1] or not summing to 1 within √ε (float32: 3.5e-4),
            positive or unnormalised log-probabilities. Names file and row.
        TypeError: a column of a type that does not fit its role; not exactly one kind of predictions.
        IndexError: a label that is no class; names row and value.
        ModuleNotFoundError: pyarrow is missing and the source needs it.

    Example:
        >>> import kosa
        >>> result = kosa.score([1, 0], probs=[[0.2, 0.8], [0.5, 0.5]])
        >>> round(result.cross_entropy, 4), result.accuracy
        (0.4581, 1.0)
    """
    kinds = {"logits": logits, "probs": probs, "log_probs": log_probs, tokens.KIND: token_log_probs}
    kind, predictions = _said(kinds)
    worst = whole("worst", worst, 0)
    batch_size = None if batch_size is None else whole("batch_size", batch_size, 1)
    ranks = top_k_of(top_k)
    if isinstance(classes, str):
        raise InputTypeError(f"`classes` is {classes!r}, expected a list of names")
    if kind == tokens.KIND and (target is not None or classes is not None):
        name = "classes" if target is None else "target"
        raise InputTypeError(f"`{tokens.KIND}` takes no `{name}`: it holds what the target's probability was")
    if against is None and against_columns is not None:
        raise InputError("`against_columns` names columns of `against`, which is not there")
    units = Units.of(per)
    view = vars(View.of(confidence, bins, equal_mass, units.totals, units.counted))
    roles = Roles(target, predictions, weight, id, group, units.counted)
    layout = tokens.Tokens.of(documents, padding, mask, force)
    scale = Scale(memory, jobs, executor, on, state)
    found_group, ours = _open(scale.seen_by_all(source), kind, roles, batch_size, layout)

    def scorer(kind: str) -> Scorer:
        return Scorer(
            kind,
            classes,
            force=force,
            worst=worst,
            top_k=ranks,
            group=found_group,
            per=tuple(units.counted),
            temperature=temperature,
        )

    if against is None:
        if isinstance(ours, Tables) and (scale.given or ours.in_pieces):
            from kosa.scoring.pipeline import score_files

            return score_files([ours], scorer(kind), scale, force, progress).result(**view)
        scale.refuse("files: this source is read once, by this process")
        return _score([_stream(ours)], scorer(kind), progress).result(**view)
    other, columns = _other(kind, roles, against, against_columns)
    rows_of = source if not is_names(predictions) and predictions is not True else scale.seen_by_all(against)
    _, theirs = _open(rows_of, other, replace(columns, weight=None, group=None, units={}), batch_size, layout)
    if isinstance(ours, Tables) != isinstance(theirs, Tables):
        raise InputTypeError("`against`: expected files or a table, as the source is")
    if isinstance(ours, Tables) and isinstance(theirs, Tables) and classes is None:
        theirs = replace(theirs, selection=theirs.selection.in_order_of(ours.selection))
    both = PairScorer(scorer(kind), scorer(other), _name(against))
    if (
        isinstance(ours, Tables)
        and isinstance(theirs, Tables)
        and (scale.given or (ours.in_pieces and theirs.in_pieces))
    ):
        from kosa.scoring.pipeline import score_files

        return score_files([ours, theirs], both, scale, force, progress).result(**view)
    scale.refuse("files: this source is read once, by this process")
    return _score([_stream(ours), _stream(theirs)], both, progress).result(**view)


def _score(
    streams: Sequence[Generator[Batch, None, None]],
    scorer: Scorer | PairScorer,
    progress: Callable[[int, float], object] | None,
) -> Scorer | PairScorer:
    """Add all batches, of one set of predictions or of two in step."""
    with ExitStack() as stack:
        # Closing a source at an error lets go of its files.
        for stream in streams:
            stack.enter_context(closing(stream))
        for batches in together(streams):
            scorer.update(*batches)
            if progress is not None:
                progress(scorer.rows, batches[0].fraction)
    return scorer


def _stream(source: Tables | Generator[Batch, None, None]) -> Generator[Batch, None, None]:
    """The batches of a source."""
    return Side(source).batches() if isinstance(source, Tables) else source


def _other(kind: str, roles: "Roles", against: Any, columns: Mapping[str, Any] | None) -> tuple[str, "Roles"]:
    """Kind and roles of what A is compared with."""
    if roles.predictions is True and kind == tokens.KIND and not is_path(against) and columns is None:
        return kind, roles
    if roles.predictions is True:
        raise InputTypeError("`against` needs files, tables or arrays; batches have one kind of predictions")
    if not is_names(roles.predictions):
        if columns is not None:
            raise InputTypeError("`against_columns` names columns; with arrays `against` is the other array")
        return kind, replace(roles, predictions=against)
    if columns is None:
        return kind, roles
    if not isinstance(columns, Mapping):
        raise InputTypeError(
            f"`against_columns` is {columns!r}; expected the kind of the columns too, as in "
            + '{"probs": "p*"}'
        )
    other, predictions = _said({name: columns.get(name) for name in (*columns, *_KINDS)})
    if other not in _KINDS:
        raise InputTypeError(f"`against_columns` names {other!r}; expected one of {', '.join(_KINDS)}")
    return other, replace(roles, predictions=predictions)


def _name(against: Any) -> str:
    """What B is called."""
    paths = [against] if is_path(against) else against
    if isinstance(paths, list | tuple) and len(paths) == 1 and is_path(paths[0]):
        return PurePath(paths[0]).name
    return "B"


@dataclass(frozen=True)
class Roles:
    """What of the source is what: columns, keys or arrays."""

    target: Any
    predictions: Any
    weight: Any
    id: Any
    group: Any
    units: Mapping[str, Any]

    def named(self) -> dict[str, Any]:
        """What a user may name or leave out, as an error calls it."""
        units = {f"per {unit}": counts for unit, counts in self.units.items()}
        return {"weight": self.weight, "id": self.id, "group": self.group} | units


_KINDS = ("logits", "probs", "log_probs", tokens.KIND)


def _said(kinds: Mapping[str, Any]) -> tuple[str, Any]:
    """The one kind of predictions that was given."""
    given = {kind: value for kind, value in kinds.items() if value is not None and value is not False}
    if len(given) != 1:
        came = ", ".join(f"`{kind}`" for kind in given) or "none"
        raise InputTypeError(
            f"expected exactly one of `logits`, `probs`, `log_probs` and `token_log_probs`, came {came}"
        )
    return next(iter(given.items()))


def _open(
    source: Any, kind: str, roles: "Roles", rows: int | None, layout: "tokens.Tokens"
) -> tuple[str | None, Tables | Generator[Batch, None, None]]:
    """The name of the groups, and the source's tables or batches, by what it is."""
    if kind == tokens.KIND and not is_names(roles.predictions):
        source, roles, layout = _token_table(source, roles, layout)
    target, predictions = roles.target, roles.predictions
    group = roles.group if roles.group is None or isinstance(roles.group, str) else "group"
    if predictions is not True and not is_names(predictions):
        if is_path(source):
            raise InputTypeError(f'`{kind}`: a file\'s prediction columns are named, as in {kind}="z*"')
        if target is not None:
            raise InputTypeError("`target` names a column; with arrays the first argument is the targets")
        if layout != tokens.Tokens():
            raise InputTypeError("`documents`, `padding` and `mask` are of files and tables with columns")
        more = {"group": roles.group, "units": roles.units}
        return group, read_arrays(source, predictions, roles.weight, roles.id, rows, kind, **more)
    for name, value in roles.named().items():
        if value is not None and not isinstance(value, str):
            raise InputTypeError(f"`{name}`: name a column or key; only arrays take an array")
    readers = table_readers(source)
    if readers is not None:
        if predictions is True:
            raise InputTypeError(f'`{kind}`: name the prediction columns, as in {kind}="z*"')
        if target is None and kind != tokens.KIND:
            raise InputTypeError("`target`: name the column of the labels")
        per = tuple(roles.units.items())
        wanted = Wanted(kind, predictions, target or "", roles.weight, roles.id, roles.group, per)
        readers, wanted = wrap(readers, wanted, layout)
        return wanted.group, Tables(readers, selections(readers, wanted), rows)
    if not isinstance(source, Iterable):
        raise InputTypeError(
            f"cannot score a source of type {type(source).__name__}; expected files, a table, arrays or batches"
        )
    keys = {"targets": target, "predictions": predictions, "weights": roles.weight, "ids": roles.id}
    keys |= {role: name for role, name in roles.named().items() if role not in ("weight", "id")}
    named = {role: name for role, name in keys.items() if name is not None and name is not True}
    for name in named.values():
        if not isinstance(name, str):
            raise InputTypeError(f"batches of dicts have one key for each array, and {name!r} is none")
    return group, read_batches(source, kind, named, rows)


def _token_table(
    source: Any, roles: "Roles", layout: "tokens.Tokens"
) -> tuple[dict[str, Any], "Roles", "tokens.Tokens"]:
    """Arrays of log-probabilities of tokens as a table: then they are read as a file's columns are."""
    array = source if roles.predictions is True else roles.predictions
    columns = {tokens.KIND: array, **roles.named(), "mask": layout.mask}
    table = {name: np.asarray(value) for name, value in columns.items() if value is not None}
    known = {name: name if name in table else None for name in ("weight", "id", "group")}
    units = {unit: f"per {unit}" for unit in roles.units}
    roles = replace(roles, target=None, predictions=tokens.KIND, units=units, **known)
    return table, roles, replace(layout, mask="mask" if "mask" in table else None)
