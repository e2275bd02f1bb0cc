"""`kosa score` as a process: what it prints and writes, and how it refuses, is stopped, and is killed."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import kosa
from kosa.cli import main

# The command of this very environment, whatever PATH says.
KOSA = [sys.executable, "-c", "from kosa.cli import main; main()", "score"]
ROWS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good files and bad ones."""
    path = tmp_path_factory.mktemp("score")
    random = np.random.default_rng(1)
    logits, labels = random.standard_normal((ROWS, 3)).astype(np.float32), random.integers(0, 3, ROWS)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = ["cat", "dog", "猫"]
    columns = {
        "y": labels,
        "name": np.array(names)[labels].tolist(),
        "w": random.random(ROWS),
        "id": [f"é{number}" for number in range(ROWS)],
        **{f"z_{name}": logits[:, number] for number, name in enumerate(names)},
        **{f"p_{name}": probs[:, number] for number, name in enumerate(names)},
        "far": labels + 1,
    }
    table = pa.table(columns)
    pa.parquet.write_table(table, path / "good.parquet")
    pa.parquet.write_table(table.slice(0, 0), path / "empty.parquet")
    (path / "cut.parquet").write_bytes((path / "good.parquet").read_bytes()[:3000])
    (path / "nan.csv").write_text("y,z0,z1\n0,1,2\n1,nan,2\n")
    (path / "nothing.csv").write_text("")
    (path / "words.csv").write_text("y,z_a,z_b\na,1,2\nc,1,2\n")
    return path


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONIOENCODING": "utf-8", **environment}
    return subprocess.run(
        [*KOSA, *arguments], cwd=folder, env=env, capture_output=True, encoding="utf-8", check=False
    )


def test_a_table_and_the_same_figures_as_json(folder: Path) -> None:
    arguments = [
        "good.parquet",
        "--target",
        "name",
        "--logits",
        "z_*",
        "--weight",
        "w",
        "--id",
        "id",
        "--worst",
        "2",
    ]
    done = run(folder, *arguments, "--json", "out.json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    expected = kosa.score(
        folder / "good.parquet", "name", logits="z_*", weight="w", id="id", worst=2
    ).to_dict()
    assert found == expected
    assert list(found)[:4] == ["rows", "cross_entropy", "bits", "perplexity"]
    for shown in (
        f"{found['cross_entropy']:.6g} nats",
        "Classes",
        "猫",
        "Worst rows",
        found["worst"][1]["id"],
    ):
        assert shown in done.stdout
    assert "300" in done.stdout


def test_json_on_stdout_stands_alone(folder: Path) -> None:
    done = run(folder, "good.parquet", "--target", "y", "--probs", "p_*", "--json", "-", "--batch-size", "7")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["rows"] == ROWS


