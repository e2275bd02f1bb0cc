"""How many threads kernels use, and how rows are handed to them."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_threads: int | None = None
_own = threading.local()


def _available() -> int:
    """The CPUs this process may use: its affinity mask, and its control group's quota where one is set."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS, nor on Windows
        count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return count


def _configured() -> int:
    text = os.environ.get("KOSA_NUM_THREADS", "").strip()
    if not text:
        return _available()
    try:
        return _checked(int(text))
    except ValueError:
        raise ValueError(f"KOSA_NUM_THREADS must be a positive integer, but is {text!r}") from None


def _checked(n: int) -> int:
    if n < 1:
        raise ValueError(f"`n` must be a positive number of threads, but is {n}")
    return n


def num_threads() -> int:
    """Return how many threads a call may use."""
    global _threads
    if is_alone():
        return 1
    if _threads is None:
        _threads = _configured()
    return _threads


@contextmanager
def alone() -> Iterator[None]:
    """Within, what the calling thread asks for is done by it alone: others share the processors already."""
    before = is_alone()
    _own.alone = True
    try:
        yield
    finally:
        _own.alone = before


def is_alone() -> bool:
    """Whether the calling thread is to do all by itself."""
    return getattr(_own, "alone", False)


def set_num_threads(n: int) -> None:
    """Set how many threads Kosa's kernels use in this process.

    The default is the environment variable `KOSA_NUM_THREADS`, else the number of CPUs that this process may use
    (its affinity, its control group's quota). Results are the same bits with any number. After a fork the child
    starts with one thread.

    Args:
        n: a positive integer.

    Raises:
        TypeError: `n` is not an integer.
        ValueError: `n` is not positive.

    Example:
        >>> import kosa
        >>> kosa.set_num_threads(2)
    """
    global _threads, _pool
    if not isinstance(n, int) or isinstance(n, bool):
        raise TypeError(f"`n` must be an integer number of threads, but is {n!r}")
    with _lock:
        _threads = _checked(n)
        if _pool is not None:
            _pool.shutdown(wait=False)
            _pool = None


def _shared_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(1, num_threads() - 1), thread_name_prefix="kosa")
        return _pool


def _after_fork() -> None:
    """Forget what did not survive the fork: the pool's threads, and perhaps a lock that one of them held."""
    global _lock, _pool, _threads
    _lock = threading.Lock()
    _pool, _threads = None, 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def for_each_chunk(chunks: int, worker: Callable[[], Callable[[int], None]]) -> None:
    """Run chunks 0..chunks−1, each once. `worker()` is called once a thread (its scratch) and returns what runs one.

    Threads take the next chunk as they get free, so a thread that is slowed down holds nothing up. The caller takes
    part, hence concurrent callers cannot wait for each other.
    """
    workers = min(num_threads(), chunks)
    if workers <= 1:
        run = worker()
        for chunk in range(chunks):
            run(chunk)
        return
    counter = itertools.count()  # next() on it is atomic
    shared = [worker]  # emptied at the end: the pool may hold on to a task that it never ran

    def take() -> None:
        run = shared[0]() if shared else None
        while run is not None and (chunk := next(counter)) < chunks:
            run(chunk)

    futures: list[Future[None]] = []
    try:
        for _ in range(workers - 1):
            futures.append(_shared_pool().submit(take))
    except RuntimeError:
        pass  # another thread has just changed the number of threads, or the interpreter ends: with those there are
    try:
        take()
    finally:
        waiting = [future for future in futures if not future.cancel()]
        for future in waiting:
            future.result()
        shared.clear()
