"""Workers of a Dask cluster, which may be on any machine that sees the files under the same names."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kosa.scoring.errors import InputError
from kosa.scoring.parallel import Workers

_SECONDS = 10


@contextmanager
def cluster(address: str) -> Iterator[Workers]:
    """The workers of the scheduler at `address`. Dask gives what a dead worker had to another one."""
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('Dask is missing: pip install "kosa[dask]"', name="distributed") from error
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
        yield Workers(client.get_executor(pure=False), 2 * threads)
    finally:
        client.close()
