"""The limits: reading an array once, and copying it, on all threads, with nothing computed.

Legend: A elements of 8 bytes.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from kosa.benchmark.harness import Contestant

# Below this, handing the work to threads costs more than the work.
_ONE_THREAD_BYTES = 1 << 20


@numba.njit(nogil=True)
def _read(words):  # type: ignore[no-untyped-def]  # (A,) uint64
    # An integer sum: the compiler may reorder it, so it runs in full vectors at the speed of memory. Measured
    # (2 cores, AVX-512, 524 MB): 14.3 ms, where np.add.reduce takes 14.9 and np.maximum.reduce 17.0.
    total = np.uint64(0)
    for i in range(words.size):
        total += words[i]
    return total


def _words(array: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    data = array.reshape(-1).view(np.uint8)
    return data[: data.size - data.size % 8].view(np.uint64)


def _parts(array: npt.NDArray[Any], threads: int) -> list[npt.NDArray[Any]]:
    return np.array_split(array, threads if array.nbytes >= _ONE_THREAD_BYTES else 1)


def bare_read(arrays: list[npt.NDArray[Any]], threads: int) -> Contestant:
    """Sum of the arrays' bits as 64-bit words: the time to read them once."""
    parts = [part for array in arrays for part in _parts(_words(array), threads)]
    if len(parts) == len(arrays):
        return Contestant(lambda: [_read(part) for part in parts], None)
    pool = ThreadPoolExecutor(threads)
    return Contestant(lambda: list(pool.map(_read, parts)), None)


def bare_copy(array: npt.NDArray[Any], threads: int) -> Contestant:
    """Copy into a buffer whose pages were touched before: the time to read once and write once."""
    target = np.full_like(array, 1)
    sources, targets = _parts(array.reshape(-1), threads), _parts(target.reshape(-1), threads)
    pool = ThreadPoolExecutor(threads)
    return Contestant(lambda: list(pool.map(np.copyto, targets, sources)), None)
