"""Arguments of `kosa.score` that cannot be are refused before anything is read; `against` takes what it says it takes."""

import math
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kosa
from kosa.scoring import InputError, State, parts

RANDOM = np.random.default_rng(0)
LOGITS, LABELS = RANDOM.standard_normal((60, 3)), RANDOM.integers(0, 3, 60)
NAMES = ("a", "b", "c")


def table(logits: np.ndarray, order: str = "abc", **more: Any) -> pa.Table:
    return pa.table({"y": LABELS, **{f"z_{name}": logits[:, NAMES.index(name)] for name in order}, **more})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bins": 11}, "`bins` is 11, but bins of equal width must divide"),
        ({"bins": 10**30, "equal_mass": True}, "`bins` is 10{30}, expected at most"),
        ({"bins": "15"}, "`bins` is '15', expected a whole number"),
        ({"confidence": 2}, "`confidence` is 2, expected a number between 0 and 1"),
        ({"confidence": 0.9999999999999999}, "`confidence` is 0.9999999999999999, expected a number between"),
        ({"confidence": "x"}, "`confidence` is 'x', expected a number"),
        ({"per": {"words": math.nan}}, "`per`: nan words; expected a positive number"),
        ({"per": {"words": True}}, "`per`: True words; expected a column"),
        ({"per": {"words": object()}}, "`per`: <object .* words; expected a column"),
        ({"worst": 2.5}, "`worst` is 2.5, expected a whole number"),
        ({"batch_size": 0}, "`batch_size` is 0, expected 1 or more"),
        ({"top_k": 0}, "`top_k` is 0, expected 1 or more"),
        ({"classes": "abc"}, "`classes` is 'abc', expected a list of names"),
        (
            {"against_columns": {"logits": "b*"}},
            "`against_columns` names columns of `against`, which is not there",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(options: dict[str, Any], text: str) -> None:
    def unread() -> Any:
        pytest.fail("the data were read")
        yield

    with pytest.raises(InputError, match=text):
        kosa.score(unread(), logits=True, **options)


@pytest.mark.parametrize("options", [{"target": "y"}, {"classes": ["a"]}])
def test_log_probabilities_of_tokens_have_no_targets(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"`token_log_probs` takes no `(target|classes)`"):
        kosa.score({"lp": [-1.0], "y": [1]}, token_log_probs="lp", **options)


def test_no_k_is_too_large() -> None:
    found = kosa.score(LABELS, logits=LOGITS, top_k=[np.int64(1), 2, 3, 10**15])
    assert [top.k for top in found.top] == [1, 2, 3, 10**15]
    assert found.top[0].accuracy == found.accuracy < found.top[1].accuracy
    assert [top.accuracy for top in found.top[2:]] == [1.0, 1.0]


def test_columns_of_b_may_stand_in_another_order() -> None:
    other = RANDOM.standard_normal((60, 3))
    expected = kosa.score(LABELS, logits=LOGITS, against=other, classes=NAMES).against
    found = kosa.score(table(LOGITS), "y", logits="z*", against=table(other, "cab")).against
    assert found == expected


def test_arrays_of_tokens_are_compared() -> None:
    ours, theirs = -RANDOM.exponential(size=(2, 7, 5))
    found = kosa.score(ours, token_log_probs=True, against=theirs).against
    assert found.difference == pytest.approx((theirs - ours).mean(), rel=1e-12)
    with pytest.raises(InputError, match="`against` needs files, tables or arrays"):
        kosa.score(ours, token_log_probs=True, against="b.parquet")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"against": LOGITS}, "`against`: expected files or a table, as the source is"),
        (
            {"against": table(LOGITS), "against_columns": "z*"},
            r"`against_columns` is 'z\*'; expected the kind",
        ),
    ],
)
def test_against_of_another_kind_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        kosa.score(table(LOGITS), "y", logits="z*", **options)


