"""The limits: reading an array once, and copying it, on all threads, with nothing computed.

Legend: A elements of 8 bytes.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from kosa.benchmark.harness import Contestant


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


def bare_read(arrays: list[npt.NDArray[Any]], threads: int) -> Contestant:
    """Sum of the arrays' bits as 64-bit words: the time to read them once."""
    words = [_words(array) for array in arrays]

    def on(count: int) -> Callable[[], Any]:
        return _spread(_read, [(part,) for whole in words for part in np.array_split(whole, count)], count)

    return Contestant(_faster(on(1), on(threads)), None)


def bare_copy(array: npt.NDArray[Any], threads: int) -> Contestant:
    """Copy into a buffer whose pages were touched before: the time to read once and write once."""
    source, target = array.reshape(-1), np.full_like(array, 1).reshape(-1)

    def on(count: int) -> Callable[[], Any]:
        pairs = zip(np.array_split(target, count), np.array_split(source, count), strict=True)
        return _spread(np.copyto, list(pairs), count)

    return Contestant(_faster(on(1), on(threads)), None)


def _spread(work: Callable[..., Any], parts: list[tuple[Any, ...]], threads: int) -> Callable[[], Any]:
    if threads == 1:
        return lambda: [work(*part) for part in parts]
    pool = ThreadPoolExecutor(threads - 1)

    def call() -> list[Any]:
        # The calling thread takes its share: waking one thread less is what counts for a small array.
        *others, mine = [parts[i::threads] for i in range(threads)]
        waiting = [pool.submit(lambda share: [work(*part) for part in share], share) for share in others]
        done = [work(*part) for part in mine]
        return [value for future in waiting for value in future.result()] + done

    return call


def _faster(one: Callable[[], Any], all_threads: Callable[[], Any]) -> Callable[[], Any]:
    """Waking threads costs more than reading a small array, and where that ends depends on the machine."""

    def best_of_five(call: Callable[[], Any]) -> float:
        call()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    return min(one, all_threads, key=best_of_five)
