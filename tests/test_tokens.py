"""Language models: documents, padding and batches do not change a figure; bits per byte; what is no token is refused."""

import json
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from test_against import command

import kosa
from kosa.scoring import InputError
from kosa.scoring.tokenreaders import TokenIds
from kosa.scoring.tokens import Tokens

LENGTHS = (5, 1, 0, 12, 3, 1, 40, 2, 7, 9)
TEXTS = [f"dé{'x' * length}" for length in LENGTHS]


@pytest.fixture(scope="module")
def documents():
    """Log-probabilities of tokens, a list a document; one document has none, one token is certain."""
    random = np.random.default_rng(5)
    found = [(-random.exponential(1.5, length)).tolist() for length in LENGTHS]
    found[3][2] = -0.0
    return found


def scored(table, **options):
    return kosa.score(table, token_log_probs="lp", **options)


def padded(lists, value, left=False, width=50):
    fill = [[value] * (width - len(entries)) for entries in lists]
    return [[*pad, *entries] if left else [*entries, *pad] for pad, entries in zip(fill, lists, strict=True)]


def figures(score):
    return {key: value for key, value in score.to_dict().items() if key != "rows"}


def test_values(documents):
    flat = -np.concatenate(documents)
    found = scored(
        pa.table({"lp": documents, "n": [len(text.encode()) for text in TEXTS]}), per={"bytes": "n"}
    )
    assert found.rows == len(flat)
    assert found.cross_entropy == pytest.approx(flat.mean(), rel=1e-13)
    assert found.perplexity == pytest.approx(math.exp(flat.mean()), rel=1e-12)
    # The empty document counts nowhere, its bytes included.
    total = sum(len(text.encode()) for text, length in zip(TEXTS, LENGTHS, strict=True) if length)
    assert found.per[0].units == total
    assert found.per[0].bits == pytest.approx(flat.sum() / math.log(2) / total, rel=1e-13)
    sums = np.array([sum(entries) + len(entries) * flat.mean() for entries in documents if entries])
    spread = (sums**2).sum() * len(sums) / (len(sums) - 1)
    assert found.standard_error == pytest.approx(math.sqrt(spread) / len(flat), rel=1e-11)
    assert (found.interval_over, found.clusters) == ("document", 9)
    assert [entry.name for entry in found.groups] == [str(at) for at, n in enumerate(LENGTHS) if n]


def test_figures_of_predictions_that_nobody_knows_are_not_made_up(documents):
    found = scored(pa.table({"lp": documents}))
    for value in (
        found.accuracy,
        found.brier,
        found.skill,
        found.calibration_error,
        found.groups[0].accuracy,
    ):
        assert math.isnan(value)
    assert (found.classes, found.bins, found.confusions) == ((), (), ())
    assert found.predictions == "token_log_probs"
    assert "accuracy" not in str(found)
    assert found.worst[0].predicted is None


@pytest.mark.parametrize("size", [None, 1, 3, 50])
@pytest.mark.parametrize(
    ("value", "padding"), [(None, "null"), (math.nan, "nan"), (1.0, 1), (-100.0, "-100"), (0.5, 0.5)]
)
@pytest.mark.parametrize("left", [False, True])
def test_padding_and_batch_size_change_nothing(documents, value, padding, left, size, tmp_path):
    columns = {"n": [len(text) for text in TEXTS], "name": TEXTS, "w": np.arange(1.0, 11.0)}
    options = {"per": {"bytes": "n"}, "id": "name", "weight": "w"}
    plain = scored(pa.table({"lp": documents, **columns}), **options)
    pq.write_table(
        pa.table({"lp": pa.array(padded(documents, value, left), pa.list_(pa.float64())), **columns}),
        tmp_path / "p.parquet",
        row_group_size=4,
    )
    found = scored(tmp_path / "p.parquet", padding=padding, batch_size=size, **options)
    assert found.to_dict() == plain.to_dict()
    assert found.worst[0].id.startswith("dé")


