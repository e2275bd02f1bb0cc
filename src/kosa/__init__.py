"""Cross-entropy for Python: one definition, exact, at the speed of memory."""

from importlib import import_module
from importlib.metadata import version
from typing import Any

_HOMES = {
    "binary_cross_entropy": "functional",
    "binary_cross_entropy_with_grad": "functional",
    "cross_entropy": "functional",
    "cross_entropy_with_grad": "functional",
    "explain": "explanation",
    "linear_cross_entropy": "linear",
    "linear_cross_entropy_with_grad": "linear",
    "linear_row_statistics": "linear",
    "row_statistics": "functional",
    "score": "scoring",
    "set_num_threads": "cpu.threads",
}
__all__ = [*sorted(_HOMES), "definition"]
__version__ = version("kosa")


def __getattr__(name: str) -> Any:
    """Import a public name where it lives, on first use: `import kosa` itself loads NumPy at most."""
    if name == "definition":
        return import_module("kosa.definition")
    if name in _HOMES:
        value = getattr(import_module(f"kosa.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'kosa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
