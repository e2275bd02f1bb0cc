"""`kosa bench`: Kosa beside the bare limit and the other libraries, on the machine at hand."""

from kosa.benchmark.runner import NAMES, run

__all__ = ["NAMES", "run"]
