"""What lies at the edge of what can be scored or shown: a right figure, or one clear line."""

import math
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kosa
from kosa.cli import main
from kosa.scoring import InputError, Rows, Setup, State
from kosa.scoring.columns import Selection
from kosa.scoring.exact import SCALE, ExactSums
from kosa.scoring.groups import squares
from kosa.scoring.memory import in_bytes, plan
from kosa.scoring.report.losses import carried_by_worst
from kosa.scoring.tables import TableSums
from kosa.scoring.terminal import class_list

RNG = np.random.default_rng(12)
LOGITS, LABELS = RNG.normal(size=(40, 3)), RNG.integers(0, 3, 40)


def rows(**changed: Any) -> Rows:
    given: dict[str, Any] = {
        "first": 0,
        "loss": np.array([0.5, 1.0, 2.0]),
        "clipped": np.array([0.5, 1.0, 2.0]),
        "label": np.array([0, 1, 1]),
        "predicted": np.array([0, 1, 0]),
        "confidence": np.array([0.6, 0.7, 0.9]),
    }
    return Rows(**(given | changed))


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"loss": np.ones(3, np.float32)}, "`loss` is float32"),
        ({"confidence": np.ones((3, 1))}, "`confidence` is float64 of 2 axes"),
        ({"weight": np.array([1.0, -1.0, 1.0])}, "`weight` holds what is none of 0"),
        ({"weight": np.array([1.0, math.nan, 1.0])}, "`weight` holds what is none of 0"),
        ({"units": {"words": np.array([1.0, math.inf, 1.0])}}, "`words` holds what is none of 0"),
    ],
)
def test_rows_of_another_type_or_weight_are_refused(changed: dict[str, Any], text: str) -> None:
    setup = Setup(("a", "b"), "logits", weighted="weight" in changed, per=tuple(changed.get("units", ())))
    with pytest.raises(InputError, match=text):
        State(setup).update(rows(**changed))


def test_the_prior_keeps_the_digits_of_a_rare_class() -> None:
    result = kosa.score([0] * 10 + [1], logits=np.zeros((11, 2)), weight=[1.0] * 10 + [1e-12])
    rare, all_ = Fraction(1e-12), 10 + Fraction(1e-12)
    expected = -(10 * math.log1p(-float(rare / all_)) + 1e-12 * math.log(float(rare / all_))) / float(all_)
    assert result.prior_cross_entropy == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("confidence", "shown"), [(0.975, "97.5"), (0.995, "99.5"), (0.9999999, "99.99999")])
def test_the_confidence_is_shown_with_all_its_digits(confidence: float, shown: str) -> None:
    result = kosa.score(LABELS, logits=LOGITS, confidence=confidence, against=LOGITS + 0.1)
    assert f"{shown} % interval" in str(result)
    page = result.to_html()
    assert page.count(f"{shown}\u202f%") >= 2
    assert "100\u202f% confidence" not in page


def test_names_do_not_command_the_terminal() -> None:
    evil = "\x1b]0;title\x07\x1b[31mred\nline"

    def shown(name: str) -> str:
        groups = np.array([name, "b"] * 20)
        return str(kosa.score(LABELS, logits=LOGITS, classes=[name, "b", "c"], group=groups, id=[name] * 40))

    plain = shown(evil)
    assert "\x1b" not in plain
    assert "\x07" not in plain
    assert "[U+001B]" in plain
    assert plain.count("\n") == shown("a").count("\n")


def test_reports_of_the_largest_and_smallest_numbers() -> None:
    assert "</html>" in kosa.score([1, 0], logits=[[1e308, -7e307], [0.0, 1.0]]).to_html()
    tiny = kosa.score([0, 1], logits=[[20.0, 0.0], [0.0, 20.0]], weight=[5e-324, 5e-324])
    assert "</html>" in tiny.to_html()
    heavy = kosa.score(np.tile([3.0, 0, 0], (40, 1)), logits=LOGITS, force=True)
    assert "</html>" in heavy.to_html()


def test_what_the_worst_rows_carry_where_losses_are_beyond_the_grid() -> None:
    # 199 rows of loss 1e4 and one of 1e8, which no fine bin holds.
    logits = np.zeros((200, 2))
    logits[:, 1] = [1e4] * 199 + [1e8]
    result = kosa.score([0] * 200, logits=logits)
    assert carried_by_worst(result, 0.005) == pytest.approx(1e8 / (1e8 + 199e4), rel=0.01)


