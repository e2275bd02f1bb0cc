"""State files: what is loaded is what was saved, to the last bit; what is damaged or foreign is one clear error."""

import base64
import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_states import EVERYTHING, dump, rows, state

from kosa.scoring import InputError, State
from kosa.scoring.pairstate import parse_any as parse
from kosa.scoring.wholefile import lock


@pytest.fixture(scope="module")
def content() -> bytes:
    made = state(0, 60)
    made.notes = {"files": ["a.parquet"], "done": [[0, 60]]}
    return dump(made)


@pytest.mark.parametrize("soft", [False, True])
def test_loaded_is_what_was_saved(soft: bool, tmp_path: Path) -> None:
    made, path = state(0, 60, soft=soft), tmp_path / "a.state"
    like_an_array = {"dtype": "int64", "shape": [0], "data": ""}
    made.notes = {"done": {"a.parquet": [0, 1]}, "猫": None, "x": like_an_array}
    made.save(path)
    back = State.load(path)
    assert (back.setup, back.rows, back.ranges, back.notes) == (EVERYTHING, 60, ((0, 60),), made.notes)
    assert back.result() == made.result()
    assert dump(back) == dump(made) == path.read_bytes()
    assert os.listdir(tmp_path) == ["a.state"]


def test_an_empty_state_is_one_too(tmp_path: Path) -> None:
    State(EVERYTHING).save(tmp_path / "a.state")
    back = State.load(tmp_path / "a.state")
    back.merge(state(0, 9))
    assert dump(back) == dump(state(0, 9))


def test_loaded_states_go_on_and_merge_like_live_ones(content: bytes) -> None:
    live, loaded = state(0, 60), parse(content, "x")
    loaded.notes = {}
    for one in (live, loaded):
        one.update(rows(60, 25))
        one.merge(state(85, 20))
    assert dump(loaded) == dump(live)
    assert loaded.result() == live.result()


def test_the_file_says_what_it_is(content: bytes) -> None:
    header, body, rest = content.split(b"\n")
    assert json.loads(header) == {
        "kosa_state": 3,
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    assert rest == b""
    stored = json.loads(body)
    assert stored["setup"]["classes"] == list(EVERYTHING.classes)
    array = stored["parts"]["loss"]["limbs"]
    data = zlib.decompress(base64.b64decode(array["data"]))
    assert array["dtype"] == "int64"
    assert len(data) == 8 * np.prod(array["shape"])


def refused(content: bytes, name: str = "some.state") -> str:
    with pytest.raises(InputError, match=r"some\.state") as caught:
        parse(content, name)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_every_truncation_is_an_error_that_names_the_file(content: bytes) -> None:
    for size in [*range(200), *range(200, len(content) - 1, 97), len(content) - 1]:
        assert "state file" in refused(content[:size])


def test_every_changed_byte_is_an_error(content: bytes) -> None:
    for at in [*range(160), *range(160, len(content), 53), len(content) - 1]:
        changed = bytearray(content)
        changed[at] ^= 1
        refused(bytes(changed))
    assert "its checksum does not fit" in refused(content[:-1] + b"\n\n")


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"\n",
        b"{}",
        b"[]\n{}\n",
        b"PAR1....",
        b"y,z\n1,2\n",
        pickle.dumps({"kosa_state": 1}),
        b"\x00" * 99,
        b"[" * 5000,
        b'{"kosa_state": true}\n{}\n',
        b'{"kosa_state": 0}\n{}\n',
        b'{"kosa_state": "1"}\n{}\n',
    ],
)
def test_foreign_files_are_no_states(foreign: bytes) -> None:
    assert "is no state file of kosa; expected one" in refused(foreign)


def test_a_newer_version_says_to_upgrade(content: bytes) -> None:
    newer = content.replace(b'"kosa_state": 3', b'"kosa_state": 4', 1)
    assert "was written by a newer Kosa: its format is 4, this one reads 3; upgrade" in refused(newer)


