"""What may be scored, how columns and labels are understood, and what is refused, with which words."""

import math
import re

import numpy as np
import pyarrow as pa
import pytest

import kosa
from kosa.scoring import InputError
from kosa.scoring.columns import Wanted, class_names, select

LOGITS = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, -1.0], [1.0, 1.0, 1.0], [0.5, -2.0, 4.0]])
LABELS = np.array([0, 1, 2, 2])
LOSS = float(kosa.cross_entropy(LABELS, logits=LOGITS))


def frame(names: str = "z0 z1 z2", **columns: object) -> dict[str, object]:
    """A table of the logits under these names, and more columns."""
    return {**dict(zip(names.split(), LOGITS.T, strict=True)), **columns}


def refused(match: str, *arguments: object, kind: type[Exception] = InputError, **options: object) -> None:
    with pytest.raises(kind, match=match):
        kosa.score(*arguments, **options)


# Columns


@pytest.mark.parametrize(
    ("spec", "columns", "names"),
    [
        ("z*", ["z0", "z1", "z10"], ("0", "1", "10")),
        ("p_*", ["p_cat", "p_car"], ("cat", "car")),
        ("p*", ["p_cat", "p_car"], ("cat", "car")),
        ("*_prob", ["cat_prob", "dog_prob"], ("cat", "dog")),
        ("run[12].*.p", ["run1.cat.p", "run1.dog.p"], ("cat", "dog")),
        ("p_cat,p_car", ["p_cat", "p_car"], ("cat", "car")),
        ("cat,dog", ["cat", "dog"], ("cat", "dog")),
        (["x.1", "x.2"], ["x.1", "x.2"], ("1", "2")),
        ("a1,a12", ["a1", "a12"], ("1", "12")),
        ("7,8", ["7", "8"], ("7", "8")),
        ("p,p_x", ["p", "p_x"], ("p", "p_x")),
        ("ant,anteater", ["ant", "anteater"], ("ant", "anteater")),
    ],
)
def test_class_names_are_what_the_columns_do_not_share(
    spec: str | list[str], columns: list[str], names: tuple[str, ...]
) -> None:
    assert class_names(spec, columns) == names


def test_a_glob_leaves_the_other_roles_alone() -> None:
    names = ["p_a", "price", "p_b", "pid", "py"]
    chosen = select(Wanted("probs", "p*", "py", weight="price", id="pid"), names, "f")
    assert chosen.predictions == ("p_a", "p_b")
    assert (chosen.target, chosen.weight, chosen.id) == (("py",), "price", "pid")


def test_a_name_is_taken_letter_by_letter_before_it_is_a_glob_or_a_list() -> None:
    chosen = select(Wanted("probs", "a,b", "y[0]"), ["a,b", "a", "b", "y[0]", "y0"], "f")
    assert chosen.predictions == ("a,b",)
    assert chosen.target == ("y[0]",)


@pytest.mark.parametrize("spec", ["z*", "z0,z1,z2", ["z0", "z1", "z2"], " z0, z1, z2"])
def test_columns_by_glob_and_by_list(spec: str | list[str]) -> None:
    assert kosa.score(frame(y=LABELS), "y", logits=spec).cross_entropy == pytest.approx(LOSS, rel=1e-12)


def test_the_list_gives_the_order_of_the_classes() -> None:
    score = kosa.score(frame(y=2 - LABELS), "y", logits="z2,z1,z0", classes=["c", "b", "a"])
    assert score.cross_entropy == pytest.approx(LOSS, rel=1e-12)
    assert [entry.name for entry in score.classes] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"target": "label", "logits": "z*"},
            "has no column 'label' for `target`; its columns are 'z0', 'z1'",
        ),
        ({"target": "y", "logits": "q*"}, "has no column 'q*' for `logits`"),
        ({"target": "y", "logits": "z0,z7"}, "has no column 'z7' for `logits`"),
        ({"target": "y", "logits": "z*", "weight": "w"}, "has no column 'w' for `weight`"),
        ({"target": "y", "logits": "z*", "id": "name"}, "has no column 'name' for `id`"),
        ({"target": "y", "logits": "z0,z0,z1"}, "column 'z0' for `logits` stands there more than once"),
        ({"target": "z0", "logits": "z0,z1"}, "column 'z0' is asked for as prediction and as something else"),
        ({"logits": "z*"}, "`target`: name the column of the labels"),
        ({"target": "y", "logits": True}, "`logits`: name the prediction columns, as in logits="),
    ],
)
def test_columns_that_are_not_there(options: dict[str, object], text: str) -> None:
    refused(re.escape(text), frame(y=LABELS), **options)


