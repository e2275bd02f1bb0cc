"""A against B: the paired figures against plain NumPy, whatever the batches; what is not the same rows is refused."""

import json
import math
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kosa
from kosa.cli import main
from kosa.scoring import InputError
from kosa.scoring.against import in_step
from kosa.scoring.batch import Batch
from kosa.scoring.errors import Place

ROWS, CLASSES = 500, 4
NAMES = ("cat", "dog", "eel", "fox")


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(7)
    label = random.integers(0, CLASSES, ROWS)
    ours = random.standard_normal((ROWS, CLASSES))
    ours[np.arange(ROWS), label] += 1.0
    theirs = ours + 0.4 * random.standard_normal((ROWS, CLASSES))
    theirs[:20] = ours[:20]  # ties
    return label, ours, theirs, random.random(ROWS) * (random.random(ROWS) > 0.1)


def losses(label, logits):
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -log_probs[np.arange(len(label)), label]


def table(label, logits, **more):
    columns = {f"z_{name}": logits[:, number] for number, name in enumerate(NAMES)}
    return pa.table({"y": np.array(NAMES)[label].tolist(), **columns, **more})


@pytest.mark.parametrize("weighted", [False, True])
def test_values(data, weighted):
    label, ours, theirs, weights = data
    weight = weights if weighted else np.ones(ROWS)
    found = kosa.score(label, logits=ours, against=theirs, weight=weights if weighted else None)
    pair, d = found.against, losses(label, ours) - losses(label, theirs)
    mean = np.average(d, weights=weight)
    used = int((weight > 0).sum())
    spread = (weight**2 * (d - mean) ** 2).sum() * used / (used - 1)
    assert pair.difference == pytest.approx(mean, rel=1e-12)
    assert pair.difference == pytest.approx(found.cross_entropy - pair.score.cross_entropy, rel=1e-11)
    assert pair.standard_error == pytest.approx(math.sqrt(spread) / weight.sum(), rel=1e-10)
    assert pair.standard_error < 0.5 * found.standard_error, "pairs differ less than rows do"
    assert pair.low < pair.difference < pair.high
    assert pair.clusters == used
    for share, where in ((pair.wins, d < 0), (pair.ties, d == 0), (pair.losses, d > 0)):
        assert share == pytest.approx(weight[where].sum() / weight.sum(), rel=1e-12)
    assert pair.ties > 0
    for number, entry in enumerate(pair.classes):
        there = (label == number) & (weight > 0)
        assert entry.rows == there.sum()
        assert entry.difference == pytest.approx(np.average(d[there], weights=weight[there]), rel=1e-10)
        assert entry.wins == pytest.approx(weight[there & (d < 0)].sum() / weight[there].sum(), rel=1e-12)
    assert math.fsum(entry.contribution for entry in pair.classes) == pytest.approx(mean, rel=1e-12)


def test_groups_are_the_clusters(data):
    label, ours, theirs, _ = data
    group = np.arange(ROWS) // 25
    pair = kosa.score(label, logits=ours, against=theirs, group=group).against
    d = losses(label, ours) - losses(label, theirs)
    sums = np.bincount(group, d - d.mean())
    assert pair.clusters == 20
    assert pair.standard_error == pytest.approx(math.sqrt((sums**2).sum() * 20 / 19) / ROWS, rel=1e-10)
    assert [entry.name for entry in pair.groups] == [str(number) for number in range(20)]
    for number, entry in enumerate(pair.groups):
        assert entry.difference == pytest.approx(d[group == number].mean(), rel=1e-10)
        assert entry.wins == pytest.approx((d[group == number] < 0).mean(), rel=1e-12)


def test_batches_and_row_groups_do_not_matter(data, tmp_path):
    label, ours, theirs, weights = data
    pq.write_table(table(label, ours, w=weights), tmp_path / "a.parquet", row_group_size=170)
    pq.write_table(table(label, theirs)[:130], tmp_path / "b1.parquet", row_group_size=33)
    pq.write_table(table(label, theirs)[130:], tmp_path / "b2.parquet")
    several = [tmp_path / "b1.parquet", tmp_path / "b2.parquet"]
    found = [
        kosa.score(tmp_path / "a.parquet", "y", logits="z*", weight="w", against=several, batch_size=size)
        for size in (None, 1, 7, 499)
    ]
    whole = kosa.score(
        table(label, ours, w=weights), "y", logits="z*", weight="w", against=table(label, theirs)
    )
    for one, other in pairwise([*found, whole]):
        assert one.to_dict() == other.to_dict()
    assert found[0].against.name == "B"


