"""How kernels are compiled: flags, and a cache on disk that an edited source can never leave stale."""

import hashlib
import os
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
    """Numba's cache, for which a folder that cannot be read or written only means compiling again."""

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
        dispatcher._cache = _Cache(function)
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