@pytest.mark.parametrize("encoding", ["ascii", "shift_jis"])
def test_consoles_that_are_not_utf8(folder: Path, encoding: str) -> None:
    env = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    arguments = ["good.parquet", "--target", "name", "--logits", "z_*", "--id", "id"]
    for more in ([], ["--json", "-"])[: 2 if encoding == "ascii" else 1]:
        done = subprocess.run(
            [*KOSA, *arguments, *more], cwd=folder, env=env, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
        shown = done.stdout.decode(encoding)
        if more:
            assert json.loads(shown)["classes"][2]["name"] == "猫"
        else:
            assert ("猫" if encoding == "shift_jis" else "\\u732b") in shown
    wrong = [*KOSA, "good.parquet", "--target", "猫", "--logits", "z_*"]
    done = subprocess.run(wrong, cwd=folder, env=env, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


BAD = {
    "cut off": ("cut.parquet --target y --logits z_*", "'cut.parquet' cannot be read as Parquet"),
    "no rows": ("empty.parquet --target y --logits z_*", "no rows: there is nothing to score"),
    "empty": ("nothing.csv --target y --logits z*", "'nothing.csv' is empty (0 bytes)"),
    "NaN": ("nan.csv --target y --logits z*", "row 1 (from 0) of 'nan.csv': `--logits` hold NaN for class 0"),
    "no column": (
        "good.parquet --target q --logits z_*",
        "has no column 'q' for `--target`; its columns are 'y',",
    ),
    "other kind": ("good.parquet --target y --probs z_*", "row 0 (from 0) of 'good.parquet': `--probs` "),
    "other kind too": (
        "good.parquet --target y --logits p_*",
        "Are these probabilities (`--probs`)? `--force` scores",
    ),
    "log-probs": ("good.parquet --target y --log-probs p_*", "`--log-probs` hold"),
    "out of range": (
        "good.parquet --target far --logits z_*",
        "label 3 is out of range; the 3 classes are numbered",
    ),
    "unknown": (
        "words.csv --target y --logits z_*",
        "row 1 (from 0) of 'words.csv': unknown label 'c'; the classes",
    ),
    "later file": ("good.parquet nan.csv --target y --logits z*", "'nan.csv' and 'good.parquet' differ"),
    "nowhere": (
        "nowhere.csv --target y --logits z*",
        "cannot read or write 'nowhere.csv': No such file or directory",
    ),
    "directory": (". --target y --logits z*", "cut.parquet' cannot be read as Parquet: its end"),
}
# How the same lines come about is the same from here on: these run within this process.
BAD_USE = {
    "no kind": (
        "good.parquet --target y",
        "expected exactly one of `--logits`, `--probs`, `--log-probs` and `--token-log-probs`, came none",
    ),
    "two kinds": ("good.parquet --target y --logits z_* --probs p_*", "came `--logits`, `--probs`"),
    "no file": ("--target y --logits z*", "Missing argument 'FILE...'"),
    "no target": ("good.parquet --logits z*", "`--target`: name the column of the labels"),
    "no such option": ("good.parquet --traget y", "No such option '--traget'"),
    "no such value": ("good.parquet --target y --logits z_* --worst many", "Invalid value for '--worst'"),
    "no classes": ("good.parquet --target y --logits z_* --classes @none.txt", "'none.txt': No such file"),
    "few classes": ("good.parquet --target y --logits z_* --classes a,b", "`--classes` names 2 classes"),
    "no folder": ("good.parquet --target y --logits z_* --json no/out.json", "there is no directory 'no'"),
    "a folder": ("good.parquet --target y --logits z_* --json .", "cannot write '.': it is a directory"),
    "no report": ("good.parquet --target y --logits z_* --lang ja", "`--lang` is the report's language"),
}


def check_refused(status: int, out: str, err: str, text: str, folder: Path) -> None:
    assert status == 2
    assert out == ""
    assert err.startswith("kosa: ")
    assert err.count("\n") == 1
    assert text in err
    assert not [name for name in os.listdir(folder) if name.endswith(("bad.json", ".part"))]


@pytest.mark.parametrize(("arguments", "text"), BAD.values(), ids=list(BAD))
def test_bad_input_is_one_line_and_status_2(folder: Path, arguments: str, text: str) -> None:
    done = run(folder, *arguments.split(), "--json", "bad.json")
    check_refused(done.returncode, done.stdout, done.stderr, text, folder)


@pytest.mark.parametrize(("arguments", "text"), BAD_USE.values(), ids=list(BAD_USE))
def test_bad_use_is_one_line_and_status_2(
    folder: Path,
    arguments: str,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["kosa", "score", *arguments.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    check_refused(int(str(stopped.value.code)), captured.out, captured.err, text, folder)


def test_force_overrides(folder: Path) -> None:
    done = run(folder, "nan.csv", "--target", "y", "--logits", "z*", "--force", "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["cross_entropy"] == "nan"


def test_classes_by_name_and_from_a_file(folder: Path) -> None:
    (folder / "names.txt").write_text("cat\ndog\n猫\n", encoding="utf-8")
    for classes in ("cat, dog, 猫", "@names.txt"):
        done = run(
            folder, "good.parquet", "--target", "name", "--logits", "z_*", "--classes", classes, "--json", "-"
        )
        assert json.loads(done.stdout)["classes"][2]["name"] == "猫"


def test_json_replaces_a_file_and_keeps_its_permissions_and_links(folder: Path) -> None:
    target, link = folder / "kept.json", folder / "link.json"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    done = run(folder, "good.parquet", "--target", "y", "--logits", "z_*", "--json", "link.json")
    assert done.returncode == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())["rows"] == ROWS
    assert target.stat().st_mode & 0o777 == 0o640


def test_json_into_a_device_leaves_the_device(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with subprocess.Popen(["cat", "pipe"], cwd=folder, stdout=subprocess.PIPE) as cat:
        done = run(folder, "good.parquet", "--target", "y", "--logits", "z_*", "--json", "pipe")
        assert cat.stdout is not None
        assert json.loads(cat.stdout.read())["rows"] == ROWS
    assert done.returncode == 0
    assert (folder / "pipe").is_fifo()


# A file long enough that a signal finds it half-way; batches of one row make it longer.
SLOW = ["slow.parquet", "--target", "y", "--logits", "z*", "--batch-size", "1", "--json", "slow.json"]


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    random = np.random.default_rng(2)
    labels, logits = random.integers(0, 2, 200_000), random.standard_normal((200_000, 2))
    pa.parquet.write_table(
        pa.table({"y": labels, "z0": logits[:, 0], "z1": logits[:, 1]}), tmp_path / "slow.parquet"
    )
    (tmp_path / "slow.json").write_text("old")
    return tmp_path


def stopped(folder: Path, number: signal.Signals) -> tuple[int, str]:
    """Signal the command on a terminal, once its bar tells of rows; its status and what it said after that."""
    terminal, side = pty.openpty()
    with subprocess.Popen([*KOSA, *SLOW], cwd=folder, stdout=subprocess.PIPE, stderr=side) as process:
        os.close(side)
        seen, deadline = b"", time.monotonic() + 60
        while not re.search(rb"\d%.* [1-9][\d,]* rows, [\d,]+ rows/s", seen):
            assert time.monotonic() < deadline, seen
            seen += os.read(terminal, 10_000)
        process.send_signal(number)
        rest = b""
        with suppress(OSError):  # which is how Linux says that a terminal's other end is closed
            while more := os.read(terminal, 10_000):
                rest += more
    os.close(terminal)
    return process.returncode, rest.decode()


def test_interrupted_half_way_nothing_is_written(slow: Path) -> None:
    status, shown = stopped(slow, signal.SIGINT)
    assert status == 130
    assert shown.rstrip().endswith("kosa: interrupted; nothing was written")
    assert "Traceback" not in shown
    assert (slow / "slow.json").read_text() == "old"
    assert sorted(os.listdir(slow)) == ["slow.json", "slow.parquet"]


def test_killed_half_way_nothing_is_written(slow: Path) -> None:
    status, _ = stopped(slow, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert (slow / "slow.json").read_text() == "old"
    assert sorted(os.listdir(slow)) == ["slow.json", "slow.parquet"]


def test_a_missing_pyarrow_is_named(folder: Path) -> None:
    code = "import sys; sys.modules['pyarrow'] = None; from kosa.cli import main; main()"
    words = ["score", "good.parquet", "--target", "y", "--logits", "z_*"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "kosa: reading 'good.parquet' needs pyarrow: pip install \"kosa[score]\"\n"


def test_help_names_every_option(folder: Path) -> None:
    done = run(folder, "--help")
    assert done.returncode == 0
    for option in (
        "target",
        "logits",
        "probs",
        "log-probs",
        "weight",
        "id",
        "classes",
        "force",
        "json",
        "worst",
    ):
        assert f"--{option}" in done.stdout


def test_a_reader_that_leaves_early_is_no_error_to_speak_of(folder: Path) -> None:
    words = ["good.parquet", "--target", "y", "--logits", "z_*", "--json", "-"]
    with subprocess.Popen(
        [*KOSA, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