def test_what_the_worst_of_many_huge_losses_carry_is_not_guessed() -> None:
    losses = np.concatenate([np.ones(150), 10.0 ** np.linspace(5, 9, 150)])
    result = kosa.score(-losses, token_log_probs=True)
    assert math.isnan(carried_by_worst(result, 0.01))
    assert carried_by_worst(result, 0.5) == pytest.approx(1.0, rel=1e-6)
    assert "The worst hundredth" not in result.to_html()


def test_a_loss_that_no_temperature_changes() -> None:
    found = kosa.score(LABELS, logits=np.full((40, 3), 0.7), temperature=True).temperature
    assert found is not None
    assert (found.temperature, found.gain, found.at_edge) == (1.0, 0.0, False)


def test_a_temperature_that_cannot_be_known_is_said_to_be_none() -> None:
    result = kosa.score([0, 1], probs=[[0.0, 1.0], [0.5, 0.5]], temperature=True)
    assert "none: a loss is not finite" in str(result)
    assert "Dividing the logits by –" not in result.to_html()


def test_squares_of_groups_are_exact_in_any_units() -> None:
    sums = TableSums(True)
    sums.need(3)
    loss, weight = RNG.normal(size=30) * 2.0 ** RNG.integers(-300, 300, 30), RNG.random(30) + 0.1
    group = np.arange(30) % 3
    sums.add(group, loss, weight, None)
    s = [sum(map(Fraction, loss[group == g].tolist())) * SCALE for g in range(3)]
    w = [sum(map(Fraction, weight[group == g].tolist())) * SCALE for g in range(3)]
    pairs = list(zip(s, w, strict=True))
    assert squares(sums) == (sum(a * a for a in s), sum(a * b for a, b in pairs), sum(b * b for b in w), 3)


def test_stored_sums_that_no_addition_leaves_are_refused() -> None:
    for special, limb in ((5.0, 0), (0.0, 1 << 31)):
        stored = ExactSums(1).stored() | {
            "index": np.array([0]),
            "limbs": np.array([[limb]]),
            "special": np.array([special]),
        }
        with pytest.raises(ValueError, match="do not fit their groups"):
            ExactSums.restored(stored, 1)


def test_memory_of_more_digits_than_there_are() -> None:
    with pytest.raises(InputError, match="expected a number of bytes"):
        in_bytes("9" * 400)


def test_columns_of_dates_bytes_and_dictionaries(tmp_path: Path) -> None:
    day = pa.array(np.arange(40) // 10 * 86_400_000, pa.timestamp("ms"))
    words = pa.array([b"abc", b"\xff"] * 20, pa.binary())
    names = {"day": day, "raw": words, "text": pa.array(["é", "ab"] * 20).dictionary_encode()}
    columns = {f"z{k}": LOGITS[:, k] for k in range(3)} | {"y": LABELS} | names
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    per = {"bytes": "raw"}
    result = kosa.score(tmp_path / "p.parquet", target="y", logits="z*", group="day", per=per)
    assert [group.name for group in result.groups] == [f"1970-01-0{1 + n} 00:00:00.000" for n in range(4)]
    assert result.per[0].units == 20 * (3 + 1)
    text = kosa.score(tmp_path / "p.parquet", target="y", logits="z*", per={"bytes": "text"})
    assert text.per[0].units == 40 * 2


def test_labels_that_are_bytes_or_objects() -> None:
    plain = kosa.score(LABELS, logits=LOGITS)
    assert kosa.score(LABELS.astype(object), logits=LOGITS) == plain
    named = kosa.score(np.array([b"a", b"b", b"c"])[LABELS], logits=LOGITS, classes=["a", "b", "c"])
    assert named.cross_entropy == plain.cross_entropy
    with pytest.raises(InputError, match="no UTF-8"):
        kosa.score(np.array([b"\xff"] * 40), logits=LOGITS)
    with pytest.raises(InputError, match="cast it to float64"):
        kosa.score(LABELS, logits=LOGITS.astype(np.longdouble))
    with pytest.raises(InputError, match="have no classes"):
        kosa.score(LABELS, logits=np.empty((40, 0)))
    with pytest.raises(InputError, match="no array that NumPy can read"):
        kosa.score({"y": LABELS, "z": [[1.0], [1.0, 2.0]]}, target="y", logits="z")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--json", "p.parquet"], "`--json` 'p.parquet' would replace the input 'p.parquet'"),
        (["--report", "o", "--json", "o"], "`--report` 'o' would replace --json 'o'"),
        (["--state", "s", "--json", "./s"], "`--json` './s' would replace the state 's'"),
        (["--classes", "@latin.txt"], "`--classes`: 'latin.txt' is not in UTF-8"),
    ],
)
def test_nothing_is_replaced_by_what_is_written(
    arguments: list[str],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({f"z{k}": LOGITS[:, k] for k in range(3)} | {"y": LABELS}), "p.parquet")
    Path("latin.txt").write_bytes(b"caf\xe9\nb\nc\n")
    monkeypatch.setattr(
        sys, "argv", ["kosa", "score", *["p.parquet", "--target", "y", "--logits", "z*"], *arguments]
    )
    with pytest.raises(SystemExit, match="2"):
        main()
    assert text in capsys.readouterr().err
    assert pq.read_metadata("p.parquet").num_rows == 40


