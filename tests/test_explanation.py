"""What `kosa.explain` shows: its code runs, its numbers are right, and every console can print it."""

import contextlib
import doctest
import io
import json
import re
import string
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

import kosa
from kosa import definition
from kosa.explanation import api, explain_product
from kosa.explanation.parts import chosen, gaps, numerals
from kosa.explanation.text import STAND_INS
from kosa.explanation.words import sentences

INF = np.inf
RNG = np.random.default_rng(0)
MANY = 3 * RNG.normal(size=(20, 30))
MANY_TARGETS = RNG.integers(0, 30, 20)

# Each a way in which the steps differ: the kind, a row or a batch, indices, zeros, shapes, sizes, extremes.
CASES = {
    "one-hot": ([0, 1, 0], {"probs": [0.2, 0.7, 0.1]}),
    "soft": ([0.25, 0.75], {"probs": [0.5, 0.5]}),
    "index": (1, {"probs": [0.2, 0.7, 0.1]}),
    "row of a matrix": ([[0, 1, 0]], {"probs": [[0.2, 0.7, 0.1]]}),
    "zero beside the target": ([0, 1, 0], {"probs": [0, 1, 0]}),
    "zero at the target": ([1, 0], {"probs": [0, 1]}),
    "not normalised": ([0, 2, 0.5], {"probs": [0.2, 0.9, 0.4]}),
    "one class": (0, {"probs": [0.5]}),
    "log-probabilities": ([0, 1], {"log_probs": [-1.5, -0.25]}),
    "masked log-probabilities": (1, {"log_probs": [-INF, 0]}),
    "logits": (2, {"logits": [1, 3, 0.5]}),
    "soft logits": ([0.5, 0.25, 0.125], {"logits": [1, 3, 0.5]}),
    "masked logits": (0, {"logits": [1, -INF, 2]}),
    "target on a masked class": (1, {"logits": [1, -INF, 2]}),
    "confident logits": (0, {"logits": [100, 0, -3]}),
    "huge logits": (1, {"logits": [1e9, 0]}),
    "wide row": (3, {"logits": [0.5 * k for k in range(12)]}),
    "long row": (500, {"logits": 3 * RNG.normal(size=1000)}),
    "batch": ([[0, 1, 0], [0.5, 0, 0.5]], {"probs": [[0.2, 0.7, 0.1], [0.3, 0.3, 0.4]]}),
    "batch of indices": ([1, 0], {"logits": [[1, 3, 0.5], [2, 0, 1]]}),
    "square batch": ([1, 0], {"probs": [[0.5, 0.5], [0.25, 0.75]]}),
    "batch with zeros": ([[0.5, 0.5, 0], [0, 0, 1]], {"probs": [[0.2, 0.8, 0], [0.5, 0.5, 0]]}),
    "batch of log-probabilities": ([0, 1], {"log_probs": [[-0.5, -1, -2], [-INF, 0, -INF]]}),
    "masked batch": ([0, 2], {"logits": [[1, -INF, 2], [0, 1, 2]]}),
    "long batch": (MANY_TARGETS, {"logits": MANY}),
    "long batch of probabilities": (MANY_TARGETS, {"probs": definition.softmax(MANY)}),
}
LANGS = ("en", "ja")


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return CASES[request.param]


def wide(text):
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def test_the_code_of_each_step_runs_in_order_and_gives_its_numbers(case):
    targets, given = case
    namespace = {"targets": targets, **given}
    for step in kosa.explain(targets, **given).steps:
        exec(step.code, namespace)
        for name, value in step.values.items():
            tolerance = {"rtol": 1e-12, "atol": 0}
            if name == "gradient":
                tolerance["atol"] = 1e-16  # y − t cancels where the definition keeps −R/(1+R)
            if name == "differences":
                # They end in the rounding of E over h: of 1e-15·10 over 1e-5, or of 1e-16·1e9.
                tolerance["atol"] = 1e-2 if np.abs(given["logits"]).max() == 1e9 else 1e-8
            np.testing.assert_allclose(namespace[name], value, **tolerance, err_msg=f"{step.name}: {name}")
            assert np.shape(namespace[name]) == np.shape(value), (step.name, name)


