"""Parts scored by workers: local processes, or any `concurrent.futures.Executor`. A worker that dies costs its part."""

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from kosa.scoring.errors import InputError

T = TypeVar("T")
R = TypeVar("R")
Submit = Callable[[Executor, T], Future[R]]

_MOST_DEATHS = 3  # of workers at one part, which then is what kills them
_WAITING = 2  # parts a worker: one at work, one to go on with
_PATIENCE = 0.2  # seconds
DIED = "a worker died {} times at one part of the data; was it out of memory? Give fewer `jobs`, or less `memory`"
_log = logging.getLogger("kosa")


def in_order(
    parts: Iterable[T], submit: Submit[T, R], workers: "Workers", waiting: Callable[[], None]
) -> Generator[tuple[T, R], None, None]:
    """Each part with its result, in the order of the parts, each exactly once; `waiting` is called meanwhile.

    Results are taken in order, so whatever came before is whole; what a dead worker left undone is submitted again.
    """
    ahead: deque[tuple[T, Future[R]]] = deque()
    rest = iter(parts)
    deaths = 0
    try:
        while True:
            while len(ahead) < workers.ahead and (part := next(rest, None)) is not None:
                ahead.append((part, _submitted(submit, workers, part)))
            if not ahead:
                return
            part, future = ahead[0]
            while not wait([future], _PATIENCE).done:
                waiting()
            try:
                found = future.result()
            except tuple(workers.ends) as error:
                raise InputError(
                    next(text for kind, text in workers.ends.items() if isinstance(error, kind))
                ) from error
            except BrokenExecutor as error:
                deaths += 1
                if deaths >= _MOST_DEATHS or not workers.replace():
                    raise InputError(DIED.format(deaths)) from error
                _log.warning("kosa: a worker died; what it had begun is done again")
                done = {at for at, (_, other) in enumerate(ahead) if _succeeded(other)}
                ahead = deque(
                    (again, future if at in done else _submitted(submit, workers, again))
                    for at, (again, future) in enumerate(ahead)
                )
                continue
            deaths = 0
            ahead.popleft()
            yield part, found
    finally:
        for _, future in ahead:
            future.cancel()


def _submitted(submit: Submit[T, R], workers: "Workers", part: T) -> "Future[R]":
    """A pool that broke a moment ago refuses work: then its future says so, as one that was at work would."""
    try:
        return submit(workers.executor, part)
    except BrokenExecutor as error:
        failed: Future[R] = Future()
        failed.set_exception(error)
        return failed


def _succeeded(future: "Future[R]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


class Workers:
    """An executor, how many parts it is given at a time, and another one where it can be replaced.

    ends: what the executor raises where it has given up, each with what to tell the user.
    """

    def __init__(
        self,
        executor: Executor,
        ahead: int,
        again: Callable[[], Executor] | None = None,
        ends: Mapping[type[BaseException], str] | None = None,
    ) -> None:
        self.executor = executor
        self.ahead = ahead
        self.ends = ends or {}
        self._again = again

    def replace(self) -> bool:
        """Take a new executor; false where there is none to be had."""
        if self._again is None:
            return False
        end(self.executor)
        self.executor = self._again()
        return True


def given(executor: Any) -> Workers:
    """A caller's executor, which stays open."""
    if not callable(getattr(executor, "submit", None)):
        raise InputError(
            f"`executor` is a {type(executor).__name__}, expected a concurrent.futures.Executor: something to submit to"
        )
    count = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
    return Workers(executor, _WAITING * int(count))


@contextmanager
def processes(count: int) -> Iterator[Workers]:
    """Local processes, started anew: a forked one could hold locks of threads that it does not have."""
    threads = max(1, _processors() // count)

    def start() -> Executor:
        return ProcessPoolExecutor(
            count, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(threads,)
        )

    workers = Workers(start(), _WAITING * count, start)
    try:
        yield workers
    finally:
        end(workers.executor)


def end(executor: Executor) -> None:
    """Let go of a pool, and end what it is at: its results are not wanted any more."""
    running = list((getattr(executor, "_processes", None) or {}).values())
    executor.shutdown(wait=False, cancel_futures=True)
    for process in running:
        with suppress(OSError, ValueError):
            process.terminate()
    for process in running:
        process.join(5)


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS, nor on Windows
        return os.cpu_count() or 1


def _begin(threads: int) -> None:
    """In a new worker: share the processors, leave Ctrl-C to the parent, and end where the parent has."""
    import pyarrow

    from kosa import set_num_threads

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_num_threads(threads)
    pyarrow.set_cpu_count(threads)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
