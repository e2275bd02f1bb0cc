"""State files that are whole, with a checksum that fits, and whose content no rows leave: damaged, in little memory."""

import base64
import json
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scoring_states import dump, state
from test_state_file import refused, with_body

import kosa
from kosa.scoring import InputError, State
from kosa.scoring.pairstate import parse_any as parse

DAMAGED = "'some.state' is a damaged state file: its content does not fit together"
Stored = dict[str, Any]


@pytest.fixture
def stored() -> Stored:
    found: Stored = json.loads(dump(state(0, 60)).split(b"\n")[1])
    assert parse(with_body(found), "whole").rows == 60
    return found


def array(values: NDArray[Any]) -> Stored:
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes())).decode()
    return {"dtype": values.dtype.name, "shape": list(values.shape), "data": data}


def numbers(packed: Stored) -> NDArray[Any]:
    data = zlib.decompress(base64.b64decode(packed["data"]))
    return np.frombuffer(data, packed["dtype"]).reshape(packed["shape"])


def negated(sums: Stored) -> None:
    sums["limbs"] = array(-numbers(sums["limbs"]))


def without_weight(sums: Stored) -> None:
    for name in ("index", "limbs", "special"):
        sums[name] = array(numbers(sums[name])[1:])


def special(sums: Stored) -> None:
    sums["special"] = array(np.full(sums["special"]["shape"], np.inf))


def one_more(table: Stored) -> None:
    table["rows"] = array(numbers(table["rows"]) + 1)


def change(stored: Stored, way: str, how: Callable[[Stored], None]) -> None:
    inner = stored["parts"]
    for key in way.split("."):
        inner = inner[key]
    how(inner)


@pytest.mark.parametrize("how", [negated, without_weight, special])
@pytest.mark.parametrize(
    "way",
    ["classes", "correct", "losses", "confidences", "ranks", "groups.sums.rows", "confusions.sums.rows"],
)
def test_weights_are_positive_where_there_are_rows(
    way: str, how: Callable[[Stored], None], stored: Stored
) -> None:
    change(stored, f"{way}.weight", how)
    assert refused(with_body(stored)) == DAMAGED


@pytest.mark.parametrize("way", ["square", "weight_square"])
def test_squares_have_no_negative_sum(way: str, stored: Stored) -> None:
    change(stored, way, lambda sums: sums.update(special=array(np.zeros(sums["special"]["shape"]))))
    assert parse(with_body(stored), "finite").rows == 60
    change(stored, way, negated)
    assert refused(with_body(stored)) == DAMAGED


@pytest.mark.parametrize("way", ["losses", "confidences", "ranks", "groups.sums.rows"])
def test_every_table_has_every_row_once(way: str, stored: Stored) -> None:
    change(stored, way, one_more)
    assert refused(with_body(stored)) == DAMAGED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("predictions", "weird"),
        ("classes", ["a", "b", "c", "c"]),
        ("classes", []),
        ("top_k", [0]),
        ("top_k", [1, 1 << 62]),
        ("top_k", [3, 1]),
        ("worst", -1),
        ("worst", 1 << 62),
    ],
)
def test_setups_that_nobody_asked_for(name: str, value: Any, stored: Stored) -> None:
    stored["setup"][name] = value
    assert refused(with_body(stored)) == DAMAGED


@pytest.mark.parametrize("clips", [["0x1p+0"], ["0x0p+0"], ["nan"], ["1e-7x"], [0.5], None])
def test_clips_are_probabilities(clips: Any, stored: Stored) -> None:
    stored["clips"] = clips
    assert refused(with_body(stored)) == DAMAGED


@pytest.mark.parametrize("way", ["loss", "classes", "classes.weight", "tempered", "losses"])
def test_a_number_of_groups_takes_no_memory(way: str, stored: Stored) -> None:
    change(stored, way, lambda part: part.update(groups=1 << 24))
    content = with_body(stored)
    tracemalloc.start()
    assert refused(content) == DAMAGED
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_many_arrays_take_no_more_memory_than_one_may(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kosa.scoring.statefile._MOST_BYTES", 1 << 23)
    zeros = base64.b64encode(zlib.compress(bytes(1 << 22), 9)).decode()
    stored["parts"]["more"] = {
        str(at): {"dtype": "int64", "shape": [1 << 19], "data": zeros} for at in range(9)
    }
    content = with_body(stored)
    tracemalloc.start()
    assert refused(content) == DAMAGED
    assert tracemalloc.get_traced_memory()[1] < 14 << 20
    tracemalloc.stop()


def test_forced_figures_are_states_too(tmp_path: Path) -> None:
    # Counts as targets: shares of the predicted class above 1, and so a negative distance.
    sure = np.tile([9.0, 0.0], 25)
    columns = {"t0": np.full(50, 3.0), "t1": np.zeros(50), "z0": sure, "z1": sure[::-1], "w": np.arange(50.0)}
    pq.write_table(pa.table(columns), tmp_path / "counts.parquet")
    path, kept = tmp_path / "counts.parquet", tmp_path / "counts.state"
    score = kosa.score(path, ["t0", "t1"], logits="z*", weight="w", force=True, state=kept)
    state = State.load(kept)
    assert state.distance.total() < 0
    assert state.result() == score


@pytest.mark.parametrize("option", ["worst", "top_k"])
def test_options_that_no_file_holds_are_refused(option: str) -> None:
    with pytest.raises(InputError, match=rf"`{option}` is {1 << 62}, expected less than 2\^62"):
        kosa.score([0, 1], probs=np.eye(2), **{option: 1 << 62})
