"""Weights, ids and options of `kosa.score`, and the sources in memory: arrays, tables, iterables of batches."""

import math
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import kosa
from kosa.scoring import InputError

LOGITS = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, -1.0], [1.0, 1.0, 1.0], [0.5, -2.0, 4.0]])
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
LABELS = np.array([0, 1, 2, 2])
LOSS = float(kosa.cross_entropy(LABELS, logits=LOGITS))


def frame(**columns: object) -> dict[str, object]:
    """A table of the logits as z0, z1 and z2, and more columns."""
    return {**{f"z{number}": LOGITS[:, number] for number in range(3)}, **columns}


def refused(match: str, *arguments: object, kind: type[Exception] = InputError, **options: object) -> None:
    with pytest.raises(kind, match=match):
        kosa.score(*arguments, **options)


# Weights, ids, options


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, 1e200])
def test_weights_that_are_none(weight: float) -> None:
    text = f"row 2 (from 0): weight {weight}; expected 0 to 1e+100"
    refused(re.escape(text), LABELS, logits=LOGITS, weight=[1.0, 1.0, weight, 1.0])


def test_all_weights_zero() -> None:
    refused("the weights of all 4 rows are 0", LABELS, logits=LOGITS, weight=np.zeros(4))


def test_ids_of_any_type_name_the_worst_rows() -> None:
    ids = {
        "integers": (np.array([7, 8, 9, 10]), 10),
        "strings": (np.array(["a", "b", "c", "d"]), "d"),
        "floats": (np.array([0.5, 1.5, 2.5, 3.5]), "3.5"),
        "arrow": (pa.array(["a", None, "c", "é"]), "é"),
        "times": (pa.array([0, 1, 2, 3], pa.timestamp("s")), "1970-01-01 00:00:03"),
    }
    for values, expected in ids.values():
        table = frame(y=np.array([0, 1, 2, 1]), name=values)
        score = kosa.score(
            table if isinstance(values, np.ndarray) else pa.table(table), "y", logits="z*", id="name"
        )
        assert score.worst[0].row == 3
        assert score.worst[0].id == expected


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "expected exactly one of `logits`, `probs`, `log_probs` and `token_log_probs`, came none"),
        ({"logits": LOGITS, "probs": PROBS}, "came `logits`, `probs`"),
        ({"logits": LOGITS, "target": "y"}, "`target` names a column"),
    ],
)
def test_exactly_one_kind(options: dict[str, object], text: str) -> None:
    refused(text, LABELS, kind=TypeError, **options)


def test_options_out_of_range() -> None:
    refused("`worst` is -1, expected 0 or more", LABELS, logits=LOGITS, worst=-1)
    refused("`batch_size` is 0, expected 1 or more", LABELS, logits=LOGITS, batch_size=0)


def test_progress_is_told() -> None:
    seen: list[tuple[int, float]] = []
    kosa.score(LABELS, logits=LOGITS, batch_size=3, progress=lambda rows, part: seen.append((rows, part)))
    assert seen == [(3, 0.75), (4, 1.0)]


# Sources in memory


def test_arrays_of_other_shapes() -> None:
    refused(r"`targets` of shape \(3,\) do not fit `logits` of shape \(4, 3\)", LABELS[:3], logits=LOGITS)
    refused(
        "the arrays have different numbers of rows: .*'weights' 2", LABELS, logits=LOGITS, weight=[1.0, 2.0]
    )
    refused("expected one row per target, came a single number", [0], logits=1.0)
    refused("no rows: there is nothing to score", [], logits=np.empty((0, 3)))
    refused("column 'logits' holds bool, expected numbers", LABELS, logits=LOGITS > 0, kind=TypeError)
    refused(
        "`logits`: a list is no array that NumPy can read", [0, 1], logits=[[0.0], [1.0, 2.0]], kind=TypeError
    )


def test_tables_of_any_library() -> None:
    table = pa.table(frame(y=LABELS))
    for source in (
        table,
        table.to_batches()[0],
        pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=3)),
        pd.DataFrame(frame(y=LABELS)),
        frame(y=LABELS),
    ):
        assert kosa.score(source, "y", logits="z*").cross_entropy == pytest.approx(LOSS, rel=1e-12)


def test_iterables_of_batches() -> None:
    expected = kosa.score(LABELS, logits=LOGITS, weight=[1.0, 2.0, 3.0, 4.0], id=list("abcd"))
    weights, names = np.array([1.0, 2.0, 3.0, 4.0]), np.array(list("abcd"))
    cuts = [slice(0, 3), slice(3, 4)]
    tuples = [(LABELS[cut], LOGITS[cut], weights[cut], names[cut]) for cut in cuts]
    roles = ("targets", "logits", "weights", "ids")
    dicts = [dict(zip(roles, batch, strict=True)) for batch in tuples]
    renamed = [dict(zip("yzwi", batch, strict=True)) for batch in tuples]
    assert kosa.score(iter(tuples), logits=True) == expected
    assert kosa.score(iter(dicts), logits=True) == expected
    assert kosa.score(iter(renamed), "y", logits="z", weight="w", id="i") == expected
    assert kosa.score([(LABELS, LOGITS)], logits=True).weight == 4


@pytest.mark.parametrize(
    ("batches", "text"),
    [
        ([], "no rows: there is nothing to score"),
        ([{"labels": 0}], r"batch 0 \(from 0\) has no key 'targets'; its keys are 'labels'"),
        (
            [(LABELS, LOGITS), 5],
            r"batch 1 \(from 0\) is of type int; expected a dict or a tuple \(targets, logits",
        ),
        (
            [(LABELS, LOGITS), (LABELS, LOGITS[:, :2])],
            r"row 4 \(from 0\): 2 predictions in a row, 3 in those before",
        ),
        ([(LABELS, LOGITS), (LABELS, LOGITS, LABELS)], "some batches have weights and others have none"),
        ([(LABELS, LOGITS), (LABELS + 1, LOGITS)], r"row 6 \(from 0\): label 3 is out of range"),
    ],
)
def test_batches_that_do_not_fit(batches: list[object], text: str) -> None:
    refused(text, iter(batches), logits=True)


def test_names_without_columns_are_refused() -> None:
    batch = {"targets": LABELS, "logits": LOGITS}
    refused(r"batch 0 \(from 0\) has no key 'w'", iter([batch]), logits=True, weight="w")
    refused(r"batch 0 \(from 0\) has no key 'i'", iter([batch]), logits=True, id="i")
    text = r"batch 0 \(from 0\) is of type tuple; expected a dict with the key 'w'"
    refused(text, iter([(LABELS, LOGITS)]), logits=True, weight="w", kind=TypeError)
    text = r"batches of dicts have one key for each array, and \['y'\] is none"
    refused(text, iter([batch]), ["y"], logits=True, kind=TypeError)
    text = "`weight`: name a column or key; only arrays take an array"
    refused(text, iter([batch]), logits=True, weight=np.ones(4), kind=TypeError)
    refused(text, frame(y=LABELS), target="y", logits="z*", weight=np.ones(4), kind=TypeError)


def test_what_is_no_source() -> None:
    refused("cannot score a source of type int", 5, logits=True, kind=TypeError)
    refused("a file's prediction columns are named", "a.parquet", logits=LOGITS, kind=TypeError)


def test_a_source_is_closed_when_a_batch_is_refused() -> None:
    closed = []

    def batches() -> object:
        try:
            yield LABELS, LOGITS
            yield LABELS + 9, LOGITS
        finally:
            closed.append(True)

    refused("out of range", batches(), logits=True)
    assert closed == [True]
