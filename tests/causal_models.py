"""Causal language models of transformers, tiny and randomly initialised, and one step of training.

Tolerances of `assert_same`. The model without the patch takes its loss of float32 logits even where it is a float64
model: there loss and gradients are compared with a float64 loss of its logits, to 1e-12. In float32 both round: the loss,
near ln 97 = 4.6, may be 2 ulp apart (1e-6), a gradient 2⁻²⁰ of the largest entry of its parameter's.
"""

import torch
import transformers
from torch import nn
from transformers.utils import logging

import kosa.torch

logging.set_verbosity_error()

VOCABULARY, BATCH, LENGTH = 97, 3, 17
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
GPT = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
# What the forward of each does between its head and its loss, beside the three that everybody has.
MODELS = {
    "Llama": ("LlamaForCausalLM", SMALL),
    "GPT-2, tied weights": ("GPT2LMHeadModel", GPT),
    # Random logits lie within ±0.5: a cap of 0.3 bends them.
    "Gemma-2, soft cap": ("Gemma2ForCausalLM", SMALL | {"head_dim": 8, "final_logit_softcapping": 0.3}),
    "RecurrentGemma, soft cap in one line": (
        "RecurrentGemmaForCausalLM",
        SMALL | {"num_hidden_layers": 3, "lru_width": 32, "logits_soft_cap": 0.3},
    ),
    "Mixtral, loss of the router": (
        "MixtralForCausalLM",
        SMALL | {"num_local_experts": 4, "output_router_logits": True, "router_aux_loss_coef": 0.5},
    ),
    "Granite, divides": ("GraniteForCausalLM", SMALL | {"logits_scaling": 0.7}),
    "Cohere, multiplies": ("CohereForCausalLM", SMALL | {"logit_scale": 0.3, "pad_token_id": 0}),
    "GPT-J, bias": ("GPTJForCausalLM", GPT | {"rotary_dim": 4}),
    "OPT, contiguous": ("OPTForCausalLM", SMALL | {"ffn_dim": 32, "word_embed_proj_dim": 16, "dropout": 0.0}),
    "Mamba, float": ("MambaForCausalLM", SMALL),
}


def make(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    class_name, settings = MODELS[name]
    torch.manual_seed(0)
    kind = getattr(transformers, class_name)
    model = kind(kind.config_class(**settings, bos_token_id=1, eos_token_id=2)).to(dtype).train()
    head = model.get_output_embeddings()
    if head.bias is not None:
        nn.init.normal_(head.bias, std=0.1)
    return model


def batch(rows: int = BATCH, length: int = LENGTH, seed: int = 1) -> dict[str, torch.Tensor]:
    """Tokens, of which the last rows are padded more and more; padding is not scored."""
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    kept = torch.arange(length) < length - 5 * torch.arange(rows)[:, None]
    return {
        "input_ids": ids.where(kept, 0),
        "attention_mask": kept.long(),
        "labels": ids.where(kept, -100),
    }


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    taken = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return taken


def step(model: nn.Module, **inputs: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(2)
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), gradients(model)


def assert_same(ours: tuple, theirs: tuple, loss: float = 1e-6, gradient: float = 2**-20) -> None:
    assert abs(ours[0].item() - theirs[0].item()) <= loss
    assert ours[1].keys() == theirs[1].keys()
    for name, expected in theirs[1].items():
        error = (ours[1][name] - expected).abs().max().item()
        # Adding up a parameter's gradient over layers and positions rounds by itself: the floor.
        assert error <= gradient * expected.abs().max().item() + gradient / 16, name


def both(name: str, **inputs: object) -> tuple[tuple, tuple]:
    """The patched model's step and the unpatched one's."""
    model = make(name)
    theirs = step(model, **inputs)
    with kosa.torch.patch(model):
        return step(model, **inputs), theirs
