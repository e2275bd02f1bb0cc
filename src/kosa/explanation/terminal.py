"""What `kosa explain` does with what was typed."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kosa.explanation.api import Explanation, ProductExplanation, explain, explain_product
from kosa.explanation.parts import Array
from kosa.explanation.text import plain
from kosa.explanation.words import Lang

# A Japanese keyboard types these where others type , and ; .
TYPED = str.maketrans("，、；", ",,;")


def run(left: str, right: str, kind: str, lang: str, html: str | None, json_path: str | None) -> None:
    """Explain targets and predictions of that kind, or (if it is "dot") a product, and write it out.

    Raises ValueError, TypeError or IndexError if that cannot be done with what was typed.
    """
    if html == "-":
        raise ValueError("`--html` needs the name of a file, not `-`.")
    made: Explanation | ProductExplanation
    if kind == "dot":
        made = explain_product(matrix(left, "LEFT"), matrix(right, "RIGHT"), lang=cast(Lang, lang))
    else:
        predictions = matrix(right, "PREDICTIONS")
        given: dict[str, Any] = {kind: predictions}
        made = explain(targets(left, predictions), lang=cast(Lang, lang), **given)
    as_json = json.dumps(made.to_dict(), indent=2) + "\n"
    if html is not None:
        _write(html, made.to_html())
    if json_path == "-":
        sys.stdout.write(as_json)
        return
    if json_path is not None:
        _write(json_path, as_json)
    columns = min(shutil.get_terminal_size((88, 24)).columns, 120)
    sys.stdout.write(made.to_text(width=columns, encoding=sys.stdout.encoding))


def matrix(text: str, name: str) -> Array:
    """The matrix typed as 1 2; 3 4: spaces or commas between numbers, semicolons between rows."""
    rows = [row.replace(",", " ").split() for row in text.translate(TYPED).strip().rstrip(";").split(";")]
    for place, row in enumerate(rows, start=1):
        if not row:
            raise ValueError(f"{name}: row {place} is empty. Write numbers, and ; between rows: 1 2; 3 4")
        if len(row) != len(rows[0]):
            raise ValueError(f"{name}: row 1 has {len(rows[0])} numbers and row {place} has {len(row)}.")
    return np.array([[_number(word, name) for word in row] for row in rows])


def targets(text: str, predictions: Array) -> Array | NDArray[np.int64]:
    """Targets as typed: as many numbers as predictions, or one class index for each row of them."""
    given = matrix(text, "TARGETS")
    if given.shape == predictions.shape:
        return given
    if given.size != len(predictions):
        raise ValueError(
            f"TARGETS is {'×'.join(map(str, given.shape))} and PREDICTIONS "
            f"{'×'.join(map(str, predictions.shape))}: write one target for each prediction, or one class "
            f"index for each row."
        )
    index = given.ravel()
    if not np.isin(index, np.arange(predictions.shape[1])).all():
        last = predictions.shape[1] - 1
        raise ValueError(f"TARGETS: one number a row is a class index, 0 to {last}, but this is {text!r}.")
    return index.astype(np.int64)


def complain(error: Exception) -> None:
    """One line on stderr, in signs that it can show."""
    text = " ".join(f"kosa explain: {error}".split())
    sys.stderr.write(plain(text, sys.stderr.encoding) + "\n")


def _write(path: str, content: str) -> None:
    try:
        Path(path).write_text(content, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None


def _number(word: str, name: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{name}: {word!r} is not a number.") from None