def test_the_other_predictions_may_be_of_another_kind_and_their_classes_in_another_order(data):
    label, ours, theirs, _ = data
    probs = np.exp(theirs) / np.exp(theirs).sum(axis=1, keepdims=True)
    turned = [3, 1, 0, 2]
    columns = {f"p_{NAMES[number]}": probs[:, number] for number in turned}
    b = pa.table({"y": np.array(NAMES)[label].tolist(), **columns})
    a = table(label, ours)
    found = kosa.score(a, "y", logits="z*", against=b, against_columns={"probs": "p*"}).against
    same = kosa.score(a, "y", logits="z*", against=table(label, theirs)).against
    assert found.difference == pytest.approx(same.difference, rel=1e-9)
    assert found.score.predictions == "probs"
    assert [entry.name for entry in found.classes] == list(NAMES)


def test_two_models_in_one_file(data):
    label, ours, theirs, _ = data
    both = {"y": label, "a": ours, "b": theirs}
    found = kosa.score(both, "y", logits="a", against=both, against_columns={"logits": "b"})
    assert found.against.difference == pytest.approx(
        (losses(label, ours) - losses(label, theirs)).mean(), rel=1e-12
    )


def test_soft_targets_and_binary_predictions(data):
    random = np.random.default_rng(1)
    targets = random.dirichlet(np.ones(3), 40)
    ours, theirs = random.standard_normal((2, 40, 3))
    pair = kosa.score(targets, logits=ours, against=theirs).against
    assert pair.difference == pytest.approx(
        kosa.score(targets, logits=ours).cross_entropy - kosa.score(targets, logits=theirs).cross_entropy,
        rel=1e-11,
    )
    y = random.integers(0, 2, 40)
    pair = kosa.score(y, logits=ours[:, 0], against=theirs[:, 0]).against
    assert pair.difference == pytest.approx(
        pair.classes[0].contribution + pair.classes[1].contribution, rel=1e-12
    )


def test_infinite_losses():
    probs = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    other = np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])
    both = kosa.score([1, 0, 0], probs=probs, against=other).against
    # The first row is impossible for both: a tie of no difference, whatever a clip would make of it.
    assert both.difference == pytest.approx((0 - math.log(2) - math.log(2)) / 3)
    assert (both.wins, both.ties, both.losses) == pytest.approx((2 / 3, 1 / 3, 0))
    assert both.score.cross_entropy == math.inf
    one = kosa.score([1, 1, 0], probs=probs, against=other).against
    assert one.difference == math.inf
    assert math.isnan(one.standard_error)
    assert one.losses == pytest.approx(1 / 3)
    assert json.loads(kosa.score([1, 1, 0], probs=probs, against=other).to_json())["against"]["low"] == "nan"