@pytest.mark.parametrize("lang", LANGS)
def test_the_lines_at_the_left_margin_of_the_text_are_the_code(case, lang):
    targets, given = case
    explanation = kosa.explain(targets, lang=lang, **given)
    printed = [line for line in explanation.to_text().splitlines() if line and not line.startswith(" ")]
    assert printed == [line for step in explanation.steps if step.code for line in step.code.split("\n")]


def test_the_loss_is_that_of_the_definition(case):
    targets, given = case
    ((kind, predictions),) = given.items()
    predictions = np.asarray(predictions, float)
    t = np.asarray(targets)
    if t.shape == predictions.shape:
        t = t.astype(float)
    losses = np.atleast_1d(definition.loss(t, **{kind: predictions}, reduction="none"))
    explanation = kosa.explain(targets, **given)
    assert explanation.losses.tolist() == losses.tolist()
    assert explanation.loss == losses.mean()
    assert f"{losses.mean():.6g} nats = {losses.mean() / np.log(2):.6g} bits" in explanation.to_text()


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"probs": [0.2, 0.8]}, "targets probs log shapes transpose product terms result outer"),
        ({"log_probs": [-1, -0.5]}, "targets log probs shapes transpose product terms result outer"),
        (
            {"logits": [1, 2]},
            "targets logits softmax log shapes transpose product terms result outer gradient differences",
        ),
    ],
)
def test_the_steps_come_in_the_order_of_the_text(given, names):
    assert [step.name for step in kosa.explain(1, **given).steps] == names.split()


def test_each_step_of_one_row_shows_what_it_is():
    text = kosa.explain([0, 1, 0], probs=[0.2, 0.7, 0.1]).to_text()
    for line in (
        "    t = [ 0  1  0 ]    1×3",
        "    y = [ 0.2  0.7  0.1 ]    1×3",
        "    log y = [ -1.609438  -0.356675  -2.302585 ]    1×3",
        "    t·log y: 1×3 · 1×3    3 ≠ 1",
        "    (log y)ᵀ = ⎢ -0.356675 ⎥    3×1",
        "    1×3 · 3×1 = 1×1",
        "    t·(log y)ᵀ = [ 0  1  0 ] · ⎢ -0.356675 ⎥ = [ -0.356675 ]    1×3 · 3×1 = 1×1",
        "    k  t_k  y_k    log y_k  t_k log y_k",
        "    1    1  0.7  -0.356675    -0.356675",
        "    Σ                         -0.356675",
        "    E = 0.356675 nats = 0.514573 bits",
        "    tᵀ·log y = ⎢ -1.609438   -0.356675*  -2.302585  ⎥    3×3",
    ):
        assert line in text.splitlines(), line


def test_the_products_of_a_batch_are_all_pairs_with_the_losses_on_the_diagonal():
    rng = np.random.default_rng(1)
    t, y = rng.dirichlet(np.ones(3), 4), rng.dirichlet(np.ones(3), 4)
    explanation = kosa.explain(t, probs=y)
    product = next(step for step in explanation.steps if step.name == "product")
    np.testing.assert_allclose(product.values["product"], -t @ np.log(y).T, rtol=1e-13)
    np.testing.assert_allclose(product.values["diagonal"], explanation.losses, rtol=1e-13)
    (equation,) = product.shown
    assert equation.parts[1].marked == {(n, n) for n in range(4)}
    assert "4 numbers of 16" in product.text[0]