def test_ids_that_are_nan_on_both_sides_agree() -> None:
    ids = np.where(np.arange(60) == 7, np.nan, np.arange(60.0))
    found = kosa.score(table(LOGITS, id=ids), "y", logits="z*", id="id", against=table(LOGITS, id=ids.copy()))
    assert found.against.ties == 1
    with pytest.raises(InputError, match=r"row 7 .* has the id nan, but .* 7.0"):
        kosa.score(
            table(LOGITS, id=ids), "y", logits="z*", id="id", against=table(LOGITS, id=np.arange(60.0))
        )


def test_differences_that_overflow_are_infinite() -> None:
    ours, theirs = np.array([[1e308, -1e308]]), np.array([[0.0, 0.0]])
    found = kosa.score([1], logits=ours, against=theirs, weight=[5.0]).against
    assert found.difference == math.inf


def test_any_name_of_a_unit_is_kept_in_a_file(tmp_path: Path) -> None:
    pq.write_table(table(LOGITS, n=np.arange(60)), tmp_path / "a.parquet")
    options = {"per": {"notes": "n", "setup": "n", "dtype": "n"}, "state": tmp_path / "s"}
    found = kosa.score(tmp_path / "a.parquet", "y", logits="z*", **options)
    assert [unit.units for unit in found.per] == [1770.0] * 3
    assert State.load(tmp_path / "s").result() == found


def test_a_state_of_an_earlier_format_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b'{"kosa_state": 1, "bytes": 2, "sha256": ""}\n{}\n')
    with pytest.raises(InputError, match=r"has format 1, of a Kosa before its first release.* score again"):
        State.load(tmp_path / "s")


class Failing(ThreadPoolExecutor):
    """An executor that gives up as Dask does."""

    def submit(self, *args: Any, **options: Any) -> "Future[Any]":  # type: ignore[override]
        failed: Future[Any] = Future()
        failed.set_exception(self.error)
        return failed


class Client:
    """Stands for a client of Dask, of one worker."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.executor = Failing(1)

    def nthreads(self) -> dict[str, int]:
        return {"worker": 1}

    def get_executor(self, pure: bool) -> Failing:
        return self.executor

    def close(self) -> None:
        self.executor.shutdown()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (distributed.KilledWorker("part", None, 3), "a worker died several times at one part of the data"),
        (
            distributed.comm.core.CommClosedError(),
            "`on`: the Dask scheduler at 'tcp://a:1' went away; with `state`",
        ),
        (
            distributed.client.FutureCancelledError("part", "lost"),
            "`on`: the Dask scheduler at 'tcp://a:1' went away",
        ),
    ],
)
def test_what_dask_gives_up_is_one_clear_error(
    error: Exception, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(table(LOGITS), tmp_path / "a.parquet")
    monkeypatch.setattr(distributed, "Client", Client)
    monkeypatch.setattr(Failing, "error", error, raising=False)
    with pytest.raises(InputError, match=text):
        kosa.score(tmp_path / "a.parquet", "y", logits="z*", on="tcp://a:1")


@pytest.mark.parametrize("address", ["nonsense", "host:8786", "tcp://host"])
def test_an_address_that_is_none_is_refused_at_once(address: str, tmp_path: Path) -> None:
    pq.write_table(table(LOGITS), tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=f"`on` is '{address}', expected the address of a scheduler, as in tcp"
    ):
        kosa.score(tmp_path / "a.parquet", "y", logits="z*", on=address)


def test_rows_of_text_files_are_counted_once() -> None:
    """A reader of documents counts documents, not their tokens."""

    class Lists:
        def chunks(self, selection: Any, rows: Any) -> Any:
            assert selection.all == ("lp",)
            yield {"lp": [[1.0, 2.0], []]}, 0.5
            yield {"lp": [[3.0]]}, 1.0

    class Wrapped:
        reader = Lists()

    assert parts.count_rows(Wrapped(), "lp") == 3  # type: ignore[arg-type]
