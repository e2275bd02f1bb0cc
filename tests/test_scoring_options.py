"""Groups, units, top-k, bins and temperature are the same from every source, and on the command line."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import pytest

import kosa
from kosa.cli import main
from kosa.scoring import InputError, Score

N, K = 400, 3
OPTIONS: dict[str, Any] = {
    "top_k": 2,
    "temperature": True,
    "bins": 5,
    "confidence": 0.8,
}


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    logits = random.standard_normal((N, K))
    return {
        "y": random.integers(0, K, N),
        **{f"z{k}": logits[:, k] for k in range(K)},
        "w": random.exponential(size=N),
        "doc": np.array([f"d{n // 7}" for n in range(N)]),
        "size": random.integers(1, 99, N),
    }


@pytest.fixture(scope="module")
def expected(columns: dict[str, np.ndarray]) -> Score:
    logits = np.stack([columns[f"z{k}"] for k in range(K)], axis=1)
    return kosa.score(
        columns["y"],
        logits=logits,
        weight=columns["w"],
        group=columns["doc"],
        per={"bytes": columns["size"], "lines": 1000, "tokens": None},
        **OPTIONS,
    )


def same(found: dict[str, Any], expected: Score) -> None:
    """All figures; the names of the classes and of the group's column differ with the source."""
    wanted = expected.to_dict()
    for one in (found, wanted):
        for name in ("group", "interval_over"):
            assert one.pop(name) in ("group", "doc")
    assert found == wanted


PER = {"bytes": "size", "lines": 1000, "tokens": None}


@pytest.mark.parametrize("size", [None, 33])
@pytest.mark.parametrize("form", ["parquet", "csv", "dict", "table", "two files", "row groups"])
def test_files_and_tables(
    form: str,
    size: int | None,
    columns: dict[str, np.ndarray],
    expected: Score,
    tmp_path: Path,
) -> None:
    table = pa.table(columns)
    source: Any = columns if form == "dict" else table
    if form in ("parquet", "row groups"):
        source = tmp_path / "a.parquet"
        pq.write_table(table, source, row_group_size=50 if form == "row groups" else None)
    elif form == "csv":
        source = tmp_path / "a.csv"
        pyarrow.csv.write_csv(table, source)
    elif form == "two files":
        # A document goes on in the second file.
        source = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
        pq.write_table(table.slice(0, 150), source[0])
        pq.write_table(table.slice(150), source[1])
    found = kosa.score(
        source,
        "y",
        logits="z*",
        weight="w",
        group="doc",
        per=PER,
        batch_size=size,
        **OPTIONS,
    )
    same(found.to_dict(), expected)


def test_batches_of_dicts(columns: dict[str, np.ndarray], expected: Score) -> None:
    logits = np.stack([columns[f"z{k}"] for k in range(K)], axis=1)

    def batches() -> Any:
        for start in range(0, N, 60):
            part = slice(start, start + 60)
            yield {
                "targets": columns["y"][part],
                "logits": logits[part],
                "w": columns["w"][part],
                "doc": columns["doc"][part],
                "size": columns["size"][part],
            }

    found = kosa.score(batches(), logits=True, weight="w", group="doc", per=PER, **OPTIONS)
    same(found.to_dict(), expected)