def test_zero_times_log_zero_is_spelled_out_and_all_pairs_still_see_infinity():
    steps = {s.name: s for s in kosa.explain([[1, 0], [0, 1]], probs=[[1, 0], [0.5, 0.5]]).steps}
    assert "0·log 0" not in steps["log"].code
    assert "np.where(T == 0, 0, log_Y)" in steps["log"].code
    assert steps["product"].values["product"].tolist() == [[0, -np.log(0.5)], [INF, -np.log(0.5)]]


def test_the_outer_product_is_every_target_times_every_logarithm():
    t, y = [0.25, 0.75], [0.5, 0.125]
    outer = kosa.explain(t, probs=y).steps[-1]
    assert outer.name == "outer"
    np.testing.assert_allclose(outer.values["outer"], np.outer(t, np.log(y)), rtol=1e-15)


def test_the_gradient_is_y_minus_t_and_agrees_with_the_differences():
    rng = np.random.default_rng(2)
    z, t = rng.normal(size=(3, 4)), rng.dirichlet(np.ones(4), 3)
    gradient, differences = kosa.explain(t, logits=z).steps[-2:]
    np.testing.assert_allclose(gradient.values["gradient"], definition.softmax(z) - t, rtol=1e-12)
    np.testing.assert_allclose(differences.values["differences"], definition.softmax(z) - t, atol=1e-9)
    assert "less than 1e-" in differences.notes[0]


def test_differences_that_cannot_resolve_the_logits_are_not_called_agreement():
    note = kosa.explain([0.5, 0.5], logits=[1e9, 1e9 + 1]).steps[-1].notes[0]
    assert "cannot resolve" in note
    assert "the loss is infinite" in kosa.explain(1, logits=[0, -INF]).steps[-1].text[0]


@pytest.mark.parametrize("lang", LANGS)
def test_the_shape_rule_says_which_sentence_of_the_first_text_is_wrong(lang):
    for explanation in (
        kosa.explain(1, probs=[0.5, 0.5], lang=lang),
        explain_product([[1]], [[2]], lang=lang),
    ):
        step = next(step for step in explanation.steps if step.name == "shapes")
        (note,) = step.notes
        assert (
            "rows of the left = columns of the right" if lang == "en" else "左の行の数 = 右の列の数"
        ) in note
        assert (
            "columns of the left = rows of the right" if lang == "en" else "左の列の数 = 右の行の数"
        ) in note


def test_a_batch_with_as_many_rows_as_classes_fits_by_accident():
    step = next(s for s in kosa.explain([0, 1], probs=[[0.5, 0.5], [0.1, 0.9]]).steps if s.name == "shapes")
    assert step.title == "Do the shapes fit? By accident"
    assert step.values["fits"]


def test_a_long_row_is_elided_says_so_and_keeps_the_class_that_counts():
    explanation = kosa.explain(500, logits=3 * np.random.default_rng(3).normal(size=1000))
    text = explanation.to_text(width=80)
    assert "Not all of the 1×1000 numbers are shown: … stands for the rest." in text.replace("\n    ", " ")
    assert max(len(line) for line in text.splitlines() if line.startswith(" ")) <= 80
    assert re.search(r"^    500    1  .*-\d", text, re.MULTILINE)
    assert len(text.splitlines()) < 250
    assert len(explanation.to_html()) < 60_000
    assert "stands for the rest" not in kosa.explain(0, probs=np.full(12, 1 / 12)).to_text()
    assert "stands for the rest" in kosa.explain(0, probs=np.full(13, 1 / 13)).to_text()


