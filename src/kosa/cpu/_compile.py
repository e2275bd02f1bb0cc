"""How kernels are compiled: flags, and a cache on disk that an edited source can never leave stale."""

import hashlib
import os
import uuid
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.misc.appdirs import AppDirs

_config: Any = numba.config

# Operations stay in the order written: (t − p) − q, reordered, would round the small difference away.
IN_ORDER = {"nsz", "contract"}
# Only sums over a row may be reordered, so that they vectorise. Never nnan or ninf: NaN and infinity must come out right.
_ANY_ORDER = IN_ORDER | {"reassoc"}


class _Cache(FunctionCache):
    """Numba's cache, for which a folder that cannot be read or written only means compiling again.

    Numba numbers its files, so that two processes that compile at once would write one file for two kernels: here each
    process has names of its own.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        file: Any = self._cache_file
        name, process = file._data_name, uuid.uuid4().hex[:12]
        file._data_name = lambda number: f"{process}-{name(number)}"

    def load_overload(self, *args: Any) -> Any:
        try:
            return super().load_overload(*args)
        except Exception:  # a truncated or foreign file: whatever unpickling raises
            return None

    def save_overload(self, *args: Any) -> None:
        try:
            super().save_overload(*args)
        except OSError:
            self.disable()
        except Exception:  # a damaged index: begin a new one
            self.flush()
            super().save_overload(*args)


def _cache_folder() -> str:
    """One folder a version and state of the sources: Numba itself sees an edit of a kernel, not of what it calls."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    root = os.environ.get("KOSA_CACHE_DIR") or _config.CACHE_DIR or AppDirs("kosa", False).user_cache_dir
    return str(Path(root) / f"kosa-{version('kosa')}-{digest}")


_FOLDER = _cache_folder()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel: no GIL, IEEE division, cached on disk where some folder can be written."""
    dispatcher = part(function)
    configured, _config.CACHE_DIR = _config.CACHE_DIR, _FOLDER
    try:
        cache = _Cache(function)
        if str(cache.cache_path).startswith(_FOLDER):  # not one that Numba falls back to, beside the source
            dispatcher._cache = cache
    except (RuntimeError, OSError):
        pass  # no folder to be had: each process compiles what it uses
    finally:
        _config.CACHE_DIR = configured
    return dispatcher


def part(function: Callable[..., Any]) -> Any:
    """Compile what kernels are built of; every operation is kept in the order written."""
    return numba.njit(nogil=True, error_model="numpy", fastmath=IN_ORDER)(function)


def reduction(function: Callable[..., Any]) -> Any:
    """Compile a loop that sums: in whatever order vectorises."""
    return numba.njit(nogil=True, error_model="numpy", fastmath=_ANY_ORDER)(function)
