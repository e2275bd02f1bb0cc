"""Columns of lists of every Arrow type, views in any order included, and cut into slices, have the same figures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest

import kosa
from kosa.scoring import InputError

RANDOM = np.random.default_rng(3)
N, K = 30, 3
LOGITS, LABELS = RANDOM.normal(size=(N, K)), RANDOM.integers(0, K, N)


def views(kind: Any, lists: Any) -> Any:
    """Lists as views of items that stand the other way round; an empty one points at the end."""
    lengths = np.array([len(each) for each in lists])
    items = [item for each in lists[::-1] for item in each]
    offsets = (np.cumsum(lengths[::-1]) - lengths[::-1])[::-1]
    nested = bool(items) and isinstance(items[0], list)
    width = np.int32 if kind is pa.ListViewArray else np.int64
    values = views(kind, items) if nested else pa.array(items)
    return kind.from_arrays(pa.array(offsets.astype(width)), pa.array(lengths.astype(width)), values)


MAKERS: dict[str, Callable[[Any], Any]] = {
    "list": pa.array,
    "large_list": lambda lists: pa.array(lists).cast(pa.large_list(pa.array(lists).type.value_type)),
    "list_view": lambda lists: views(pa.ListViewArray, lists),
    "large_list_view": lambda lists: views(pa.LargeListViewArray, lists),
}


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("name", [*MAKERS, "fixed_size_list"])
def test_lists_of_predictions(name: str, batch_size: int | None, tmp_path: Any) -> None:
    lists = LOGITS.tolist()
    column = pa.array(lists, pa.list_(pa.float64(), K)) if name == "fixed_size_list" else MAKERS[name](lists)
    table = pa.table({"y": LABELS, "z": column})
    pa.feather.write_feather(table, tmp_path / "a.feather", compression="uncompressed")
    for start, stop in ((0, N), (7, 25)):
        expected = kosa.score(LABELS[start:stop], logits=LOGITS[start:stop])
        found = kosa.score(table.slice(start, stop - start), "y", logits="z", batch_size=batch_size)
        assert found == expected
    whole = kosa.score(tmp_path / "a.feather", "y", logits="z", batch_size=batch_size)
    assert whole == kosa.score(LABELS, logits=LOGITS)


@pytest.mark.parametrize("name", MAKERS)
def test_lists_of_tokens(name: str) -> None:
    documents = [[-0.1, -0.2], [], [-0.3], [-0.4, -0.5, -0.6]]
    expected = kosa.score(pa.table({"lp": documents}), token_log_probs="lp")
    assert expected.rows == 6
    assert kosa.score(pa.table({"lp": MAKERS[name](documents)}), token_log_probs="lp") == expected


@pytest.mark.parametrize("name", ["list_view", "large_list_view"])
def test_lists_of_lists(name: str) -> None:
    labels, logits = LABELS[:5].tolist(), LOGITS[:5].tolist()
    targets, predictions = [labels[:2], labels[2:]], [logits[:2], logits[2:]]
    table = pa.table({"y": MAKERS[name](targets), "z": MAKERS[name](predictions)})
    plain = pa.table({"y": targets, "z": predictions})
    found = kosa.score(table, "y", logits="z", documents=True)
    assert found == kosa.score(plain, "y", logits="z", documents=True)
    assert found.rows == 5


def test_a_null_view_is_said() -> None:
    column = pa.array([[1.0, 2.0], None], pa.list_view(pa.float64()))
    with pytest.raises(InputError, match=r"row 1 \(from 0\) of 'Table': column 'z' is null"):
        kosa.score(pa.table({"y": [0, 1], "z": column}), "y", logits="z")