def test_a_vocabulary_needs_no_square_of_itself():
    z = np.zeros(100_000)
    outer = kosa.explain(5, logits=z).steps[-3]
    assert outer.name == "outer"
    assert outer.values["outer"].size < 200


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("lang", LANGS)
def test_text_keeps_to_its_width(case, lang, width):
    targets, given = case
    for line in kosa.explain(targets, lang=lang, **given).to_text(width=width).splitlines():
        # Closing signs of Japanese may hang one character over.
        assert wide(line) <= width + (2 if lang == "ja" else 0) or not line.startswith(" "), line


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp932", "euc_jp", "cp437"])
@pytest.mark.parametrize("lang", LANGS)
def test_every_encoding_can_show_it(case, lang, encoding):
    targets, given = case
    explanation = kosa.explain(targets, lang=lang, **given)
    text = explanation.to_text(encoding=encoding)
    assert text.encode(encoding)
    japanese = encoding in ("cp932", "euc_jp") and lang == "ja"
    assert ("交差エントロピー" in text) == japanese
    same = explanation if japanese or lang == "en" else kosa.explain(targets, **given)
    assert text.count("?") == same.to_text().count("?"), "a sign has no stand-in"


def test_ascii_columns_still_line_up():
    text = kosa.explain([0.5, 0.5], probs=[0.5, 0.25]).to_text(encoding="ascii")
    assert "    t*(log y)^T = [ 0.5  0.5 ] * [ -0.693147 ] = [ -1.039721 ]    1x2 * 2x1 = 1x1" in text
    assert all(sign.isascii() for sign in "".join(STAND_INS.values()))


def test_print_shows_the_text_in_the_signs_of_stdout():
    explanation = kosa.explain(0, probs=[0.5, 0.5])
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with contextlib.redirect_stdout(stream):
        print(explanation)
    stream.flush()
    assert b"(log y)^T" in stream.buffer.getvalue()
    assert repr(explanation) == "<kosa.Explanation: 9 steps, 0.693147 nats>"


def test_both_languages_have_every_sentence_with_the_same_places_and_formulas_closed():
    for name, words in sentences().items():
        assert set(words) == set(LANGS), name
        places = [
            {field for _, field, _, _ in string.Formatter().parse(words[lang]) if field} for lang in LANGS
        ]
        assert places[0] == places[1], name
        assert all(words[lang].count("$") % 2 == 0 for lang in LANGS), name
        assert re.search(r"[぀-ヿ一-鿿]", words["ja"]), name


def test_japanese_is_japanese_throughout(case):
    targets, given = case
    text = kosa.explain(targets, lang="ja", **given).to_text(width=10_000)
    words = [line for line in text.splitlines() if line.startswith(" ")]
    english = set(re.findall(r"[A-Za-z]{4,}", " ".join(words)))
    assert english <= {
        "NumPy",
        "Kosa",
        "softmax",
        "outer",
        "product",
        "float",
        "targets",
        "logits",
        "probs",
        "log_probs",
    }
    for term in ("行ベクトル", "列ベクトル", "転置", "内積", "交差エントロピー"):
        assert term in text


