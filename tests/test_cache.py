"""The cache of compiled kernels: where it lies, and that nothing about its folder stops a call."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kosa

# indices.py's kernel alone compiles in under a second.
CALL = """
import numpy as np
from kosa.cpu import indices
none = np.empty(0)
none.flags.writeable = False
index = np.array([0, 2, -100])
index.flags.writeable = False
assert indices.check(index, -100, 3, none, none, (3,)) == 2.0
print(indices.scan_indices.stats.cache_hits.total(), indices.scan_indices.stats.cache_misses.total())
"""


def run(code=CALL, **environment):
    environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def folder(tmp_path):
    """A cache that holds one compiled kernel."""
    assert run(KOSA_CACHE_DIR=tmp_path) == ["0", "1"]
    return tmp_path


def files(folder, suffix):
    found = sorted(folder.rglob(f"*.{suffix}"))
    assert found
    return found


def test_compiled_kernels_are_kept_where_the_environment_says_and_found_again(folder):
    (own,) = folder.iterdir()
    assert own.name.startswith(f"kosa-{kosa.__version__}-")
    kept = files(folder, "nbi") + files(folder, "nbc")
    assert run(KOSA_CACHE_DIR=folder) == ["1", "0"]
    assert files(folder, "nbi") + files(folder, "nbc") == kept


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage"])
def test_a_damaged_file_only_means_compiling_again(folder, suffix, damage):
    for path in files(folder, suffix):
        whole = path.read_bytes()
        path.write_bytes(
            {"empty": b"", "truncated": whole[: len(whole) // 2], "garbage": b"\x80\x04garbage" * 9}[damage]
        )
    run(KOSA_CACHE_DIR=folder)
    assert run(KOSA_CACHE_DIR=folder) == ["1", "0"], "the damaged file was not replaced"


def test_a_folder_that_cannot_be_written_still_works(tmp_path):
    file = tmp_path / "file"
    file.write_text("no folder")
    environment = {"KOSA_CACHE_DIR": file / "below", "HOME": file, "XDG_CACHE_HOME": file}
    assert run(**environment)[1] == "1" or run(**environment)[0] == "0"


def test_a_folder_without_write_permission_still_works(folder):
    for path in files(folder, "nbi") + files(folder, "nbc"):
        path.unlink()
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555)
    try:
        run(KOSA_CACHE_DIR=folder)
    finally:
        folder.chmod(0o755)
        for path in folder.rglob("*"):
            path.chmod(0o755)


def test_a_full_disk_still_works(tmp_path):
    full = "import errno, numba.core.caching as caching\n" \
        "def save(*args, **kwargs): raise OSError(errno.ENOSPC, 'No space left on device')\n" \
        "caching.IndexDataCacheFile.save = save\n"  # fmt: skip
    assert run(full + CALL, KOSA_CACHE_DIR=tmp_path) == ["0", "1"]


def test_another_state_of_the_sources_has_another_folder(tmp_path):
    name = "import sys; sys.path.insert(0, sys.argv[1]) if len(sys.argv) > 1 else None\n" \
        "from kosa.cpu import _compile; print(_compile.__file__, _compile._FOLDER)"  # fmt: skip
    copy = tmp_path / "copy"
    shutil.copytree(Path(kosa.__file__).parent, copy / "kosa", ignore=shutil.ignore_patterns("__pycache__"))

    def folder_of():
        file, folder = run(name, KOSA_CACHE_DIR=tmp_path, PYTHONPATH=copy)
        assert Path(file).is_relative_to(copy)
        return folder

    first = folder_of()
    assert folder_of() == first
    edited = copy / "kosa" / "cpu" / "elementary.py"
    edited.write_text(edited.read_text() + "# an edit\n")
    second = folder_of()
    assert second != first
    assert Path(second).parent == Path(first).parent == tmp_path
