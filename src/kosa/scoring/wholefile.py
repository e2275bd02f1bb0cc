"""Files that are written whole or not at all, and by one process at a time."""

import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kosa.scoring.errors import InputError

# Locks of this process (after a fork: of its parent) by who has them, a thread, and by real path.
_held: dict[tuple[int, int, str], int] = {}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that at any moment it is the old one or the new one, never a part."""
    try:
        _write(path, content)
    except OSError as error:
        # The temporary file's name would tell the user nothing.
        raise OSError(error.errno, os.strerror(error.errno or errno.EIO), str(path)) from error


def _write(path: Path, content: bytes) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            # A pipe or a device (/dev/stdout): replacing it by a file would destroy it.
            path.write_bytes(content)
            return
    target = path.resolve()  # a link stays a link
    name = target.parent / f".{target.name}.{secrets.token_hex(8)}.part"
    # Not mkstemp, which gives the owner alone any permissions.
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.chmod(name, stat.S_IMODE(target.stat().st_mode))
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


@contextmanager
def lock(path: str | os.PathLike[str]) -> Iterator[None]:
    """Be the only one that writes a file, of all processes and threads; within, the same thread may lock it again.

    The lock is the operating system's, on a file `.NAME.lock` beside it, so it ends with its process, however that
    ends. InputError where another one has it.
    """
    target = Path(path).resolve()
    key = (os.getpid(), threading.get_ident(), str(target))
    if key in _held:
        _held[key] += 1
        try:
            yield
        finally:
            _held[key] -= 1
        return
    beside = target.parent / f".{target.name}.lock"
    handle = _acquire(beside, str(path))
    _held[key] = 1
    try:
        yield
    finally:
        del _held[key]
        # Only who has the lock may remove the file: else two could have locks on two files of one name.
        with suppress(OSError):
            os.unlink(beside)
        os.close(handle)


def _acquire(beside: Path, name: str) -> int:
    while True:
        try:
            handle = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or errno.EIO), name) from error
        try:
            _lock_handle(handle)
            held, there = os.fstat(handle), os.stat(beside)
            if (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino):
                return handle
        except FileNotFoundError:
            pass  # the one who had it has just removed it
        except (BlockingIOError, PermissionError) as error:
            os.close(handle)
            raise InputError(
                f"{name!r} is being written by another process or thread; wait for it, or write to another file"
            ) from error
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock_handle(handle: int) -> None:
    """Lock an open file, or BlockingIOError or PermissionError where another process has it."""
    try:
        import fcntl
    except ModuleNotFoundError:  # pragma: no cover - Windows
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