def test_a_mask_says_the_same_as_padding(documents):
    mask = [[1] * len(entries) + [0] * (50 - len(entries)) for entries in documents]
    lists = padded(documents, 0.0)
    plain = scored(pa.table({"lp": documents})).to_dict()
    assert scored(pa.table({"lp": lists, "m": mask}), mask="m").to_dict() == plain
    assert scored(pa.table({"lp": lists, "m": np.array(mask, bool).tolist()}), mask="m").to_dict() == plain
    assert kosa.score(np.array(lists), token_log_probs=True, mask=np.array(mask)).to_dict() == plain
    assert scored({"lp": np.array(lists), "m": np.array(mask)}, mask="m").to_dict() == plain


def test_one_token_a_row_gives_the_same_figures(documents, tmp_path):
    document = np.repeat(np.arange(10), LENGTHS)
    flat = np.concatenate(documents)
    starts = np.cumsum([0, *LENGTHS[:-1]])
    units = np.zeros(len(flat))
    units[starts[np.array(LENGTHS) > 0]] = np.array([len(text) for text in TEXTS])[np.array(LENGTHS) > 0]
    lists = scored(
        pa.table({"lp": documents, "n": [len(text) for text in TEXTS]}), per={"bytes": "n"}, worst=0
    )
    columns = {"lp": flat, "document": document, "n": units}
    options = {"group": "document", "per": {"bytes": "n"}, "worst": 0}
    assert scored(pa.table(columns), **options).to_dict() == lists.to_dict()
    pa.csv.write_csv(pa.table(columns), tmp_path / "t.csv")
    assert scored(tmp_path / "t.csv", **options).to_dict() == lists.to_dict()
    alone = kosa.score(flat, token_log_probs=True, group=document, per={"bytes": units}, worst=0)
    assert alone.cross_entropy == lists.cross_entropy
    assert alone.per == lists.per


def test_padded_rows_keep_their_numbers(documents):
    flat = np.concatenate(documents)
    holes = np.insert(flat, [0, 5, 40], math.nan)
    plain, found = scored({"lp": flat}), scored({"lp": holes}, padding="nan")
    assert (found.rows, found.weight) == (len(flat) + 3, len(flat))
    assert found.cross_entropy == plain.cross_entropy
    assert found.standard_error == plain.standard_error
    assert [row.row for row in found.worst] == [
        int(np.flatnonzero(holes == -row.loss)[0]) for row in found.worst
    ]