REFUSED = {
    "another target": (
        lambda y, a, b: (table(y, a), table((y + (np.arange(ROWS) == 321)) % CLASSES, b), {}),
        r"row 321 \(from 0\) of 'Table' has the target '\w+', but row 321 \(from 0\) of 'Table' '\w+'",
    ),
    "another id": (
        lambda y, a, b: (
            table(y, a, id=np.arange(ROWS)),
            table(y, b, id=np.where(np.arange(ROWS) == 77, -1, np.arange(ROWS))),
            {"id": "id"},
        ),
        r"row 77 \(from 0\) of 'Table' has the id 77, but row 77 \(from 0\) of 'Table' -1; `against` compares",
    ),
    "fewer rows": (
        lambda y, a, b: (table(y, a), table(y, b)[:400], {}),
        r"row 400 \(from 0\) of 'Table' has no counterpart: B has 400 rows",
    ),
    "more rows": (
        lambda y, a, b: (table(y, a)[:400], table(y, b), {}),
        r"row 400 \(from 0\) of 'Table' has no counterpart: A has 400 rows",
    ),
    "other classes": (
        lambda y, a, b: (
            table(y, a),
            pa.table(
                {"y": np.array(list("pqrs"))[y].tolist()} | {f"z_{c}": b[:, k] for k, c in enumerate("pqrs")}
            ),
            {},
        ),
        r"A has the classes 'cat', 'dog', 'eel', 'fox' and B 'p', 'q', 'r', 's'; `classes` gives both the same names",
    ),
    "no such column": (
        lambda y, a, b: (table(y, a), table(y, b), {"against_columns": {"probs": "p*"}}),
        r"has no column 'p\*' for `probs`",
    ),
    "no such kind": (
        lambda y, a, b: (table(y, a), table(y, b), {"against_columns": {"scores": "p*"}}),
        r"`against_columns` names 'scores'; expected one of",
    ),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
@pytest.mark.parametrize("size", [None, 13])
def test_what_is_not_the_same_rows_is_refused(data, case, size):
    label, ours, theirs, _ = data
    make, match = REFUSED[case]
    a, b, options = make(label, ours, theirs)
    with pytest.raises(InputError, match=match):
        kosa.score(a, "y", logits="z*", against=b, batch_size=size, **options)


def test_rows_of_weight_0_need_not_be_the_same(data):
    label, ours, theirs, _ = data
    weight = np.ones(ROWS)
    weight[5] = 0.0
    changed = label.copy()
    changed[5] = (label[5] + 1) % CLASSES
    found = kosa.score(
        table(label, ours, w=weight), "y", logits="z*", weight="w", against=table(changed, theirs)
    )
    assert found.against.weight == ROWS - 1


def test_batches_of_batches_have_no_other(data):
    label, ours, theirs, _ = data
    with pytest.raises(InputError, match="`against` needs files, tables or arrays"):
        kosa.score([(label, ours)], logits=True, against=[(label, theirs)])


def test_both_are_read_in_step():
    """No more than one batch of each side is held, and none is asked for before it is needed."""
    taken = {"a": 0, "b": 0}

    def batches(name, size):
        for first in range(0, 60, size):
            taken[name] += size
            values = np.arange(first, first + size, dtype=float)
            yield Batch(values, values, None, None, Place(name, first), first)

    for ours, theirs in in_step(batches("a", 4), batches("b", 15)):
        assert (ours.predictions == theirs.predictions).all()
        assert ours.first == theirs.first == ours.predictions[0]
        last = ours.first + len(ours.predictions)
        assert taken["a"] - last < 4
        assert taken["b"] - last < 15
    assert taken == {"a": 60, "b": 60}


def test_a_part_has_its_own_place():
    whole = Batch(np.arange(6.0), np.arange(6), np.ones(6), np.arange(6), Place("f", 10), 110)
    piece = whole.part(2, 5)
    assert (piece.first, piece.place.first, len(piece.ids)) == (112, 12, 3)
    assert whole.part(0) is whole


def command(monkeypatch, capsys, words):
    """Status, stdout and stderr of `kosa` with these words."""
    monkeypatch.setattr("sys.argv", ["kosa", *words.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code or 0, *capsys.readouterr()


def test_the_command_line_says_it_in_table_json_and_report(data, tmp_path, monkeypatch, capsys):
    label, ours, theirs, _ = data
    monkeypatch.chdir(tmp_path)
    pq.write_table(table(label, ours, g=label % 2), "a.parquet")
    pq.write_table(table(label, theirs), "b.parquet")
    base = "score a.parquet --target y --logits z* --group g"
    status, out, err = command(
        monkeypatch, capsys, f"{base} --against b.parquet --json out.json --report out.html"
    )
    assert (status, err) == (0, "")
    assert "Against b.parquet" in out
    assert "loss of A − loss of B" in out
    assert "Where A wins and loses, by group" in out
    against = json.loads((tmp_path / "out.json").read_text())["against"]
    assert against["name"] == "b.parquet"
    assert against["rows"] == ROWS
    assert len(against["classes"]) == CLASSES
    assert "B (<bdi>b.parquet</bdi>)" in (tmp_path / "out.html").read_text(encoding="utf-8")
    status, _, err = command(monkeypatch, capsys, f"{base} --against-probs p*")
    assert status == 2
    assert "`--against-probs` needs `--against FILE`" in err
    status, _, err = command(monkeypatch, capsys, f"{base} --report nowhere/out.html")
    assert status == 2
    assert "cannot write 'nowhere/out.html': there is no directory 'nowhere'" in err
