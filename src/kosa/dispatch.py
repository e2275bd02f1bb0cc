"""What every public function does first: its options as one object, and whether its arguments are tensors."""

import sys
from functools import lru_cache
from typing import Any

from kosa.loss import Options

_PLAIN = {bool, float, int, str, type(None)}
_known_options = lru_cache(maxsize=256, typed=True)(Options)


def options_of(*values: Any) -> Options:
    """The same options as in an earlier call need no second check, which takes as long as a small kernel."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():  # which traces no cache
        return Options(*values)
    # Others may change where they are, a tensor's number say, or cannot be looked up.
    known = _PLAIN.issuperset(map(type, values))
    return _known_options(*values) if known else Options(*values)


def on_tensors(*values: Any) -> bool:
    """Whether one of the arguments is PyTorch's; PyTorch is not imported to find that out."""
    torch = sys.modules.get("torch")
    return torch is not None and any(isinstance(value, torch.Tensor) for value in values)