class _Page(HTMLParser):
    """Collects tags and sees whether they close."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "mspace"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("lang", LANGS)
def test_html_is_one_file_that_fetches_nothing(case, lang):
    targets, given = case
    html = kosa.explain(targets, lang=lang, **given).to_html()
    page = _Page()
    page.feed(html)
    assert page.open == []
    tags = {tag for tag, _ in page.seen}
    assert not tags & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"https?:|url\(|@import| src=| href=|javascript:", html)
    assert f'<html lang="{lang}">' in html
    assert "$" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    formulas = re.findall(r"<math.*?</math>", html)
    assert len(formulas) > 10
    for formula in formulas:
        ElementTree.fromstring(formula)


def test_mathml_says_what_the_notation_means():
    html = kosa.explain(1, probs=[0.5, 1e-9]).to_html()
    assert "<msub><mi>t</mi><mrow><mi>k</mi></mrow></msub>" in html
    closed = '<mrow><mo>(</mo><mi>log</mi><mspace width="0.17em"/><mi>y</mi><mo>)</mo></mrow>'
    assert f'<msup>{closed}<mi mathvariant="normal">T</mi></msup>' in html
    assert "<mn>1</mn><mo>×</mo><msup><mn>10</mn><mn>−9</mn></msup>" in html
    assert "<mo>−</mo><mn>20.723266</mn>" in html
    assert "<mi>∞</mi>" in kosa.explain(0, probs=[0, 1]).to_html()


def test_notebooks_get_a_fragment_of_the_same_page():
    explanation = kosa.explain(1, probs=[0.5, 0.5])
    fragment = explanation._repr_html_()
    assert fragment.startswith('<div class="kosa"')
    assert fragment in explanation.to_html()
    assert "<html" not in fragment
    rules = re.sub(
        r"/\*.*?\*/", "", re.search(r"<style>(.*?)</style>", fragment, re.DOTALL)[1], flags=re.DOTALL
    )
    selectors = [part for part in re.findall(r"([^{};]+)\{", rules) if not part.strip().startswith("@")]
    assert selectors
    assert all(one.strip().startswith(".kosa") for part in selectors for one in part.split(","))


def test_json_has_each_number_and_names_infinity():
    given = json.loads(json.dumps(kosa.explain([1, 0], probs=[0, 1]).to_dict(), allow_nan=False))
    assert list(given)[:4] == ["rows", "cross_entropy", "bits", "perplexity"]
    assert given["cross_entropy"] == given["perplexity"] == "inf"
    assert float(given["steps"][2]["values"]["log_y"][0][0]) == -INF
    assert json.dumps(kosa.explain(0, probs=[1.0, 0.0]).to_dict()["cross_entropy"]) == "0.0"


def test_later_changes_to_the_callers_array_change_nothing():
    y = np.array([0.5, 0.5])
    explanation = kosa.explain(0, probs=y)
    y[:] = 0.1
    assert "[ 0.5  0.5 ]" in explanation.to_text()


def test_a_product_is_shown_cell_by_cell():
    explanation = explain_product([[1, 2, 3], [4, 5, 6]], [[7, 8], [9, 10], [11, 12]])
    assert explanation.product.tolist() == [[58, 64], [139, 154]]
    text = explanation.to_text()
    assert "    c_12  =  1·8 + 2·10 + 3·12  =   64" in text
    assert "2×3 · 3×2 = 2×2" in text
    namespace = {}
    for step in explanation.steps:
        exec(step.code, namespace)
        for name, value in step.values.items():
            np.testing.assert_array_equal(namespace[name], value)
    assert "c_{12}" not in explanation.to_html()
    assert repr(explanation) == "<kosa.ProductExplanation: 2×2>"
    assert explanation.to_dict()["product"] == [[58, 64], [139, 154]]


def test_a_product_of_negative_numbers_and_many_cells_stays_readable():
    text = explain_product(-np.ones((20, 20)), np.ones((20, 15))).to_text(width=80)
    assert "(-1)·1 + (-1)·1 + (-1)·1 + … + (-1)·1 + (-1)·1" in text
    assert "c_1,15" in text
    assert len(text.splitlines()) < 250


@pytest.mark.parametrize(
    ("left", "right", "remedy"),
    [
        ([1, 2, 3], [4, 5, 6], 'Transpose the right one to 3×1: kosa explain --dot "1 2 3" "4; 5; 6"'),
        (
            [[1, 2]] * 3,
            [[3]] * 3,
            'Transpose the left one to 2×3: kosa explain --dot "1 1 1; 2 2 2" "3; 3; 3"',
        ),
        ([[1, 2]], [[1, 2, 3]] * 4, r"columns of the left (2) must equal the rows of the right (4)."),
    ],
)
def test_shapes_that_do_not_multiply_come_with_a_remedy(left, right, remedy):
    with pytest.raises(ValueError, match=re.escape(remedy) + "$"):
        explain_product(left, right)


@pytest.mark.parametrize(
    ("targets", "given", "error", "message"),
    [
        (0, {}, ValueError, "exactly one of `probs`, `logits` and `log_probs`, not 0"),
        (0, {"probs": [1], "logits": [1]}, ValueError, "not 2"),
        (0, {"probs": [0.5, -0.5]}, ValueError, r"row 0, class 1 is -0.5. Logits are passed as `logits`"),
        (0, {"probs": [0.5, np.nan]}, ValueError, r"`probs` must be finite and not negative, .* is nan\.$"),
        (
            0,
            {"logits": [0.5, INF]},
            ValueError,
            "`logits` must be numbers below infinity, but row 0, class 1 is inf",
        ),
        ([0, 0], {"logits": [[1, 2], [-INF, -INF]]}, ValueError, "a row that is -inf throughout"),
        (0, {"probs": [[[1.0]]]}, ValueError, r"K numbers, or N×K for a batch, but has shape \(1, 1, 1\)"),
        (0, {"probs": []}, ValueError, r"but has shape \(0,\)"),
        (0, {"probs": [[1], [1, 2]]}, ValueError, "`probs` must be numbers, in rows of one length"),
        ([[1], [1, 0]], {"probs": [[0.5, 0.5]] * 2}, ValueError, "`targets` must be in rows of one length"),
        (0, {"probs": ["a", "b"]}, ValueError, "`probs` must be numbers"),
        (
            [0, -1],
            {"probs": [0.5, 0.5]},
            ValueError,
            "`targets` must be finite and not negative, but row 0, class 1",
        ),
        ([0, 1, 0], {"probs": [0.5, 0.5]}, ValueError, r"`targets` has shape \(3,\) and `probs` \(2,\)"),
        (2, {"probs": [0.5, 0.5]}, IndexError, "class indices 0 to 1, but row 0 is 2"),
        (-100, {"probs": [0.5, 0.5]}, IndexError, "class indices 0 to 1, but row 0 is -100"),
        (1.0, {"probs": [0.5, 0.5]}, TypeError, "integers, not float64"),
        (1, {"probs": [0.5, 0.5], "lang": "fr"}, ValueError, "`lang` must be 'en' or 'ja', not 'fr'"),
    ],
)
def test_what_cannot_be_explained_is_refused(targets, given, error, message):
    with pytest.raises(error, match=message):
        kosa.explain(targets, **given)


def test_core_dependencies_suffice():
    absent = ("rich", "jinja2", "click", "numba", "scipy", "pyarrow")
    program = f"""import sys
