"""`kosa explain` as a process: what it prints, what it writes, and how it refuses."""

import json
import os
import shlex
import subprocess
import sys

import pytest

# The installed script of this very environment, whatever PATH says.
KOSA = [sys.executable, "-c", "from kosa.cli import main; main()"]


def kosa(*arguments, **environment):
    """`kosa explain` with these arguments, its output read as UTF-8."""
    env = {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "88", **environment}
    return subprocess.run(
        [*KOSA, "explain", *arguments], capture_output=True, encoding="utf-8", env=env, check=False
    )


def shown(*arguments, **environment):
    done = kosa(*arguments, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_targets_and_probabilities():
    text = shown("0 1 0", "0.2 0.7 0.1")
    assert text.endswith("    E = 0.356675 nats = 0.514573 bits\n")
    assert "t·(log y)ᵀ = [ 0  1  0 ] · " in text


@pytest.mark.parametrize(
    ("arguments", "nats"),
    [
        (["1", "0.2 0.7 0.1"], "0.356675"),
        (["1", "0.2, 0.7, 0.1", "--probs"], "0.356675"),
        (["0 1 0", "1 3 0.5", "--logits"], "0.196734"),
        (["0 1 0", "-1 -0.25 -3", "--log-probs"], "0.25"),
        (["--log-probs", "2", "-1 -0.25 -inf"], "inf"),
        (["0 1; 1 0", "0.5 0.5; 0.25 0.75"], "1.03972"),
        (["1; 0", "0.5 0.5; 0.25 0.75"], "1.03972"),
        (["1 0", "0.5 0.5; 0.25 0.75;"], "1.03972"),
        (["０、１；１、０", "0.5 0.5; 0.25 0.75"], "1.03972"),
    ],
)
def test_ways_to_write_the_same(arguments, nats):
    assert f"{nats} nats" in shown(*arguments).splitlines()[-1]


def test_copied_from_the_terminal_the_code_runs():
    text = shown("0 1 0", "1 3 0.5", "--logits")
    code = "\n".join(line for line in text.splitlines() if not line.startswith(" "))
    namespace = {}
    exec(code, namespace)
    assert namespace["loss"] == pytest.approx(0.196734, abs=1e-6)
    assert namespace["differences"] == pytest.approx(namespace["gradient"], abs=1e-9)


def test_japanese():
    text = shown("1", "0.2 0.7 0.1", "--lang", "ja")
    assert text.startswith("  交差エントロピーを一歩ずつ\n")
    assert text.endswith("E = 0.356675 ナット = 0.514573 ビット\n")


@pytest.mark.parametrize("lang", ["en", "ja"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp932"])
def test_a_console_that_is_not_utf_8_still_shows_it(lang, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [*KOSA, "explain", "1", "1 -inf 0.5", "--logits", "--lang", lang],
        capture_output=True,
        env=environment,
        check=False,
    )
    assert done.stderr == b""
    assert done.returncode == 0
    text = done.stdout.decode(encoding)
    assert ("交差エントロピー" in text) == (lang == "ja" and encoding == "cp932")
    assert ("cannot show Japanese" in text) == (lang == "ja" and encoding != "cp932")


def test_text_takes_the_width_of_the_terminal():
    lines = shown("1", " ".join(["0.125"] * 8), COLUMNS="60").splitlines()
    assert max(len(line) for line in lines if line.startswith(" ")) <= 60


def test_html_is_written_beside_the_text(tmp_path):
    page = tmp_path / "explained.html"
    text = shown("1", "0.2 0.7 0.1", "--html", str(page), "--lang", "ja", PYTHONIOENCODING="ascii")
    assert "0.356675 nats" in text
    html = page.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>")
    assert "交差エントロピーを一歩ずつ" in html


def test_json_to_stdout_is_all_there_is():
    given = json.loads(shown("1 0", "0 1; 0.5 0.5", "--json", "-", PYTHONIOENCODING="ascii"))
    assert given["rows"] == 2
    assert given["losses"] == pytest.approx([0, 0.693147], abs=1e-6)
    assert [step["name"] for step in given["steps"]][:2] == ["targets", "probs"]


def test_json_to_a_file(tmp_path):
    path = tmp_path / "explained.json"
    assert "0.356675 nats" in shown("1", "0.2 0.7 0.1", "--json", str(path))
    assert json.loads(path.read_text())["cross_entropy"] == pytest.approx(0.356675, abs=1e-6)


def test_the_product_of_the_text_cell_by_cell():
    text = shown("--dot", "1 2 3; 4 5 6", "7 8; 9 10; 11 12")
    for cell in ("c_11  =   1·7 + 2·9 + 3·11  =   58", "64", "139", "c_22  =  4·8 + 5·10 + 6·12  =  154"):
        assert cell in text
    assert "    ⎣ 4  5  6 ⎦ · ⎢  9  10 ⎥ = ⎣ 139  154 ⎦    2×3 · 3×2 = 2×2" in text


@pytest.mark.parametrize("lang", ["en", "ja"])
@pytest.mark.parametrize(
    ("left", "right"), [("1 2 3", "4 5 6"), ("1 2; 3 4; 5 6", "1; 2; 3"), ("-1 2e-3", "0.1 7")]
)
def test_a_shape_error_names_both_shapes_and_its_remedy_works(left, right, lang):
    done = kosa("--dot", left, right, "--lang", lang)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    for text in (left, right):
        rows = text.split(";")
        assert f"{len(rows)}×{len(rows[0].split())}" in line
    command = shlex.split(line[line.index("kosa explain --dot") :])
    assert "= 1×1" in shown(*command[2:]) or "= 2×1" in shown(*command[2:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0 1 0", "0.2 0.8"], "TARGETS is 1×3 and PREDICTIONS 1×2"),
        (["0 x", "0.2 0.8"], "TARGETS: 'x' is not a number"),
        (["0 1", "0.2 0,8."], "PREDICTIONS 1×3"),
        (["0 1; 1", "0.5 0.5; 0.5 0.5"], "TARGETS: row 1 has 2 numbers and row 2 has 1"),
        (["0 1", ""], "PREDICTIONS: row 1 is empty"),
        (["0 1", "0.5 0.5;; 1 0"], "PREDICTIONS: row 2 is empty"),
        (["3", "0.2 0.7 0.1"], "class index, 0 to 2, but this is '3'"),
        (["0.5", "0.2 0.7 0.1"], "class index, 0 to 2, but this is '0.5'"),
        (["-1", "0.2 0.7 0.1"], "class index, 0 to 2, but this is '-1'"),
        (["1", "1 -3"], "Logits are passed as `logits`"),
        (["1", "nan 0.5"], "class 0 is nan"),
        (["1", "inf 0.5", "--logits"], "class 0 is inf"),
        (["1", "-inf -inf", "--logits"], "-inf throughout"),
        (["0 -1", "0.5 0.5"], "`targets` must be finite and not negative"),
        (["--dot", "1 inf", "1; 2"], "`left` must be finite numbers, but holds inf"),
        (["--dot", "1 2", "3 4 5"], "columns of the left (2) must equal the rows of the right (1)"),
        (["1", "0.5 0.5", "--html", "-"], "needs the name of a file"),
        (["1", "0.5 0.5", "--html", "/nowhere/page.html"], "cannot write /nowhere/page.html: No such file"),
        (["1", "0.5 0.5", "--json", "/nowhere/x.json"], "cannot write /nowhere/x.json: No such file"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_bad_input_is_one_clear_line_and_status_2(arguments, message, encoding):
    done = kosa(*arguments, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("kosa explain: ")
    assert (message if encoding == "utf-8" else message.replace("×", "x")) in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1"], "Missing argument 'PREDICTIONS'"),
        (["1", "0.5 0.5", "--lgits"], "--lgits"),
        (["1", "0.5 0.5", "--lang", "fr"], "'fr' is not one of 'en', 'ja'"),
    ],
)
def test_bad_usage_is_status_2_without_a_traceback(arguments, message):
    done = kosa(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_says_how_to_type_it():
    text = shown("--help")
    assert 'kosa explain "0 1 0"' in text
    for option in ("--logits", "--log-probs", "--dot", "--lang", "--html", "--json"):
        assert option in text