# Labels


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, np.int64])
def test_integer_labels_of_any_type(dtype: type) -> None:
    assert kosa.score(LABELS.astype(dtype), logits=LOGITS).cross_entropy == pytest.approx(LOSS, rel=1e-12)


@pytest.mark.parametrize("kind", ["U", "O", "arrow", "dictionary", "large"])
def test_string_labels(kind: str) -> None:
    strings = np.array(["ant", "bee", "猫"])[LABELS]
    column = {
        "U": strings,
        "O": strings.astype(object),
        "arrow": pa.array(strings.tolist()),
        "dictionary": pa.array(strings.tolist()).dictionary_encode(),
        "large": pa.array(strings.tolist(), pa.large_string()),
    }[kind]
    table = frame("p_ant p_bee p_猫", y=column)
    score = kosa.score(table if kind in "UO" else pa.table(table), "y", logits="p_*", worst=1)
    assert score.cross_entropy == pytest.approx(LOSS, rel=1e-12)
    assert [entry.name for entry in score.classes] == ["ant", "bee", "猫"]
    assert score.worst[0].label == "猫"


def test_classes_name_strings_and_integers() -> None:
    for labels, classes in [
        (np.array(["x", "y", "z"]), ["x", "y", "z"]),
        (np.array([10, 7, -3]), ["10", "7", "-3"]),
    ]:
        score = kosa.score(labels[LABELS], logits=LOGITS, classes=classes)
        assert score.cross_entropy == pytest.approx(LOSS, rel=1e-12)


def test_classes_that_are_words_leave_integer_labels_positions() -> None:
    score = kosa.score(LABELS, logits=LOGITS, classes=["x", "y", "z"])
    assert score.cross_entropy == pytest.approx(LOSS, rel=1e-12)


def test_integer_labels_with_numbered_columns_are_ambiguous_until_classes_say() -> None:
    table = frame("p1 p2 p3", y=LABELS)
    refused(
        "columns numbered 1,2,3: a label may be a column's number or its position", table, "y", logits="p*"
    )
    positions = kosa.score(table, "y", logits="p*", classes=["0", "1", "2"])
    numbers = kosa.score({**table, "y": LABELS + 1}, "y", logits="p*", classes=["1", "2", "3"])
    assert positions.cross_entropy == numbers.cross_entropy == pytest.approx(LOSS, rel=1e-12)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([0, 1, 3, 2], "row 2 (from 0): label 3 is out of range; the 3 classes are numbered 0 to 2"),
        ([0, -1, 9, 2], "row 1 (from 0): label -1 is out of range"),
        ([0, -100, 1, 2], "row 1 (from 0): label -100 is out of range"),
        (np.array([0, 1, 2**64 - 1, 0], np.uint64), "row 2 (from 0): label 18446744073709551615 is out of"),
        (["0", "1", "cow", "2"], "row 2 (from 0): unknown label 'cow'; the classes are '0', '1', '2'"),
    ],
)
def test_labels_that_are_no_class_name_row_and_value(labels: object, text: str) -> None:
    for batch_size in (None, 1):
        refused(f"^{re.escape(text)}", labels, logits=LOGITS, batch_size=batch_size, kind=IndexError)


def test_unknown_labels_name_the_classes() -> None:
    labels = np.array(["x", "y", "z", "w"])
    text = "row 3 (from 0): unknown label 'w'; the classes are 'x', 'y', 'z'"
    refused(f"{re.escape(text)}$", labels, logits=LOGITS, classes=["x", "y", "z"], kind=IndexError)
    text = "row 3 (from 0): label 7 is out of range; the classes are '1', '2', '3'"
    refused(re.escape(text), np.array([1, 2, 3, 7]), logits=LOGITS, classes=["1", "2", "3"], kind=IndexError)
    many = [f"c{number}" for number in range(30)]
    refused("'c7', … \\(30 in all\\)", ["q"], logits=np.zeros((1, 30)), classes=many, kind=IndexError)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (LABELS.astype(float), "the labels are float64, expected integers or strings"),
        (LABELS > 0, "the labels are bool, expected integers or strings"),
        (np.array([0, "a", 1, 2], dtype=object), "label 0 of type int; expected strings"),
        (np.eye(3, dtype=int)[LABELS], "one-hot targets must be floating"),
    ],
)
def test_labels_of_a_type_that_is_none(labels: np.ndarray, text: str) -> None:
    refused(text, labels, logits=LOGITS, kind=TypeError)