for name in {absent}: sys.modules[name] = None
import kosa
explanation = kosa.explain(1, logits=[1, 2])
print(len(explanation.to_text()), len(explanation.to_html()))"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert all(int(size) > 1000 for size in done.stdout.split())


def test_the_example_of_the_docstring_runs():
    outcome = doctest.testmod(api)
    assert outcome.attempted == 2
    assert outcome.failed == 0


def test_numbers_of_one_matrix_share_a_precision():
    assert numerals(np.array([0, 1, 0])) == ["0", "1", "0"]
    assert numerals(np.array([0.5, 0.25, 0])) == ["0.50", "0.25", "0"]
    assert numerals(np.array([-0.0, INF, -INF])) == ["0", "inf", "-inf"]
    assert numerals(np.array([1e-9, 1.0])) == ["1e-09", "1"]
    assert numerals(np.log([0.2, 0.7])) == ["-1.609438", "-0.356675"]
    assert numerals(np.array([123456.75, 1e7])) == ["123457", "1e+07"]


def test_elision_keeps_ends_and_the_most_important():
    importance = np.zeros(100)
    importance[[40, 60]] = 1, 2
    assert chosen(importance, 12) == (0, 1, 2, 3, 4, 5, 40, 60, 97, 98, 99)
    assert chosen(importance, 8) == (0, 1, 2, 40, 60, 98, 99)
    assert chosen(np.zeros(5), 5) == (0, 1, 2, 3, 4)
    assert gaps((0, 1, 5, 9), 10) == [0, 1, None, 5, None, 9]
    assert gaps((0, 1), 3) == [0, 1, None]