def test_groups_of_integers_are_named_by_them(columns: dict[str, np.ndarray], expected: Score) -> None:
    table = pa.table({**columns, "doc": np.arange(N) // 7})
    found = kosa.score(table, "y", logits="z*", weight="w", group="doc", per=PER, **OPTIONS)
    assert [f"d{entry.name}" for entry in found.groups] == [entry.name for entry in expected.groups]
    assert found.standard_error == expected.standard_error


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["kosa", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    captured = capsys.readouterr()
    return int(done.value.code or 0), captured.out, captured.err


COMMAND = ["score", "a.parquet", "--target", "y", "--logits", "z*", "--weight", "w"]
CHOICES = [
    "--group",
    "doc",
    "--per",
    "bytes=size",
    "--per",
    "lines=1000",
    "--per",
    "tokens",
    "--top-k",
    "2",
    "--temperature",
]


@pytest.fixture
def folder(columns: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_line_says_the_same(
    folder: Path, expected: Score, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # else what is said may break anywhere
    arguments = [*COMMAND, *CHOICES, "--bins", "5", "--confidence", "0.8"]
    status, out, err = run([*arguments, "--json", "-"], monkeypatch, capsys)
    assert (status, err) == (0, "")
    same(json.loads(out), expected)
    assert list(json.loads(out))[:4] == ["rows", "cross_entropy", "bits", "perplexity"]
    _, shown, _ = run(arguments, monkeypatch, capsys)
    for text in (
        "over 58 groups of doc",
        "80 % interval",
        "by lines, of 1,000",
        "target among the first 2",
        "temperature of least loss",
        "calibration error, 5 bins of confidence",
        "Groups of doc: the worst 10 of 58",
        "Confusions: the 5 of 6 that cost the most",
        "miscalibration",
    ):
        assert text in shown


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        (["--group", "nope"], "has no column 'nope' for `--group`"),
        (
            ["--group", "w"],
            "`--group` holds float64, expected one string or integer a row",
        ),
        (["--per", "bytes=nope"], "has no column 'nope' for `per bytes`"),
        (["--per", "words=doc"], "only bytes and characters are counted"),
        (
            ["--per", "bytes=1", "--per", "bytes=2"],
            "`--per` 'bytes=2'; expected each unit once",
        ),
        (["--per", "bytes="], "`--per` 'bytes='; expected each unit once"),
        (["--per", "bytes=nan"], "`--per`: nan bytes; expected a positive number"),
        (["--top-k", "x"], "`--top-k` is 'x'; expected whole numbers"),
        (["--top-k", "0"], "`--top-k` is 0, expected 1 or more"),
        (["--bins", "7.5"], "`--bins` is '7.5'; expected a whole number"),
        (["--bins", "0"], "`--bins` is 0, expected 1 or more"),
        (["--confidence", "0"], "'--confidence'"),
    ],
)
def test_bad_options_are_one_line_and_status_2(
    choice: list[str],
    reason: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    status, out, err = run([*COMMAND, *choice], monkeypatch, capsys)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert reason in err


def test_what_only_arrays_take_is_said() -> None:
    table = {"y": [0, 1], "z0": [0.0, 1.0], "z1": [1.0, 0.0]}
    with pytest.raises(TypeError, match="`group`: name a column or key; only arrays take an array"):
        kosa.score(table, "y", logits="z*", group=[1, 2])
    with pytest.raises(TypeError, match="`per bytes`: name a column or key; only arrays take an array"):
        kosa.score(table, "y", logits="z*", per={"bytes": [1, 2]})
    with pytest.raises(InputError, match=r"'group' .*2.*"):
        kosa.score([0, 1, 1], probs=[[0.5, 0.5]] * 3, group=["a", "b"])


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs", "binary"])
@pytest.mark.parametrize("classes", [2, 5, 70])
def test_no_figure_depends_on_the_batch_size(kind: str, classes: int) -> None:
    random = np.random.default_rng(2)
    logs = np.log(random.dirichlet(np.ones(classes), 500))
    labels = random.integers(0, classes, 500)
    values: dict[str, Any] = {"logits": {"logits": 9 * logs}, "probs": {"probs": np.exp(logs)}}.get(
        kind, {"log_probs": logs}
    )
    if kind == "binary":
        labels, values = labels % 2, {"probs": random.random(500)}
    options: dict[str, Any] = {
        "top_k": [1, 2],
        "temperature": True,
        "group": np.arange(500) % 9,
        "per": {"bytes": random.random(500)},
    }
    expected = kosa.score(labels, **values, **options)
    for size in (1, 7, 333):
        assert kosa.score(labels, **values, **options, batch_size=size) == expected
