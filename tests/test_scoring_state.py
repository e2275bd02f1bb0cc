"""The same figures, to the last bit, for any batches, order, split and merge; and the ways to show them."""

import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import kosa
from kosa.scoring import InputError, Rows, Score, Setup, State

CLASSES = 4


def losses_of_all_sizes(seed: int, count: int) -> np.ndarray:
    """From 1e-300 to 1e150 with a few of 0 and of infinity."""
    random = np.random.default_rng(seed)
    losses = 10.0 ** random.uniform(-300, 150, count)
    losses[random.integers(0, count, 5)] = 0.0
    return losses


def rows(seed: int, count: int, weighted: bool, soft: bool) -> Rows:
    random = np.random.default_rng(seed)
    loss = losses_of_all_sizes(seed, count)
    mass = random.dirichlet(np.ones(CLASSES), count)
    return Rows(
        first=0,
        loss=loss,
        clipped=np.minimum(loss, 16.0),
        label=np.argmax(mass, axis=1),
        predicted=random.integers(0, CLASSES, count),
        confidence=random.random(count),
        weight=10.0 ** random.uniform(-20, 20, count) if weighted else None,
        target_entropy=random.random(count) if soft else None,
        mass=mass if soft else None,
        brier=random.random(count),
        among=loss / 3,
    )


def part(whole: Rows, chosen: np.ndarray) -> Rows:
    """Some consecutive rows."""
    return replace(whole.chosen(chosen), first=whole.first + int(chosen[0]))


def fresh(weighted: bool) -> State:
    return State(Setup(tuple("abcd"), "logits", weighted=weighted))


def figures(state: State) -> dict[str, object]:
    return state.result().to_dict()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_batches_order_and_merges_change_no_bit(weighted: bool, soft: bool) -> None:
    count = 700
    whole = rows(1, count, weighted, soft)
    once = fresh(weighted)
    once.update(whole)
    expected = figures(once)
    random = np.random.default_rng(2)
    for size in (1, 7, 333, count):
        pieces = [part(whole, np.arange(start, min(start + size, count))) for start in range(0, count, size)]
        random.shuffle(pieces)
        states = [fresh(weighted) for _ in range(3)]
        for number, piece in enumerate(pieces):
            states[number % 3].update(piece)
        states[2].merge(states[0])
        states[2].merge(states[1])
        assert figures(states[2]) == expected


def same_to_an_ulp(found: float, expected: float) -> bool:
    """The sum and the mean of `expected` are rounded each, `found` is rounded once."""
    return abs(found - expected) <= math.ulp(expected)


def test_adversarial_losses_agree_with_fsum() -> None:
    whole = rows(3, 3000, weighted=False, soft=False)
    state = fresh(False)
    for start in range(0, 3000, 11):
        state.update(part(whole, np.arange(start, min(start + 11, 3000))))
    found = figures(state)
    assert same_to_an_ulp(found["cross_entropy"], math.fsum(whole.loss) / 3000)
    assert same_to_an_ulp(found["clipped_cross_entropy"], math.fsum(whole.clipped) / 3000)
    assert math.fsum(whole.loss) != sum(whole.loss.tolist())
    for number, entry in enumerate(found["classes"]):
        here = whole.loss[whole.label == number]
        assert same_to_an_ulp(entry["cross_entropy"], math.fsum(here) / len(here))


def test_figures_do_not_depend_on_batch_size_or_on_the_order_of_rows() -> None:
    random = np.random.default_rng(4)
    logits = (200 * random.standard_normal((1500, CLASSES))).astype(np.float32)
    labels, weights = random.integers(0, CLASSES, 1500), 10.0 ** random.uniform(-12, 12, 1500)
    names = np.arange(1500) * 3
    expected = kosa.score(labels, logits=logits, weight=weights, id=names).to_dict()
    assert expected["zero_probability_rows"] == 0
    for size in (1, 10, 999):
        assert (
            kosa.score(labels, logits=logits, weight=weights, id=names, batch_size=size).to_dict() == expected
        )
    order = random.permutation(1500)
    shuffled = kosa.score(
        labels[order], logits=logits[order], weight=weights[order], id=names[order], batch_size=64
    )
    moved = [{**row, "row": int(order[row["row"]])} for row in shuffled.to_dict()["worst"]]
    assert {**shuffled.to_dict(), "worst": moved} == expected


def test_states_of_different_data_do_not_merge() -> None:
    with pytest.raises(InputError, match="do not merge: `weighted` is False here and True there"):
        fresh(False).merge(fresh(True))
    with pytest.raises(InputError, match=r"`classes` is \('a', 'b', 'c', 'd'\) here and \('a',\) there"):
        fresh(False).merge(State(Setup(("a",), "logits")))


