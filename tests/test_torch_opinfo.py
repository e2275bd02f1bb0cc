"""Every sample of PyTorch's own operator database, results and gradients, and its samples of wrong arguments."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from torch_oracle import compare

import kosa.torch

pytestmark = pytest.mark.usefixtures("one_thread")


def linear_cross_entropy(*args, options=None, **keywords):
    """PyTorch's plain form: its chunked one, of which `options` asks, keeps the logits of 16-bit tensors in float32."""
    return F.linear_cross_entropy(*args, **keywords)


OURS = {
    "nn.functional.cross_entropy": (kosa.torch.cross_entropy, F.cross_entropy),
    "nn.functional.linear_cross_entropy": (kosa.torch.linear_cross_entropy, linear_cross_entropy),
}
VARIANTS = [
    ("nn.functional.cross_entropy", ""),
    *(("nn.functional.linear_cross_entropy", variant) for variant in ("", "chunked", "chunked_none")),
]


@pytest.fixture(scope="module")
def database():
    """The entries by name and variant. Their import takes seconds, changes Hypothesis's profile, locks torch.backends."""
    locked = torch.backends.__allow_nonbracketed_mutation_flag
    from torch.testing._internal.common_methods_invocations import op_db

    settings.load_profile("kosa")
    torch.backends.__allow_nonbracketed_mutation_flag = locked
    return {(op.name, op.variant_test_name): op for op in op_db if op.name in OURS}


def test_no_variant_is_left_out(database):
    assert sorted(database) == sorted(VARIANTS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_sample_gives_pytorchs_result_and_gradients(database, name, variant, dtype):
    torch.manual_seed(0)
    ours, theirs = OURS[name]
    samples = list(database[name, variant].sample_inputs("cpu", dtype, requires_grad=True))
    assert len(samples) >= 20
    for sample in samples:
        compare(ours, theirs, (sample.input, *sample.args), sample.kwargs)


def test_what_pytorch_refuses_is_refused(database):
    texts = {
        "dimensionality 1 or 2": r"floating `target` are distributions, .* \(2, 3, 2\), but have \(3, 2\)",
        "dimensionality at least 2": r"`linear_weight` \(C, D\) .* they are \(2, 3\) and \(2,\)",
        "in_features": r"`linear_weight` \(C, D\) .* they are \(2, 3\) and \(2, 4\)",
        "ignore_index cannot": r"`ignore_index` marks class indices, but `target` holds probabilities",
        "requires batched input": r"takes `input` of shape \(N, D\), but it is \(3,\)",
        "linear_bias shape": r"`linear_bias` must have shape \(2,\), but has shape \(3,\)",
    }
    wrong = list(database["nn.functional.linear_cross_entropy", ""].error_inputs("cpu"))
    assert len(wrong) == len(texts)
    for each in wrong:
        text = next(ours for theirs, ours in texts.items() if theirs in each.error_regex)
        sample = each.sample_input
        with pytest.raises(ValueError, match=text):
            kosa.torch.linear_cross_entropy(sample.input, *sample.args, **sample.kwargs)
