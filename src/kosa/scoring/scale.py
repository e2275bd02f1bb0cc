"""How a data set of files is worked on: in how much memory, by whom, and where its state is kept."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from kosa.scoring.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from kosa.scoring.parallel import Workers


@dataclass(frozen=True)
class Scale:
    """Options of `kosa.score`; None: not asked for."""

    memory: int | str | None = None
    jobs: int | None = None
    executor: Any = None
    on: str | None = None
    state: Any = None

    def __post_init__(self) -> None:
        if self.jobs is not None and (not isinstance(self.jobs, int) or self.jobs < 1):
            raise InputError(f"`jobs` is {self.jobs!r}, expected 1 or more processes")
        said = [name for name in ("jobs", "executor", "on") if getattr(self, name) is not None]
        if len(said) > 1:
            raise InputError(f"`{said[0]}` and `{said[1]}` both say who works: give one of them")

    @property
    def given(self) -> tuple[str, ...]:
        """What was asked for."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def refuse(self, reason: str) -> None:
        """Say that what was asked for is only for something else."""
        if self.given:
            raise InputTypeError(f"`{self.given[0]}` is for {reason}")

    def seen_by_all(self, source: Any) -> Any:
        """Paths that mean the same files to workers started in another folder."""
        if self.executor is None and self.on is None:
            return source
        if isinstance(source, str | os.PathLike):
            return os.path.abspath(source)
        if isinstance(source, list | tuple):
            return [self.seen_by_all(path) for path in source]
        return source

    def workers(self) -> "AbstractContextManager[Workers | None]":
        """Who works, if not this process."""
        from kosa.scoring import parallel

        if self.on is not None:
            from kosa.scoring.dask import cluster

            return cluster(self.on)
        if self.executor is not None:
            return nullcontext(parallel.given(self.executor))
        if self.jobs is not None and self.jobs > 1:
            return parallel.processes(self.jobs)
        return nullcontext()
