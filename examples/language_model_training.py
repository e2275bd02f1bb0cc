"""One training run in a process of its own, so that its peak memory is its own too.

`make example-lm` runs it twice, by kosa and by torch: same seed, same batches, another loss function.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import language_model_text as text
import numpy as np
import torch
from language_model_transformer import Transformer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

SEED = 0
HELD_OUT_BATCHES = 8
WARM = 3  # steps that no time is taken of: kernels are compiled and buffers made in them


def loss_by_kosa(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    import kosa.torch  # here, so that the other run does not hold it in memory

    return kosa.torch.linear_cross_entropy(hidden, weight, targets)


def loss_by_torch(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight).flatten(0, 1), targets.flatten())


LOSSES = {"kosa": loss_by_kosa, "torch": loss_by_torch}


class Windows:
    """Batches of windows of T + 1 tokens: T to read, and for each the one that follows."""

    def __init__(self, tokens: np.ndarray, batch: int, length: int) -> None:
        self.tokens, self.batch, self.length = torch.from_numpy(tokens.astype(np.int64)), batch, length

    def at(self, starts: Tensor) -> tuple[Tensor, Tensor]:  # two (B, T)
        window = self.tokens[starts[:, None] + torch.arange(self.length + 1)]
        return window[:, :-1], window[:, 1:]

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.at(torch.randint(len(self.tokens) - self.length, (self.batch,), generator=generator))

    def in_order(self, batches: int) -> list[tuple[Tensor, Tensor]]:
        starts = torch.arange(0, len(self.tokens) - self.length, self.length)[: batches * self.batch]
        return [self.at(part) for part in starts.split(self.batch)]


@torch.no_grad()
def held_out_loss(
    model: Transformer, weight: Tensor, loss: Any, batches: list[tuple[Tensor, Tensor]]
) -> float:
    """Mean loss of a held-out token, nats."""
    total = sum(loss(model(x), weight, y).item() * y.numel() for x, y in batches)
    return total / sum(y.numel() for _, y in batches)


def memory(key: str) -> float | None:
    """VmRSS, what the process holds, or VmHWM, the most it held, in MiB; None where /proc does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def optimizer_of(
    model: Transformer, rate: float, steps: int, rising: int
) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW with weight decay on matrices alone; the rate rises for some steps, then falls as a cosine."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))
    schedule = lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, 1 / rising, total_iters=rising),
            lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - rising), eta_min=rate / 20),
        ],
        milestones=[rising],
    )
    return optimizer, schedule


def train(settings: dict[str, Any], tokens: text.Tokens, console: Console) -> dict[str, Any]:
    torch.manual_seed(SEED)
    loss_of, steps = LOSSES[settings["loss"]], settings["steps"]
    shape = settings["batch"], settings["length"]
    learn = Windows(tokens.learn, *shape)
    held_out = Windows(tokens.held_out, *shape).in_order(HELD_OUT_BATCHES)
    model = Transformer(
        len(tokens.token_bytes), settings["length"], settings["width"], settings["heads"], settings["layers"]
    )
    rising = max(1, steps // 20)
    optimizer, schedule = optimizer_of(model, settings["rate"], steps, rising)
    # The average begins where the rate has risen, and reaches back about a twentieth of the run.
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / max(4, rising)))
    generator = torch.Generator().manual_seed(SEED)
    losses, seconds, measured = [], [], []
    before = memory("VmRSS")
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(settings["name"], total=steps, loss=float("nan"))
        for step in range(1, steps + 1):
            x, y = learn.draw(generator)
            start = time.perf_counter()
            loss = loss_of(model(x), model.embedding.weight, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            seconds.append(time.perf_counter() - start)
            schedule.step()
            if step >= rising:
                average.update_parameters(model)
            progress.update(task, advance=1, loss=losses[-1])
            if settings["measure"] and (step % max(1, steps // 6) == 0 or step == steps):
                of_each = [
                    held_out_loss(m, m.embedding.weight, loss_of, held_out) for m in (model, average.module)
                ]
                measured.append((step, *of_each))
                progress.console.print(
                    f"  step {step:5}   loss {losses[-1]:.3f}   held out {of_each[0]:.3f}, "
                    f"averaged weights {of_each[1]:.3f}"
                )
    of_tokens = torch.from_numpy(tokens.token_bytes)
    return {
        "losses": losses,
        "held_out": measured,
        "nats_to_bits_per_byte": float(
            sum(y.numel() for _, y in held_out) / sum(of_tokens[y].sum() for _, y in held_out) / np.log(2)
        ),
        "step_seconds": statistics.median(seconds[WARM:] or seconds),
        "seconds": seconds,
        "peak_mib": memory("VmHWM"),
        "before_mib": before,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def main() -> None:
    settings = json.loads(sys.argv[1])
    folder = Path(settings["folder"])
    result = train(settings, text.load(folder), Console(quiet=settings["quiet"]))
    (folder / f"{settings['loss']}.json").write_text(json.dumps({**settings, **result}))


if __name__ == "__main__":
    main()