def test_class_names_of_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\neel\n", encoding="utf-8-sig")
    assert class_list(f"@{tmp_path / 'names.txt'}") == ["cat", "dog", "eel"]


def test_columns_of_wide_letters_line_up() -> None:
    groups = np.array(["日本語", "ab", "e\u0301"] * 13 + ["ab"])
    lines = str(kosa.score(LABELS, logits=LOGITS, group=groups)).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("group "))
    # "group" is five columns wide, 日本語 six, é one; two more stand between.
    assert [line[: line.index("1")] for line in lines[at + 1 : at + 4]] == [
        "日本語  ",
        "ab      ",
        "e\u0301       ",
    ]
    assert lines[at].startswith("group   rows")


def test_tokens_are_called_tokens() -> None:
    shown = str(kosa.score(-RNG.exponential(size=(4, 5)), token_log_probs=True))
    assert shown.startswith("tokens ")
    assert "tokens with p = 0" in shown
    assert "rows with" not in shown


def test_many_columns_are_not_read_in_tiny_batches() -> None:
    # Columns whose pages take more than the default: batches have a million numbers all the same.
    names = tuple(f"z{k}" for k in range(400))
    selection = Selection("logits", names, ("y",), None, None, None)
    reader = SimpleNamespace(held=lambda _: 2_000_000_000)
    wide: Any = [SimpleNamespace(readers=[reader], selection=selection)]
    first: Any = [SimpleNamespace(predictions=np.zeros((1, 400), np.float32))]
    assert plan(wide, first, memory=None, rows=None).rows == (1 << 20) // 400
    with pytest.raises(InputError, match="is too little"):
        plan(wide, first, memory=2_000_000_000, rows=None)


def test_files_of_several_types_have_one_clipped_figure_in_any_order(tmp_path: Path) -> None:
    probs = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    for name, kind in (("narrow", np.float32), ("wide", np.float64)):
        columns = {f"p{k}": probs[:, k].astype(kind) for k in range(2)}
        pq.write_table(pa.table({"y": [0, 0, 1], **columns}), tmp_path / f"{name}.parquet")
    paths = [tmp_path / "narrow.parquet", tmp_path / "wide.parquet"]
    one, other = (
        kosa.score(files, "y", probs="p*", worst=0, state=tmp_path / f"{number}.state")
        for number, files in enumerate((paths, paths[::-1]))
    )
    assert one == other
    # Each file has the epsilon of its own type: 2^-23 and 2^-52, of two rows each.
    assert one.clipped_cross_entropy == pytest.approx((2 + 2 * 23 + 2 * 52) * math.log(2) / 6, rel=1e-15)
    assert (one.clip, one.clip_name) == (2.0**-23, "float64 epsilon (2.22e-16) or float32 epsilon")
    assert "p clipped at float64 epsilon (2.22e-16) or float32 epsilon = 1.19e-07" in str(one)
    parts = [
        kosa.score(path, "y", probs="p*", worst=0, state=f"{path}.state") and State.load(f"{path}.state")
        for path in paths
    ]
    merged = parts[1].shifted(3)
    merged.merge(parts[0])
    assert merged.result() == one == State.load(tmp_path / "0.state").result()


@pytest.mark.parametrize("clip", [-0.5, 1.0, math.nan])
def test_a_clip_is_a_probability(clip: float) -> None:
    with pytest.raises(InputError, match=r"`clip` is .*, expected a probability below 1"):
        State(Setup(("a", "b"), "logits")).update(rows(clip=clip))
