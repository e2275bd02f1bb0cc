"""Reading ahead: the next piece is read while this one is computed on."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from kosa.cpu.threads import is_alone

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The items, of which the next is made in another thread while one is used, unless this thread is to work alone."""
    if is_alone():
        try:
            yield from items
        finally:
            if isinstance(items, Generator):
                items.close()
        return
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="kosa-read") as reader:
        pending = reader.submit(next, items, end)
        try:
            while (item := pending.result()) is not end:
                pending = reader.submit(next, items, end)
                yield item  # type: ignore[misc]
        finally:
            if not pending.cancel():
                with suppress(BaseException):
                    pending.result()
            # Only now: a generator that is running cannot be closed.
            if isinstance(items, Generator):
                items.close()