def with_body(stored: Any) -> bytes:
    """A file whose checksum fits, whatever is in it."""
    body = json.dumps(stored).encode()
    header = {"kosa_state": 3, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(header).encode() + b"\n" + body + b"\n"


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything in a JSON value."""
    found = [path]
    if isinstance(value, dict):
        found += [way for key in value for way in places(value[key], (*path, key))]
    elif isinstance(value, list):
        found += [way for at in range(min(3, len(value))) for way in places(value[at], (*path, at))]
    return found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-3, 70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(data=st.data())
def test_whatever_stands_in_a_file_it_is_a_state_or_one_error(data: st.DataObject, content: bytes) -> None:
    stored = json.loads(content.split(b"\n")[1])
    way = data.draw(st.sampled_from(places(stored)))
    value, action = data.draw(JSON), data.draw(st.sampled_from(["replace", "remove", "array"]))
    if action == "array":
        shape = data.draw(st.lists(st.integers(-1, 5), max_size=3))
        numbers = np.arange(max(0, int(np.prod(shape))), dtype=np.int64) - 1
        packed = base64.b64encode(zlib.compress(numbers.tobytes())).decode()
        value = {
            "dtype": data.draw(st.sampled_from(["int64", "float64", "V8"])),
            "shape": shape,
            "data": packed,
        }
    inner = stored
    for key in way[:-1]:
        inner = inner[key]
    if not way:
        stored = value
    elif action == "remove":
        del inner[way[-1]]
    else:
        inner[way[-1]] = value
    made = with_body(stored)
    try:
        found = parse(made, "some.state")
    except InputError:
        assert refused(made) == "'some.state' is a damaged state file: its content does not fit together"
    else:
        assert parse(dump(found), "again").rows == found.rows
        with suppress(InputError):  # no rows, or no weight
            assert found.result().rows == found.rows


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_are_worse_than_an_error(noise: bytes, headed: bool) -> None:
    header = {"kosa_state": 3, "bytes": len(noise), "sha256": hashlib.sha256(noise).hexdigest()}
    refused(json.dumps(header).encode() + b"\n" + noise + b"\n" if headed else noise)


@pytest.mark.parametrize("shape", [[1 << 40], [1 << 20, 1 << 20], [3]])
def test_a_small_file_cannot_fill_the_memory(shape: list[int], content: bytes) -> None:
    stored = json.loads(content.split(b"\n")[1])
    bomb = base64.b64encode(zlib.compress(b"\0" * (1 << 26))).decode()
    stored["parts"]["losses"]["rows"] = {"dtype": "int64", "shape": shape, "data": bomb}
    made = with_body(stored)
    tracemalloc.start()
    assert "does not fit together" in refused(made)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_an_array_that_is_cut_off_is_damaged(content: bytes) -> None:
    stored = json.loads(content.split(b"\n")[1])
    array = stored["parts"]["losses"]["rows"]
    packed = base64.b64decode(array["data"])
    array["data"] = base64.b64encode(packed[:-2]).decode()  # the numbers are there, their checksum is not
    assert "does not fit together" in refused(with_body(stored))


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.state"
    state(0, 9).save(path)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.state'"):
        state(0, 60).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.state"]


def test_a_limit_in_the_middle_of_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    state(0, 9).save(path)
    before = path.read_bytes()
    code = f"""
import resource, signal
from kosa.scoring import State
state = State.load({str(path)!r})
state.notes = {{"long": "x" * 100_000}}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    state.save({str(path)!r})
except OSError as error:
    print(error.filename)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.state"]


@pytest.mark.parametrize("way", ["save", "lock"])
def test_two_writers_do_not_interleave(way: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "a.state"
    code = f"""
import time
from kosa.scoring.wholefile import lock
with lock({str(path)!r}):
    print("locked", flush=True)
    time.sleep(20)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        # Whatever goes wrong below, nobody waits for the other's end.
        request.addfinalizer(other.kill)
        reason = (
            "a.state' is being written by another process or thread; wait for it, or write to another file"
        )
        with pytest.raises(InputError, match=reason):
            state(0, 9).save(path) if way == "save" else lock(path).__enter__()
        assert not path.exists()
        other.kill()
    # The lock dies with its process, without any cleaning up.
    deadline = time.monotonic() + 5
    while True:
        try:
            state(0, 9).save(path)
            break
        except InputError:
            assert time.monotonic() < deadline
    assert os.listdir(tmp_path) == ["a.state"]


def test_who_holds_the_lock_saves_within_it(tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    with lock(path):
        state(0, 9).save(path)
        with lock(path):
            state(0, 10).save(path)
        assert State.load(path).rows == 10
        assert ".a.state.lock" in os.listdir(tmp_path)
    assert os.listdir(tmp_path) == ["a.state"]


def test_links_and_permissions_stay(tmp_path: Path) -> None:
    target, link = tmp_path / "a.state", tmp_path / "link"
    state(0, 9).save(target)
    target.chmod(0o640)
    link.symlink_to(target)
    state(0, 10).save(link)
    assert link.is_symlink()
    assert State.load(target).rows == 10
    assert target.stat().st_mode & 0o777 == 0o640


def test_missing_and_unwritable_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.state"):
        State.load(tmp_path / "nope.state")
    with pytest.raises(OSError, match=r"No such file or directory: '.*nowhere/a\.state'"):
        state(0, 1).save(tmp_path / "nowhere" / "a.state")


def test_two_threads_are_two_writers(tmp_path: Path) -> None:
    path, inside, leave = tmp_path / "a.state", threading.Event(), threading.Event()

    def hold() -> None:
        with lock(path), lock(path):
            inside.set()
            leave.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    assert inside.wait(20)
    try:
        with pytest.raises(InputError, match=r"a.state' is being written by another process or thread"):
            state(0, 9).save(path)
        assert not path.exists()
    finally:
        leave.set()
        other.join()
    state(0, 9).save(path)
    assert os.listdir(tmp_path) == ["a.state"]


def test_a_new_file_has_the_permissions_that_any_new_file_has(tmp_path: Path) -> None:
    state(0, 9).save(tmp_path / "a.state")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.state").stat().st_mode == (tmp_path / "plain").stat().st_mode
