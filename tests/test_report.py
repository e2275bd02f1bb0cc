"""The report as text: what it says, that it escapes, that it stays small, how it writes numbers and draws axes."""

import json
import math
import re
import time
import tomllib
from dataclasses import fields, replace
from html.parser import HTMLParser
from importlib.resources import files
from string import Formatter

import numpy as np
import pytest
from report_samples import HOSTILE, compared, hostile, infinite, sample
from test_against import command

from kosa.scoring import InputError, LossBin, Rows, Score, Setup, Split, State, UnitScore
from kosa.scoring.report import LANGS, numbers
from kosa.scoring.report.losses import carried_by_worst, losses_of, median
from kosa.scoring.report.markup import element, name, visible
from kosa.scoring.report.scales import Linear, Log, round_ticks
from kosa.scoring.report.sections import wilson
from kosa.scoring.report.words import Speaker, sentences

VOID = {"meta", "br"}
SAMPLES = {"usual": sample, "infinite": infinite, "hostile": hostile, "compared": compared}


class Reader(HTMLParser):
    """Elements that close in order, their tags and attributes, and the text outside of style."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("made", SAMPLES, ids=str)
def test_a_page_is_well_formed_and_small_and_asks_for_nothing(made, lang):
    page = SAMPLES[made]().to_html(lang=lang, title="a.parquet")
    seen = Reader(page)
    assert seen.open == []
    assert len(page.encode("utf-8")) < 200_000
    names = [tag for tag, _ in seen.tags]
    assert not {"script", "img", "link", "iframe", "object", "form"} & set(names)
    attributes = {key for _, told in seen.tags for key in told}
    assert not {"href", "src", "srcset", "style"} & attributes
    assert not [key for key in attributes if key.startswith("on")]
    assert "url(" not in page
    assert "@import" not in page
    assert re.findall(r"https?:", page) == []


@pytest.mark.parametrize("lang", LANGS)
def test_every_picture_has_a_title_a_description_and_a_table(lang):
    seen = Reader(sample().to_html(lang=lang))
    ids = [told["id"] for _, told in seen.tags if "id" in told]
    assert len(ids) == len(set(ids))
    pictures = [told for tag, told in seen.tags if tag == "svg" and told.get("role") == "img"]
    assert len(pictures) == 3  # the histogram twice, for a desk and for a phone, and the reliability diagram
    for told in pictures:
        assert told["aria-labelledby"] in ids
        assert told["aria-describedby"] in ids
    others = [told for tag, told in seen.tags if tag == "svg" and told.get("role") != "img"]
    assert others
    assert all(told["aria-hidden"] == "true" for told in others)
    assert [tag for tag, _ in seen.tags].count("details") == 2
    heads = [told for tag, told in seen.tags if tag == "th"]
    assert all(told["scope"] in ("row", "col") for told in heads)


def test_a_drawn_table_says_the_figures_it_draws():
    found = sample()
    text = Reader(found.to_html()).text
    for entry in found.classes:
        assert f"{entry.cross_entropy:.2f}" in text
        assert f"{entry.rows:,}" in text
    assert f"{found.cross_entropy:.4f}" in text
    assert f"{100 * found.accuracy:.2f}" in text
    assert "mean over 5,000 rows" in text


def test_names_from_the_data_are_text_wherever_they_stand():
    page = hostile().to_html(title=HOSTILE[0])
    seen = Reader(page)
    assert "<script>document.title" in seen.text
    assert "&amp;{braces}%s" in seen.text
    assert "[U+202E]gnp.exe" in seen.text
    assert "a[U+0000]b[U+0007]c[U+D800]" in seen.text
    assert not set("\u202e\x00\x07\ud800") & set(page)
    assert "o" * 100 not in page
    page.encode("utf-8")


def test_attributes_and_text_are_escaped_once():
    made = element("a", "<&>", element("b", '"'), title='"<&')
    assert made == '<a title="&quot;&lt;&amp;">&lt;&amp;&gt;<b>&quot;</b></a>'
    assert name("x\u200dy") == "<bdi>x\u200dy</bdi>"
    assert name(" ") == "<bdi>“ ”</bdi>"
    assert visible("x" * 200, 10) == "xxxxx…xxxx"


def test_an_infinite_mean_is_said_and_nothing_is_drawn_from_it():
    page = infinite().to_html()
    text = Reader(page).text
    assert "Labels of probability 0: 7" in text
    assert "The mean is infinite" in text
    assert "bar loss" not in page.split("Costliest")[0]
    assert "nan" not in re.sub(r"\w*nan\w+|\w+nan\w*", "", text)


# A weight is positive where there is a score at all.
FLOATS = [item.name for item in fields(Score) if item.type is float and item.name != "weight"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-300, 1e300], ids=str)
def test_no_figure_however_odd_keeps_a_page_from_being_made(value):
    assert len(FLOATS) > 15
    found = compared()
    share = value if 0 <= value <= 1 else math.nan
    odd = {"cross_entropy": value, "accuracy": share}
    parts = {
        "classes": tuple(replace(entry, **odd) for entry in found.classes),
        "groups": tuple(replace(entry, **odd) for entry in found.groups),
        "bins": tuple(replace(entry, confidence=share, accuracy=share) for entry in found.bins),
        "worst": tuple(replace(entry, loss=value, probability=share) for entry in found.worst),
        "confusions": tuple(replace(entry, share=value, loss=value) for entry in found.confusions),
        "loss_split": Split(value, value, value, value),
        "per": (UnitScore("bytes", value, value, value, value),),
        "against": replace(found.against, difference=value, low=value, high=value, wins=share),
    }
    one_by_one = [{name: value} for name in FLOATS] if math.isnan(value) else []
    for change in [*one_by_one, parts, dict.fromkeys(FLOATS, value), dict.fromkeys(FLOATS, value) | parts]:
        seen = Reader(replace(found, **change).to_html())
        assert seen.open == []
        drawn = [shown for _, told in seen.tags for shown in told.values() if shown]
        assert not [shown for shown in [*drawn, seen.text] if re.search(r"\b(nan|inf)\b", shown)]


def test_a_comparison_has_its_panel():
    text = Reader(compared().to_html()).text
    assert "A beats B (baseline.parquet) by 0.031 nats a row" in text
    assert "between −0.045 and −0.017 nats" in text
    infinite = replace(compared().against, difference=math.inf, low=math.nan, high=math.nan)
    assert "The mean of A is infinite" in Reader(replace(compared(), against=infinite).to_html()).text
    undecided = replace(compared().against, low=-0.02, high=0.01)
    assert "do not decide" in Reader(replace(compared(), against=undecided).to_html()).text


def test_many_classes_become_a_few_lines_that_carry_most_of_the_loss():
    found = sample(rows=6000, classes=60)
    page = found.to_html()
    assert "The 24 of 60 classes that carry most of the loss" in page
    assert len(page.encode()) < 200_000
    largest = max(found.classes, key=lambda entry: entry.cross_entropy * entry.weight)
    assert f"<bdi>{largest.name}</bdi>" in page


def test_both_languages_say_the_same_things_with_the_same_places():
    for key, said in sentences().items():
        assert set(said) == set(LANGS), key
        places = [{place for _, place, _, _ in Formatter().parse(said[lang]) if place} for lang in LANGS]
        # Japanese may leave out the word for a row, which it does not need with a counter.
        assert places[0] - {"row", "rows"} == places[1] - {"row", "rows"}, key
        assert said["ja"].strip()


def test_no_sentence_is_left_over():
    folder = files("kosa.scoring.report")
    code = "".join(item.read_text() for item in folder.iterdir() if item.name.endswith(".py"))
    words = tomllib.loads(folder.joinpath("words.toml").read_text())
    composed = ("kind_", "reliability_heading_", "versus_", "classes_heading_", "groups_heading_")
    unused = [key for key in words if f'"{key}"' not in code and not key.startswith(composed)]
    assert set(unused) <= {"row", "rows", "token", "tokens"}


def test_a_language_that_there_is_not_is_an_error(tmp_path):
    with pytest.raises(InputError, match="`lang` is 'de', expected 'en' or 'ja'"):
        sample().report(tmp_path / "out.html", "de")
    assert not list(tmp_path.iterdir())


def test_the_file_is_the_page(tmp_path):
    found = sample()
    found.report(tmp_path / "out.html", "ja", title="あ")
    assert (tmp_path / "out.html").read_text(encoding="utf-8") == found.to_html(lang="ja", title="あ")
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]
    assert json.loads(found.to_json())["against"] is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.13691, "0.1369"),
        (1234.5678, "1,235"),
        (0.0, "0"),
        (-2.5, "−2.500"),
        (1.2346e-9, "1.235·10⁻⁹"),
        (2.27e20, "2.270·10²⁰"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "–"),
    ],
)
def test_numbers_have_four_digits_and_real_signs(value, shown):
    assert numbers.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, "50.0 %"),
        (1.0, "100.0 %"),
        (0.99999, ">99.9 %"),
        (0.00001, "<0.1 %"),
        (0.0, "0.0 %"),
        (-5.67, "−567.0 %"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(value, shown):
    assert numbers.percent(value).replace("\u202f", "") == shown.replace(" ", "")


def test_small_values_in_a_column_are_not_called_zero():
    assert numbers.fixed(1e-9, 3).replace("\u202f", "") == "<0.001"
    assert numbers.fixed(-1e-9, 3).replace("\u202f", "") == ">−0.001"
    assert numbers.fixed(1234.5, 1) == "1,234.5"
    assert numbers.change(0.25, 2) == "+0.25"
    assert numbers.fixed(-0.0, 1) == "0.0"
    assert numbers.fixed(-3.14159e-6, 8) == "−3.14·10⁻⁶"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.25, "0.25"),
        (8000.0, "8,000"),
        (1e-6, "10⁻⁶"),
        (-1e-6, "−10⁻⁶"),
        (-4e-6, "−4·10⁻⁶"),
        (2.5e15, "2.5·10¹⁵"),
        (1e-4, "0.0001"),
    ],
)
def test_round_numbers_on_an_axis_have_no_e(value, shown):
    assert numbers.tick(value) == shown


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0, 0.25, 0.5, 0.75, 1.0]),
        (0.0, 0.087, [0, 0.025, 0.05, 0.075, 0.1]),
        (-0.0093, 0.0035, [-0.01, -0.005, 0, 0.005]),
        (0.0, 0.0, [0, 0.25, 0.5, 0.75, 1.0]),
        (0.0, 3e-12, [0, 1e-12, 2e-12, 3e-12]),
    ],
)
def test_ticks_are_round_and_cover_the_data(low, high, ticks):
    found = round_ticks(low, high, 4)
    assert found[0] <= low
    assert found[-1] >= high
    assert found == ticks


def test_scales_stay_on_the_paper():
    log = Log(1e-3, 10.0, 40.0, 240.0)
    assert [log(value) for value in (1e-9, 1e-3, 0.1, 10.0, 1e9)] == [40.0, 40.0, 140.0, 240.0, 240.0]
    assert log.ticks() == [1e-3, 1e-2, 0.1, 1.0, 10.0]
    linear = Linear(0.0, 1.0, 100.0, 0.0)
    assert [linear(value) for value in (-1.0, 0.25, 2.0)] == [100.0, 75.0, 0.0]


def test_bars_hold_every_row_and_the_whole_loss():
    found = losses_of(sample(), ())
    assert math.fsum([*found.rows, found.below, found.infinite]) == pytest.approx(1.0, abs=1e-12)
    assert math.fsum([*found.loss, found.below_loss]) == pytest.approx(1.0, abs=1e-12)
    assert len(found.rows) <= 44
    assert len(found.edges) == len(found.rows) + 1
    assert all(low < high for low, high in zip(found.edges, found.edges[1:], strict=False))
    assert losses_of(infinite(), ()).loss == []
    assert losses_of(infinite(), ()).infinite == pytest.approx(7 / 5007)


def test_a_loss_spread_over_hundreds_of_octaves_still_has_an_axis():
    fine = tuple(LossBin(2.0 ** (at / 4), 2.0 ** ((at + 1) / 4), 1, 1.0) for at in range(-2000, 2000))
    found = losses_of(replace(sample(), histogram=fine), ())
    assert len(found.rows) <= 44
    assert math.fsum([*found.rows, found.below]) == pytest.approx(1.0)
    replace(sample(), histogram=fine).to_html()


@pytest.mark.parametrize(
    "histogram", [(), (LossBin(0.0, 1e-300, 5, 5.0),), (LossBin(math.inf, math.inf, 5, 5.0),)]
)
def test_losses_without_an_axis_are_not_drawn(histogram):
    found = replace(sample(), histogram=histogram)
    assert losses_of(found, ()) is None
    assert "plot" in found.to_html()


def test_losses_beyond_the_grid_and_losses_that_are_none_are_counted():
    ends = (
        LossBin(2.0**14, math.inf, 2, 2.0),
        LossBin(math.inf, math.inf, 3, 3.0),
        LossBin(math.nan, math.nan, 5, 5.0),
    )
    found = losses_of(replace(sample(rows=90), histogram=(LossBin(1.0, 2**0.25, 90, 90.0), *ends)), ())
    assert found.infinite == pytest.approx(0.08)
    assert found.rows[-1] == pytest.approx(0.02)
    assert math.fsum([*found.rows, found.below, found.infinite]) == pytest.approx(1.0)


def test_what_is_read_off_the_bins_is_right_to_their_width():
    random = np.random.default_rng(0)
    loss = random.lognormal(-2.0, 1.5, 20_000)
    place, rows = np.unique(np.floor(4 * np.log2(loss)).astype(int), return_counts=True)
    bins = tuple(
        LossBin(2 ** (at / 4), 2 ** ((at + 1) / 4), int(n), float(n))
        for at, n in zip(place, rows, strict=True)
    )
    found = replace(sample(), histogram=bins)
    assert median(found) == pytest.approx(np.median(loss), rel=0.03)
    worst = np.sort(loss)[-200:].sum() / loss.sum()
    assert carried_by_worst(found, 0.01) == pytest.approx(worst, rel=0.1)


def test_the_band_is_wilsons():
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_tokens_are_called_tokens():
    text = Reader(replace(sample(), predictions="token_log_probs").to_html()).text
    assert "A token costs" in text
    assert "mean over 5,000 tokens" in text
    assert Speaker("ja", "token")("rows_head") == "トークン数"


def test_a_hundred_million_rows_make_no_larger_or_slower_a_page():
    random = np.random.default_rng(0)
    classes, rows = 1000, 50_000
    label = random.integers(0, classes, rows)
    loss = random.lognormal(-1.0, 1.5, rows)
    predicted = np.where(random.random(rows) < np.exp(-loss), label, random.integers(0, classes, rows))
    part = Rows(0, loss, loss, label, predicted, np.exp(-loss), group=random.integers(0, 2000, rows))
    state = State(Setup(tuple(map(str, range(classes))), "logits", group="document"))
    state.update(part)
    while state.rows < 100_000_000:
        state.merge(state.shifted(state.rows))
    start = time.process_time()
    page = state.result().to_html()
    # 0.7 s on one core of a Xeon, nearly all of it for the figures.
    assert time.process_time() - start < 2.0
    assert "102,400,000 rows" in page
    assert len(page.encode()) < 200_000


def test_states_merge_into_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for run, first in (("a", 0), ("b", 3)):
        state = State(Setup(("cat", "dog"), "logits"))
        loss = np.array([0.1, 0.2, 3.0])
        state.update(
            Rows(first, loss, loss, np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([0.9, 0.8, 0.9]))
        )
        state.save(f"{run}.state")
    status, out, err = command(monkeypatch, capsys, "merge a.state b.state --report out.html --lang ja")
    assert (status, err) == (0, "")
    assert "rows" in out
    text = Reader((tmp_path / "out.html").read_text(encoding="utf-8")).text
    assert "a.state, b.state" in text
    assert "6 行の平均" in text