def test_the_number_and_the_names_of_classes_must_fit() -> None:
    refused(
        "`classes` names 2 classes, but the predictions have 3", LABELS, logits=LOGITS, classes=["a", "b"]
    )
    refused("`classes` names a class twice", LABELS, logits=LOGITS, classes=["a", "b", "a"])
    refused("names 3 classes, but a binary prediction has 2", [0], logits=[0.0], classes=["a", "b", "c"])


@pytest.mark.parametrize(
    "labels",
    [[0, 1, 1], [False, True, True], [0.0, 1.0, 1.0], np.array([0, 1, 1], np.uint8)],
)
def test_binary_labels(labels: object) -> None:
    score = kosa.score(labels, probs=[0.25, 0.5, 0.75])
    assert score.cross_entropy == pytest.approx(-math.log(0.75 * 0.5 * 0.75) / 3, rel=1e-12)


def test_binary_labels_by_name() -> None:
    score = kosa.score(np.array(["ham", "spam", "spam"]), probs=[0.25, 0.5, 0.75], classes=["ham", "spam"])
    assert score.cross_entropy == pytest.approx(-math.log(0.75 * 0.5 * 0.75) / 3, rel=1e-12)
    assert score.worst[0].label == "spam"
    # Both classes are equally probable there, so the first is predicted.
    assert score.worst[0].predicted == "ham"


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([0, 2], "row 1 (from 0): label 2 is out of range; the 2 classes are numbered 0 to 1"),
        ([0.5, 1.5], "row 1 (from 0): target 1.5 of a binary prediction; expected 0, 1 or between"),
        ([0.5, math.nan], "row 1 (from 0): target nan of a binary prediction"),
        (["0", "spam"], "row 1 (from 0): unknown label 'spam'"),
    ],
)
def test_binary_labels_that_are_none(labels: list[object], text: str) -> None:
    refused(re.escape(text), labels, probs=[0.5, 0.5], kind=IndexError)


def test_a_single_prediction_column_takes_no_distributions() -> None:
    table = frame(a=np.full(4, 0.5), b=np.full(4, 0.5))
    refused("soft targets of 2 classes with one prediction column", table, "a,b", logits="z0")


# Soft targets


def test_soft_targets_in_columns_and_in_lists() -> None:
    soft = np.random.default_rng(1).dirichlet(np.ones(3), 4)
    expected = float(kosa.cross_entropy(soft, logits=LOGITS))
    columns = frame(t0=soft[:, 0], t1=soft[:, 1], t2=soft[:, 2], t=soft)
    for target in ("t0,t1,t2", "t?", "t"):
        assert kosa.score(columns, target, logits="z*").cross_entropy == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ([0.5, 0.5, 0.5], "row 2 (from 0): the soft targets sum to 1.5, expected 1 within 0.00035"),
        ([1.5, -0.5, 0.0], "row 2 (from 0): the soft targets hold -0.5, but no probability is negative"),
        ([math.nan, 0.5, 0.5], "row 2 (from 0): the soft targets sum to nan"),
    ],
)
def test_soft_targets_that_are_no_distributions(change: list[float], text: str) -> None:
    soft = np.full((4, 3), 1 / 3)
    soft[2] = change
    refused(re.escape(text), soft, logits=LOGITS)
    assert kosa.score(soft, logits=LOGITS, force=True).rows == 4


def test_soft_targets_of_other_classes() -> None:
    table = frame(a=np.full(4, 0.5), b=np.full(4, 0.5))
    refused("soft targets have 2 classes, the predictions 3", table, "a,b", logits="z*")


# Predictions of another kind than was said

PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


