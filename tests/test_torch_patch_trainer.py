"""`kosa.torch.patch` under torch.compile and in transformers' Trainer."""

import pytest
import torch
import transformers
from causal_models import VOCABULARY, assert_same, batch, gradients, make, step
from torch import nn

import kosa.torch


# The warning is of PyTorch's own Dynamo.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", ["Llama", "Gemma-2, soft cap"])
def test_torch_compile(name):
    model = make(name)
    theirs = step(model, **batch())
    torch._dynamo.reset()
    with kosa.torch.patch(model):
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        output = compiled(**batch())
        output.loss.backward()
        assert_same((output.loss.detach(), gradients(model)), theirs, 1e-6, 2**-19)
    assert not isinstance(output.logits, torch.Tensor)


class Tokens(torch.utils.data.Dataset):
    """Sentences of unequal length, with a column that the model does not know."""

    def __init__(self, rows: int) -> None:
        self.rows = [batch(1, 5 + i % 7, seed=i) for i in range(rows)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, object]:
        ids = self.rows[i]["input_ids"][0]
        return {"input_ids": ids, "labels": ids, "length": len(ids)}


def pad(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    assert all("length" not in row for row in rows)

    def padded(key: str, value: int) -> torch.Tensor:
        return nn.utils.rnn.pad_sequence([row[key] for row in rows], batch_first=True, padding_value=value)

    ids = padded("input_ids", 0)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": padded("labels", -100)}


def trained(model: nn.Module, folder: str) -> tuple[list[float], dict[str, float], dict[str, torch.Tensor]]:
    arguments = transformers.TrainingArguments(
        output_dir=folder, max_steps=3, per_device_train_batch_size=2, gradient_accumulation_steps=3, logging_steps=1,
        save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, seed=0, learning_rate=1e-2,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, train_dataset=Tokens(18), eval_dataset=Tokens(4), data_collator=pad,
        compute_metrics=lambda found: {"width": found.predictions.shape[-1]},
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, metrics, {name: p.detach().clone() for name, p in model.named_parameters()}


def test_trainer(tmp_path, capsys):
    theirs = trained(make("Llama"), str(tmp_path / "theirs"))
    with kosa.torch.patch(model := make("Llama")):
        ours = trained(model, str(tmp_path / "ours"))
    assert len(ours[0]) == 3
    assert ours[0] == pytest.approx(theirs[0], abs=1e-4)
    assert ours[1]["eval_width"] == VOCABULARY
    assert ours[1]["eval_loss"] == pytest.approx(theirs[1]["eval_loss"], abs=1e-4)
    for name, expected in theirs[2].items():
        # Adam divides by the size of the gradient, so its rounding is a share of the learning rate.
        assert torch.allclose(ours[2][name], expected, atol=1e-3), name
