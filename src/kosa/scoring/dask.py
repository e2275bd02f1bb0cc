"""Workers of a Dask cluster, which may be on any machine that sees the files under the same names."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from typing import Any, TypeVar

from kosa.scoring.errors import InputError
from kosa.scoring.parallel import DIED, Workers

_ADDRESS = re.compile(r"[a-z]+://.+:[0-9]+/?")
_SECONDS = 10

T = TypeVar("T")


class _OneThread(Executor):
    """Gives Dask work that takes one thread, as a worker that says how many threads it has expects of each task.

    With kernels and readers of several threads two workers of one thread had 1.4 times the speed of one.
    """

    def __init__(self, inner: Executor) -> None:
        self._inner = inner

    def submit(self, call: Callable[..., T], /, *args: Any, **options: Any) -> "Future[T]":
        return self._inner.submit(in_one_thread, call, *args, **options)


def in_one_thread(call: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a function on a worker; pyarrow's own threads are there for all tasks of the worker together."""
    import pyarrow
    from distributed import get_worker

    from kosa.cpu.threads import alone

    threads = get_worker().state.nthreads
    if pyarrow.cpu_count() > threads:
        pyarrow.set_cpu_count(threads)
    with alone():
        return call(*args, **options)


@contextmanager
def cluster(address: str) -> Iterator[Workers]:
    """The workers of the scheduler at `address`. Dask gives what a dead worker had to another one."""
    try:
        from distributed import Client, KilledWorker
        from distributed.comm.core import CommClosedError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('Dask is missing: pip install "kosa[dask]"', name="distributed") from error
    if not _ADDRESS.fullmatch(address):
        raise InputError(
            f"`on` is {address!r}, expected the address of a scheduler, as in tcp://scheduler:8786"
        )
    try:
        client: Any = Client(address, timeout=_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"`on`: no Dask scheduler answers at {address!r} within {_SECONDS} s") from error
    try:
        threads = sum(client.nthreads().values())
        if not threads:
            raise InputError(
                f"`on`: the Dask scheduler at {address!r} has no workers; start some: dask worker {address}"
            )
        # Not pure: with a name made from its arguments a part of an earlier run would be taken for this one's.
        gone = f"`on`: the Dask scheduler at {address!r} went away; with `state` the same command goes on"
        ends = {KilledWorker: DIED.format("several"), CommClosedError: gone, CancelledError: gone}
        yield Workers(_OneThread(client.get_executor(pure=False)), 2 * threads, ends=ends)
    finally:
        client.close()