def changed(values: np.ndarray, row: int, new: object) -> np.ndarray:
    values = values.copy()
    values[row] = new
    return values


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        ("probs", LOGITS, "row 0 (from 0): `probs` hold 2, outside [0, 1]. Are these logits"),
        ("probs", changed(PROBS, 2, [0.6, 0.6, -0.2]), "row 2 (from 0): `probs` hold -0.2, outside [0, 1]"),
        (
            "probs",
            changed(PROBS, 2, [0.3, 0.3, 0.3]),
            "row 2 (from 0): `probs` sum to 0.9, expected 1 within",
        ),
        (
            "probs",
            changed(PROBS, 3, [0.9, 0.1, 0.1]),
            "row 3 (from 0): `probs` sum to 1.1, expected 1 within",
        ),
        ("probs", changed(PROBS, 1, [0.0, 0.0, 0.0]), "row 1 (from 0): `probs` sum to 0, expected 1 within"),
        ("probs", changed(PROBS, 1, [math.nan, 0.5, 0.5]), "row 1 (from 0): `probs` hold NaN for class 0"),
        ("log_probs", PROBS, "row 0 (from 0): `log_probs` hold 0.66"),
        ("log_probs", np.log(PROBS / 2), "row 0 (from 0): exp of `log_probs` sums to 0.5, expected 1 within"),
        (
            "log_probs",
            changed(np.log(PROBS), 1, math.nan),
            "row 1 (from 0): `log_probs` hold NaN for class 0",
        ),
        ("logits", changed(LOGITS, 1, [0, math.nan, 0]), "row 1 (from 0): `logits` hold NaN for class 1"),
        ("logits", changed(LOGITS, 1, [0, math.inf, 0]), "row 1 (from 0): `logits` hold inf"),
        (
            "logits",
            changed(LOGITS, 1, -math.inf),
            "row 1 (from 0): `logits` are all −inf: no class is possible",
        ),
    ],
)
def test_predictions_of_another_kind(kind: str, values: np.ndarray, text: str, width: int) -> None:
    refused(f"^{re.escape(text)}.*`force` scores", LABELS, batch_size=width, **{kind: values})
    forced = kosa.score(LABELS, batch_size=width, force=True, **{kind: values})
    assert forced.rows == 4
    # Such a row may be there if it has no weight.
    weight = np.ones(4)
    weight[int(re.findall(r"row (\d)", text)[0])] = 0
    if values is not LOGITS and "0.5" not in text and values is not PROBS:
        assert math.isfinite(kosa.score(LABELS, weight=weight, **{kind: values}).cross_entropy)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("probs", 1.5, "`probs` hold 1.5, outside [0, 1]. Are these logits?"),
        ("probs", -0.1, "`probs` hold -0.1, outside [0, 1]"),
        ("probs", math.nan, "`probs` hold NaN"),
        ("log_probs", 0.1, "`log_probs` hold 0.1, but no log-probability is positive"),
        ("logits", math.nan, "`logits` hold NaN"),
    ],
)
def test_binary_predictions_of_another_kind(kind: str, value: float, text: str) -> None:
    values = np.array([1.0, value]) if kind == "probs" else np.array([-1.0, value])
    refused(re.escape(f"row 1 (from 0): {text}"), [1, 1], **{kind: values})
    assert kosa.score([1, 1], force=True, **{kind: values}).rows == 2


@pytest.mark.parametrize(
    ("dtype", "off", "accepted"),
    [
        (np.float32, 3e-4, True),
        (np.float32, 4e-4, False),
        (np.float64, 3e-4, True),
        (np.float64, 4e-4, False),
        (np.float16, 2e-2, True),
        (np.float16, 5e-2, False),
    ],
)
def test_rows_may_be_off_by_the_root_of_epsilon(dtype: type, off: float, accepted: bool) -> None:
    for sign in (1, -1):
        probs = np.array([[0.5, 0.5 + sign * off]], dtype=dtype)
        soft = np.array([[0.5, 0.5]])
        if accepted:
            assert kosa.score([0], probs=probs).rows == 1
            assert kosa.score([0], log_probs=np.log(probs.astype(np.float32)).astype(dtype)).rows == 1
            assert kosa.score(probs, probs=soft).rows == 1
        else:
            refused("`probs` sum to", [0], probs=probs)
            refused("exp of `log_probs` sums to", [0], log_probs=np.log(probs))
            refused("the soft targets sum to", probs, probs=soft)


def test_probabilities_that_are_said_to_be_logits() -> None:
    random = np.random.default_rng(2)
    probs, labels = random.dirichlet(np.ones(3), 50), random.integers(0, 3, 50)
    text = (
        "each of the first 20 rows of `logits` is positive and sums to 1. Are these probabilities (`probs`)?"
    )
    for size in (1, 7, 50):
        refused(re.escape(text), labels, logits=probs, batch_size=size)
    assert kosa.score(labels, logits=probs, force=True).rows == 50
    assert kosa.score(labels[:19], logits=probs[:19]).rows == 19
    for row, size in ((0, 50), (19, 50), (19, 1)):
        probs_but_one = changed(probs, row, [0.0, 1.0, 2.0])
        assert kosa.score(labels, logits=probs_but_one, batch_size=size).rows == 50