def test_a_kept_state_goes_on_only_with_the_same_padding_and_weights(tmp_path):
    table = {"lp": [-1.0, -2.0, -3.0], "w": [1.0, 2.0, 3.0], "v": [3.0, 2.0, 1.0]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    options = {"padding": -1, "weight": "w", "state": tmp_path / "t.state"}
    found = scored(tmp_path / "t.parquet", **options)
    assert found.cross_entropy == pytest.approx((2 * 2 + 3 * 3) / 5)
    assert scored(tmp_path / "t.parquet", **options) == found
    for other in ({"padding": -2}, {"weight": "v"}):
        with pytest.raises(InputError, match=r"is a state of another run: options"):
            scored(tmp_path / "t.parquet", **options | other)


def test_two_processes_give_the_same_figures(documents, tmp_path):
    flat = np.insert(np.concatenate(documents), [0, 30], math.nan)
    pq.write_table(
        pa.table({"lp": flat, "g": np.arange(len(flat)) // 9}), tmp_path / "t.parquet", row_group_size=20
    )
    options = {"padding": "nan", "group": "g"}
    alone = scored(tmp_path / "t.parquet", **options)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
        assert scored(tmp_path / "t.parquet", executor=executor, **options) == alone


def test_documents_are_numbered_over_all_files(documents, tmp_path):
    for name, part in (("a", documents[:4]), ("b", documents[4:])):
        pq.write_table(pa.table({"lp": pa.array(part, pa.list_(pa.float64()))}), tmp_path / f"{name}.parquet")
    found = scored([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert found.to_dict() == scored(pa.table({"lp": documents})).to_dict()


@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_text_is_counted_in_its_bytes_or_characters(documents, kind):
    table = pa.table({"lp": documents, "text": pa.array(TEXTS, kind)})
    there = [text for text, length in zip(TEXTS, LENGTHS, strict=True) if length]
    found = scored(table, per={"bytes": "text", "characters": "text", "tokens": None})
    assert [unit.units for unit in found.per] == [
        len("".join(there).encode()),
        len("".join(there)),
        sum(LENGTHS),
    ]
    with pytest.raises(
        InputError, match="'words' is given by a column of text, of which only bytes and characters"
    ):
        scored(table, per={"words": "text"})


def test_logits_of_documents_are_those_of_their_tokens(documents):
    random = np.random.default_rng(6)
    logits = [random.standard_normal((length, 11)).tolist() for length in LENGTHS]
    targets = [random.integers(0, 11, length).tolist() for length in LENGTHS]
    kind = pa.list_(pa.list_(pa.float32()))
    table = pa.table({"z": pa.array(logits, kind), "t": pa.array(targets, pa.list_(pa.int64()))})
    found = kosa.score(table, "t", logits="z", documents=True, batch_size=4)
    flat = np.array([row for entries in logits for row in entries], dtype=np.float32)
    plain = kosa.score(np.concatenate(targets).astype(int), logits=flat)
    assert found.cross_entropy == plain.cross_entropy
    assert found.accuracy == plain.accuracy
    assert found.clusters == 9
    wide = padded(targets, -100)
    z = pa.array(padded(logits, [math.nan] * 11), kind)
    table = pa.table({"z": z, "t": pa.array(wide, pa.list_(pa.int64()))})
    again = kosa.score(table, "t", logits="z", documents=True, padding=-100, batch_size=7)
    assert again.to_dict() == found.to_dict()


def test_padded_targets_of_rows_do_not_count():
    random = np.random.default_rng(8)
    logits, target = random.standard_normal((30, 5)), random.integers(0, 5, 30)
    holes = np.where(np.arange(30) % 4 == 0, -100, target)
    found = kosa.score({"z": logits, "t": holes}, "t", logits="z", padding=-100)
    kept = holes >= 0
    assert found.cross_entropy == kosa.score(target[kept], logits=logits[kept]).cross_entropy
    nulls = pa.array(target.tolist(), mask=~kept)
    table = pa.table({"t": nulls, **{f"z{k}": logits[:, k] for k in range(5)}})
    assert (
        figures(kosa.score(table, "t", logits="z*", padding="null"))["cross_entropy"] == found.cross_entropy
    )
    weight = random.random(30)
    weighed = kosa.score({"z": logits, "t": holes, "w": weight}, "t", logits="z", padding=-100, weight="w")
    assert weighed.weight == pytest.approx(weight[kept].sum())


REFUSED = {
    "positive": (
        {"lp": [[-1.0, -2.0], [-1.0, 0.5]]},
        {},
        r"token 1 of row 1 \(from 0\) of 'Table': `token_log_probs` hold 0.5, but no log-probability is positive",
    ),
    "positive row": ({"lp": [-1.0, 2.5]}, {}, r"row 1 \(from 0\) of 'Table': `token_log_probs` hold 2.5"),
    "NaN": (
        {"lp": [-1.0, math.nan]},
        {},
        r"row 1 .* hold NaN; where that marks padding, say so: `padding` nan",
    ),
    "null": ({"lp": [-1.0, None]}, {}, r"row 1 .* column 'lp' is null"),
    "null in a list": (
        {"lp": [[-1.0], [None]]},
        {"padding": "nan"},
        r"token 0 of row 1 .* is null; .* `padding` null",
    ),
    "no such column": (
        {"x": [-1.0]},
        {},
        r"no column 'lp' for `token_log_probs`; name the one column of tokens",
    ),
    "no such mask": ({"lp": [-1.0]}, {"mask": "m"}, r"has no column 'm' for `mask`"),
    "padding": ({"lp": [-1.0]}, {"padding": "none"}, r"`padding` is 'none', expected a number, nan or null"),
    "lengths": (
        {"lp": [[-1.0], [-1.0, -2.0]], "m": [[1], [1]]},
        {"mask": "m"},
        r"row 1 .* column 'm' has 1 entries, 'lp' has 2",
    ),
    "no token": ({"lp": [[1.0], [1.0]]}, {"padding": 1}, r"no rows: there is nothing to score"),
    "top-k": ({"lp": [-1.0]}, {"top_k": 5}, r"`top_k` needs the predictions of all classes"),
    "documents of numbers": (
        {"lp": [-1.0]},
        {"documents": True},
        r"`documents`: a column of tokens holds lists",
    ),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_is_no_token_is_refused(case):
    columns, options, match = REFUSED[case]
    with pytest.raises(InputError, match=match):
        scored(pa.table(columns), **options)


def test_rounding_may_leave_a_log_probability_above_0_and_force_takes_anything():
    small = scored({"lp": np.array([-1.0, 1e-6], dtype=np.float32)})
    assert small.cross_entropy == pytest.approx(0.5, rel=1e-5)
    assert scored({"lp": np.array([-1.0, 3.0])}, force=True).cross_entropy == -1.0
    assert math.isnan(scored({"lp": np.array([-1.0, math.nan])}, force=True).cross_entropy)
    small.to_html()


def test_options_of_columns_need_columns():
    with pytest.raises(InputError, match="`documents`, `padding` and `mask` are of files and tables"):
        kosa.score([0, 1], logits=np.zeros((2, 2)), padding=1)
    assert Tokens.of(False, None, None) == Tokens()
    assert not Tokens().pads


def test_names_of_tokens_are_made_when_asked_for():
    ids = TokenIds(np.array([0, 0, 2]), np.array([0, 1, 0]), 7, None)
    assert [ids[at] for at in range(len(ids))] == ["7:0", "7:1", "9:0"]
    assert ids[1:].same(TokenIds(np.array([1, 3]), np.array([1, 0]), 6, None))
    assert not ids.same(TokenIds(np.array([0, 0, 3]), np.array([0, 1, 0]), 7, None))
    assert TokenIds(np.array([1]), np.array([4]), 0, pa.array(["a", "b"]))[0] == "b:4"


def test_models_of_one_tokenizer_are_compared_token_by_token(documents):
    other = [[value - 0.25 for value in entries] for entries in documents]
    found = scored(pa.table({"lp": documents}), against=pa.table({"lp": other})).against
    assert found.difference == pytest.approx(-0.25, rel=1e-12)
    assert (found.wins, found.clusters) == (1.0, 9)
    with pytest.raises(InputError, match=r"has the id '0:4', but .* '1:0'"):
        scored(pa.table({"lp": documents}), against=pa.table({"lp": [documents[0][:4], *documents[1:]]}))
    with pytest.raises(InputError, match=r"holds a token, but .* is padding"):
        scored({"lp": np.array([-1.0, -2.0])}, against={"lp": np.array([-1.0, math.nan])}, padding="nan")


def test_two_models_in_one_file(documents, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    other = [[value - 0.25 for value in entries] for entries in documents]
    pq.write_table(pa.table({"lp": documents, "lq": other}), "lm.parquet")
    words = "score lm.parquet --token-log-probs lp --against lm.parquet --against-token-log-probs lq --json -"
    status, out, err = command(monkeypatch, capsys, words)
    assert (status, err) == (0, "")
    assert json.loads(out)["against"]["difference"] == pytest.approx(-0.25, rel=1e-12)


def test_the_command_line(documents, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lists = pa.array(padded(documents, None), pa.list_(pa.float64()))
    pq.write_table(pa.table({"lp": lists, "text": TEXTS}), "lm.parquet")
    words = "score lm.parquet --token-log-probs lp --padding null --per bytes=text"
    status, out, err = command(monkeypatch, capsys, f"{words} --json - --report out.html")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["rows"] == sum(LENGTHS)
    assert found["accuracy"] == "nan"
    assert found["per"][0]["unit"] == "bytes"
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "A token costs" in page
    assert "Bits per byte" in page
    status, out, _ = command(monkeypatch, capsys, words)
    assert status == 0
    assert "by bytes" in out
    assert "nan" not in out
    status, _, err = command(monkeypatch, capsys, "score lm.parquet --token-log-probs text")
    assert status == 2
    assert "expected numbers" in err


PADDED = ["cat", "eel", "-100", "dog", "-100.0"]


@pytest.mark.parametrize("form", ["csv", "string", "large_string", "dictionary", "array"])
def test_padding_is_known_in_text_too(form, tmp_path):
    """As CSV has it, and beside names of classes."""
    logits = np.random.default_rng(3).standard_normal((5, 3))
    columns = {f"z_{name}": logits[:, k] for k, name in enumerate(("cat", "dog", "eel"))}
    kept, options = [0, 1, 3], {"logits": "z*", "padding": -100}
    expected = kosa.score([0, 2, 1], logits=logits[kept]).cross_entropy
    if form == "csv":
        pa.csv.write_csv(pa.table({"y": [0, 2, -100, 1, -100], **columns}), tmp_path / "a.csv")
        found = kosa.score(tmp_path / "a.csv", "y", **options)
    elif form == "array":
        found = kosa.score({"y": np.array(PADDED), **columns}, "y", **options)
    else:
        labels = pa.array(PADDED).dictionary_encode() if form == "dictionary" else pa.array(PADDED, form)
        found = kosa.score(pa.table({"y": labels, **columns}), "y", **options)
    assert (found.cross_entropy, found.rows, found.weight) == (expected, 5, 3)


def test_a_mask_covers_any_target():
    logits = np.random.default_rng(3).standard_normal((4, 3))
    columns = {f"z_{name}": logits[:, k] for k, name in enumerate(("cat", "dog", "eel"))}
    kept, options = [0, 3], {"logits": "z*", "mask": "m"}
    expected = kosa.score([0, 1], logits=logits[kept]).cross_entropy
    for labels in (
        pa.array(["cat", "?", None, "dog"]),
        pa.array(["cat", "?", None, "dog"]).dictionary_encode(),
        pa.array([0, -100, None, 1]),
    ):
        table = pa.table({"y": labels, "m": [1, 0, 0, 1], **columns})
        assert kosa.score(table, "y", **options).cross_entropy == expected
    soft = pa.array([[1.0, 0, 0], [math.nan] * 3, [5.0, 5, 5], [0.0, 1, 0]])
    table = pa.table({"y": soft, "m": [1, 0, 0, 1], **columns})
    assert kosa.score(table, "y", **options).cross_entropy == pytest.approx(expected, rel=1e-14)
    with pytest.raises(
        InputError, match="`padding` is a value of labels, and these targets are distributions"
    ):
        kosa.score(table, "y", logits="z*", padding=-100)
    with pytest.raises(InputError, match=r"row 1 \(from 0\) of 'Table': `mask` is NaN; expected 0 or 1"):
        scored(pa.table({"lp": [-1.0, -2.0], "m": [1.0, math.nan]}), mask="m")


@pytest.mark.parametrize("label", [-100, 7, "?"])
def test_rows_of_weight_0_may_have_any_target(label):
    probs = np.array([[0.9, 0.1], [0.5, 0.5]])
    one = kosa.score([0], probs=probs[:1])
    first = "0" if isinstance(label, str) else 0
    found = kosa.score([first, label], probs=probs, weight=[1, 0], classes=["0", "1"])
    assert found.cross_entropy == one.cross_entropy
    assert [row.rows for row in found.classes] == [1, 0]
    units = kosa.score([0, 0], probs=probs, weight=[1, 0], per={"u": [3.0, math.nan]})
    assert units.per[0].units == 3
    if not isinstance(label, str):
        binary = kosa.score([0.0, float(label)], probs=probs[:, 1], weight=[1, 0])
        assert binary.cross_entropy == pytest.approx(one.cross_entropy, rel=1e-15)
    with pytest.raises(InputError, match=r"row 1 \(from 0\)"):
        kosa.score([first, label], probs=probs, weight=[1, 1], classes=["0", "1"])