def test_merging_leaves_the_other_state_as_it_was() -> None:
    one, two = fresh(False), fresh(False)
    one.update(rows(5, 20, False, False))
    two.update(replace(rows(6, 20, False, False), first=20))
    before = figures(two)
    one.merge(two)
    one.update(replace(rows(7, 20, False, False), first=40))
    assert figures(two) == before


def test_no_rows_and_no_weight_have_no_figures() -> None:
    with pytest.raises(InputError, match="no rows: there is nothing to score"):
        figures(fresh(False))
    state = fresh(True)
    state.update(replace(rows(8, 3, True, False), weight=np.zeros(3)))
    with pytest.raises(InputError, match="the weights of all 3 rows are 0: a mean has no denominator"):
        figures(state)


@pytest.fixture(scope="module")
def score() -> Score:
    random = np.random.default_rng(9)
    names = ["<b>cat</b>", "[red]dog[/red]", "猫", "ant"]
    probs = random.dirichlet(np.ones(CLASSES), 40)
    probs[3] = [0.0, 1.0, 0.0, 0.0]
    labels = random.integers(0, CLASSES, 40)
    labels[3] = 0
    return kosa.score(labels, probs=probs, classes=names, id=np.array([f"<{n}>" for n in range(40)]))


def test_json_begins_with_the_promised_keys_and_is_valid(score: Score) -> None:
    found = json.loads(score.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert list(found)[:4] == ["rows", "cross_entropy", "bits", "perplexity"]
    assert found == score.to_dict()
    assert found["cross_entropy"] == found["perplexity"] == "inf"
    assert float(found["skill"]) == -math.inf
    assert found["standard_error"] == "nan"
    assert found["classes"][2]["name"] == "猫"
    assert found["worst"][0]["id"] == "<3>"
    assert score.to_json(ascii_only=True).isascii()


def test_text_shows_every_figure(score: Score) -> None:
    text = str(score)
    for shown in (
        "rows",
        "cross-entropy",
        "bits",
        "perplexity",
        "accuracy",
        "standard error",
        "skill",
        "猫",
        "<3>",
    ):
        assert shown in text
    assert "p clipped at float64 epsilon = 2.22e-16" in text


def test_notebook_html_escapes_the_data(score: Score) -> None:
    seen = set()

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            seen.add(tag)

    html = score._repr_html_()
    Tags().feed(html)
    assert not seen & {"b", "script", "html", "main"}
    assert {"div", "svg", "table"} <= seen
    assert "&lt;b&gt;cat&lt;/b&gt;" in html
    assert "&lt;3&gt;" in html


def test_rich_table_shows_brackets_as_they_are(score: Score) -> None:
    from rich.console import Console

    console = Console(width=100, file=io.StringIO())
    console.print(score)
    text = console.file.getvalue()
    for shown in ("[red]dog[/red]", "<b>cat</b>", "猫", "Worst rows", "Classes"):
        assert shown in text


def test_of_many_classes_the_worst_are_shown_and_all_are_kept() -> None:
    random = np.random.default_rng(10)
    score = kosa.score(random.integers(0, 50, 500), logits=random.standard_normal((500, 60)))
    assert len(score.to_dict()["classes"]) == 60
    text = str(score)
    assert "Classes: the worst 10 of 60" in text
    seen = sorted((entry for entry in score.classes if entry.rows), key=lambda entry: -entry.cross_entropy)
    table = text.split("Classes: the worst 10 of 60")[1].split("Worst rows")[0]
    assert [line.split()[0] for line in table.splitlines()[2:12]] == [entry.name for entry in seen[:10]]


def test_classes_without_rows_are_not_shown() -> None:
    text = str(kosa.score([0, 2], logits=np.zeros((2, 5))))
    assert "Classes: the 2 of 5 that have rows" in text


@pytest.mark.parametrize(
    ("missing", "wanted"), [("pyarrow", "kosa.score(PATH, 'y', logits='z*')"), ("rich", "score.__rich__()")]
)
def test_arrays_need_neither_pyarrow_nor_rich(missing: str, wanted: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("y,z0,z1\n0,1,2\n")
    code = f"""
import sys; sys.modules[{missing!r}] = None
import kosa
PATH = {str(tmp_path / "a.csv")!r}
score = kosa.score([1, 0], logits=[[0.0, 1.0], [1.0, 0.0]])
assert "cross-entropy" in str(score) and "<table" in score._repr_html_()
assert score == kosa.score([([1, 0], [[0.0, 1.0], [1.0, 0.0]])], logits=True)
try:
    {wanted}
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.endswith('pip install "kosa[score]"\n')
