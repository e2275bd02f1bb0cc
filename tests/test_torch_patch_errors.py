"""What `kosa.torch.patch` refuses, and what it says."""

import pytest
import torch
import transformers
from causal_models import SMALL, VOCABULARY, batch, make
from torch import nn
from torch.nn import functional as F

import kosa.torch


def small(class_name: str, **settings: object) -> nn.Module:
    kind = getattr(transformers, class_name)
    return kind(kind.config_class(**settings))


def quantised() -> nn.Module:
    model = make("Llama")
    model.lm_head = nn.utils.parametrizations.weight_norm(model.lm_head)
    return model


def hooked() -> nn.Module:
    model = make("Llama")
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * 2)
    return model


def with_another_loss() -> nn.Module:
    model = make("Llama")
    model.loss_function = F.cross_entropy
    return model


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        (lambda: nn.Linear(2, 2), TypeError, "`model` must be a transformers.PreTrainedModel.*Linear"),
        (lambda: "gpt2", TypeError, "`model` must be a transformers.PreTrainedModel.*builtins.str"),
        (lambda: torch.compile(make("Llama"), backend="eager"), TypeError, "before PEFT, torch.compile.*OptimizedModule"),
        (lambda: make("Llama").model, ValueError, "LlamaModel, whose forward takes no `labels`"),
        (
            lambda: small(
                "BartForCausalLM", vocab_size=11, d_model=8, decoder_layers=1, encoder_layers=1, decoder_ffn_dim=8,
                decoder_attention_heads=2, encoder_attention_heads=2,
            ),
            ValueError, "BartForCausalLM, which computes its loss by itself",
        ),
        (
            lambda: small("LlamaForSequenceClassification", **SMALL),
            ValueError, "LlamaForSequenceClassification whose loss is ForSequenceClassificationLoss",
        ),
        (with_another_loss, ValueError, "whose loss is cross_entropy"),
        (quantised, ValueError, "output embeddings are a .*ParametrizedLinear"),
        (hooked, ValueError, "hooks or a replaced forward"),
    ],
)  # fmt: skip
def test_models_that_are_not_known_are_refused(model, error, said):
    model = model()
    with pytest.raises(error, match=said):
        kosa.torch.patch(model)
    assert not isinstance(getattr(model, "forward", None), kosa.torch.patching.Patch)


def test_patching_twice_is_an_error():
    model = make("Llama")
    with (
        kosa.torch.patch(model),
        pytest.raises(ValueError, match=r"patched already: `model.forward.remove\(\)`"),
    ):
        kosa.torch.patch(model)


def test_a_new_head_needs_a_new_patch():
    model = make("Llama")
    handle = kosa.torch.patch(model)
    model.resize_token_embeddings(VOCABULARY + 3)
    with pytest.raises(ValueError, match="output embeddings of LlamaForCausalLM were replaced after `patch`"):
        model(**batch())
    handle.remove()
    with kosa.torch.patch(model):
        assert model(**batch()).loss.isfinite()


def test_a_head_and_a_configuration_that_disagree():
    model = make("Llama")
    model.config.vocab_size += 1
    with (
        kosa.torch.patch(model),
        pytest.raises(ValueError, match="says 98 tokens, but its output embeddings have 97"),
    ):
        model(**batch())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda labels: labels[:, :-1], r"`labels` .* shape of `hidden·head\.weightᵀ` .*\(3, 17\), but have \(3, 16\)"),
        (lambda labels: labels.float(), "floating `labels` are distributions"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_are_called_labels(change, said):
    model, inputs = make("Llama"), batch()
    with kosa.torch.patch(model), pytest.raises(ValueError, match=said):
        model(**inputs | {"labels": change(inputs["labels"])})


def test_workspace_is_passed_on():
    model = make("Llama")
    with kosa.torch.patch(model, workspace=-1), pytest.raises(ValueError, match="`workspace`"):
        model(**batch())
