"""Text that every Python brings along: the sources of its standard library, as tokens of a vocabulary made for it."""

import random
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|end|>"  # between files
HELD_OUT_EVERY = 20  # one file in twenty is never learnt from
NOT_TEXT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}


class Tokens(NamedTuple):
    """Files as one row of tokens each for learning and for measuring, and the bytes that each token stands for."""

    learn: NDArray[np.uint16]
    held_out: NDArray[np.uint16]
    token_bytes: NDArray[np.int64]  # (vocabulary,)


def sources(limit: int, folder: Path | None = None) -> list[str]:
    """The standard library's .py files without its tests, in a fixed random order, up to this many bytes in all.

    Its documentation is among them: docstrings, and pydoc_data/topics.py with chapters of the language reference.
    """
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    texts, size = [], 0
    paths = sorted(folder.rglob("*.py"))
    random.Random(0).shuffle(paths)
    for path in paths:
        if NOT_TEXT.intersection(path.relative_to(folder).parts):
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        size += len(text.encode())
        if size > limit:
            break
        texts.append(text)
    if len(texts) < 2 * HELD_OUT_EVERY:
        raise SystemExit(
            f"{folder} has {len(texts)} source files: this Python came without its library's sources."
        )
    return texts


def prepare(folder: Path, vocabulary: int, limit: int) -> str:
    """Write tokens.npz and tokenizer.json; return a line about them."""
    texts = sources(limit)
    apart = [texts[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY], list(texts)]
    del apart[1][HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    held_out, learn = apart
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(learn, trainer)
    end = tokenizer.token_to_id(END)

    def row(of: list[str]) -> NDArray[np.uint16]:
        encoded = tokenizer.encode_batch(of)
        return np.concatenate([np.array([end, *file.ids], np.uint16) for file in encoded])

    # In the byte-level alphabet a character is a byte.
    token_bytes = np.array([len(tokenizer.id_to_token(i)) for i in range(tokenizer.get_vocab_size())])
    token_bytes[end] = 0
    tokens = Tokens(row(learn), row(held_out), token_bytes)
    tokenizer.save(str(folder / "tokenizer.json"))
    np.savez(folder / "tokens.npz", **tokens._asdict())
    size = sum(len(text.encode()) for text in texts)
    return (
        f"{len(texts)} files, {size / 1e6:.1f} MB: {len(tokens.learn):,} tokens to learn from, {len(tokens.held_out):,} "
        f"held out; vocabulary {len(token_bytes)}"
    )


def load(folder: Path) -> Tokens:
    with np.load(folder / "tokens.npz") as file:
        return Tokens(**file)
