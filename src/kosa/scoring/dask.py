"""Workers of a Dask cluster, which may be on any machine that sees the files under the same names."""

import re
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

from kosa.scoring.errors import InputError
from kosa.scoring.parallel import DIED, Workers

_ADDRESS = re.compile(r"[a-z]+://.+:[0-9]+/?")
_SECONDS = 10


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
        yield Workers(client.get_executor(pure=False), 2 * threads, ends=ends)
    finally:
        client.close()
