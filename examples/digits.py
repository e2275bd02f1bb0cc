"""Softmax regression on handwritten digits, trained in NumPy with the loss and gradient of Kosa.

Run it with `make demo`, or: python examples/digits.py. It writes its predictions to .kosa-demo/, then runs
`kosa score` on them and `kosa explain` on the worst.
"""

import shlex
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import kosa

FOLDER = Path(".kosa-demo")
CLASSES = 10
STEPS, EVERY = 200, 20
LEARNING_RATE, MOMENTUM = 0.5, 0.9
SHADES = " ░▒▓█"

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Digits(NamedTuple):
    """Images as rows of 64 brightnesses from 0 to 1, and the digit that each one shows."""

    images: Floats  # (N, 64)
    digits: Ints  # (N,)
    ids: Ints  # (N,) place in the data set


class Model(NamedTuple):
    weight: Floats  # (10, 64)
    bias: Floats  # (10,)

    def logits(self, images: Floats) -> Floats:  # (N, 64) -> (N, 10)
        return images @ self.weight.T + self.bias


def load() -> tuple[Digits, Digits]:
    """1,797 digits that people wrote: a fixed random 1,297 to learn from, 500 held out."""
    data = load_digits()
    images, digits = (data.data / 16).astype(np.float32), data.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(digits))
    return tuple(Digits(images[ids], digits[ids], ids) for ids in (order[500:], order[:500]))  # type: ignore[return-value]


def train(data: Digits, held_out: Digits) -> tuple[Model, list[float]]:
    """Full-batch gradient descent with momentum; returns the model and the training loss of every step."""
    model = Model(np.zeros((CLASSES, 64), np.float32), np.zeros(CLASSES, np.float32))
    speed = Model(np.zeros_like(model.weight), np.zeros_like(model.bias))
    losses: list[float] = []
    for step in range(STEPS + 1):
        loss, dlogits = kosa.cross_entropy_with_grad(data.digits, logits=model.logits(data.images))
        losses.append(float(loss))
        if step % EVERY == 0:
            report(step, losses, model, held_out)
        # z = x·Wᵀ + b, so ∂E/∂W = (∂E/∂z)ᵀ·x and ∂E/∂b is the sum of ∂E/∂z over the rows.
        speed = Model(
            MOMENTUM * speed.weight + dlogits.T @ data.images, MOMENTUM * speed.bias + dlogits.sum(axis=0)
        )
        model = Model(model.weight - LEARNING_RATE * speed.weight, model.bias - LEARNING_RATE * speed.bias)
    return model, losses


def report(step: int, losses: list[float], model: Model, held_out: Digits) -> None:
    logits = model.logits(held_out.images)
    held_out_loss = kosa.cross_entropy(held_out.digits, logits=logits)
    right = np.mean(logits.argmax(axis=1) == held_out.digits)
    bar = "█" * round(24 * losses[-1] / losses[0])
    print(f"{step:6}{losses[-1]:12.4f}{held_out_loss:12.4f}{right:11.1%}   {bar}")


def write(path: Path, data: Digits, logits: Floats) -> None:
    """One row an image: its id, its digit and the ten logits z0 … z9."""
    columns = {"id": data.ids, "digit": data.digits} | {f"z{k}": logits[:, k] for k in range(CLASSES)}
    pq.write_table(pa.table(columns), path)


def draw(image: Floats) -> str:
    """The 8×8 image, two characters a pixel."""
    levels = np.ceil(image.reshape(8, 8) * (len(SHADES) - 1)).astype(int)
    return "\n".join("    " + "".join(2 * SHADES[level] for level in row) for row in levels)


def run(*arguments: str) -> None:
    """Runs the installed command line, shown first as one would type it."""
    print(f"\n$ {shlex.join(['kosa', *arguments])}\n", flush=True)
    command = Path(sysconfig.get_path("scripts")) / "kosa"
    subprocess.run([command, *arguments], check=True)


def numbers(row: NDArray[np.generic], pattern: str) -> str:
    return " ".join(format(value, pattern) for value in row.tolist())


def main() -> None:
    if hasattr(sys.stdout, "reconfigure"):
        # A console of another encoding shows ? for what it cannot show, and the demo goes on.
        sys.stdout.reconfigure(errors="replace")
    start = time.perf_counter()
    data, held_out = load()
    print(f"Handwritten digits: {len(data.digits)} to learn from, {len(held_out.digits)} held out.")
    print("Softmax regression, loss and gradient by kosa.cross_entropy_with_grad, in nats:\n")
    print("  step        loss    held out      right")
    model, losses = train(data, held_out)
    print(f"\nln 10 = {np.log(CLASSES):.4f} is the loss of knowing nothing; it fell to {losses[-1]:.4f}.")

    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "digits.parquet"
    logits = model.logits(held_out.images)
    write(path, held_out, logits)
    print(f"The predictions for the digits held out are in {path.as_posix()}.")
    run("score", path.as_posix(), "--target", "digit", "--logits", "z*", "--id", "id")

    each = kosa.cross_entropy(held_out.digits, logits=logits, reduction="none")
    worst = int(each.argmax())
    digit, taken_for = held_out.digits[worst], int(logits[worst].argmax())
    print(f"\nThe worst row is image {held_out.ids[worst]}: a {digit}, taken for a {taken_for}.\n")
    print(draw(held_out.images[worst]))
    one_hot = np.eye(CLASSES, dtype=np.int64)[digit]
    run("explain", numbers(one_hot, "d"), numbers(logits[worst], ".3f"), "--logits")
    print(f"\nDone in {time.perf_counter() - start:.1f} s.")


if __name__ == "__main__":
    main()
