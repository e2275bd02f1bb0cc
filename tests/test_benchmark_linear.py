"""The linear cases of the benchmark: their reference, their contestants, and what memory they are held to."""

import numpy as np
import pytest

import kosa
from kosa.benchmark import linear, runner
from kosa.benchmark.harness import Missing, measure

NAMES = [entry.name for entry in linear.LINEAR if entry.name != "torch.compile"]  # which compiles for seconds


@pytest.mark.parametrize("narrow", [False, True])
def test_the_reference_is_the_definition(narrow):
    data = linear.problem(1, 1, 1, narrow)(True)
    loss, rows = data.reference
    hidden, weight = data.hidden.astype(float), data.weight.astype(float)
    expected, dz = kosa.definition.loss_with_grad(data.targets, logits=hidden @ weight.T)
    assert loss == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(rows, (dz @ weight)[data.rows], rtol=0, atol=1e-15)


def test_narrow_arrays_hold_values_of_bfloat16():
    data = linear.problem(1, 1, 1, True)(True)
    for array in (data.hidden, data.weight):
        assert not (array.view(np.uint32) & 0xFFFF).any()
        assert array.std() > 0.01


@pytest.mark.parametrize("narrow", [False, True])
def test_contestants_compute_the_same(narrow):
    data = linear.problem(1, 1, 1, narrow)(True)
    entries = [entry for entry in linear.LINEAR if entry.name in NAMES]
    missing = {
        result.name: result.missing for result in measure(entries, data, 1, lambda text: None, min_seconds=0)
    }
    assert missing == {name: "no bfloat16" if narrow and "NumPy" in name else None for name in NAMES}


def test_the_products_of_numpy_leave_bfloat16_out():
    with pytest.raises(Missing, match="no bfloat16"):
        linear.products_numpy(linear.problem(1, 1, 1, True)(True))


def test_memory_of_the_linear_form_is_held_to_its_workspace():
    results = [
        {
            "case": case,
            "name": name,
            "rows": 9,
            "classes": 9,
            "weight_elements": 1 << 20,
            "resident_bytes": 65 << 20,
        }
        for case, name in (("linear", "kosa"), ("linear", "kosa, 512 MiB"), ("linear-bfloat16", "kosa"))
    ]
    goals = [
        goal for goal in runner.goals({"cases": [], "memory": {"results": results}}) if "RSS" in goal["what"]
    ]
    assert [goal["at_most"] >> 20 for goal in goals] == [64, 512, 68]
    assert [goal["reached"] for goal in goals] == [False, True, True]
