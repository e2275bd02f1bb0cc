"""Time and memory of calls on a GPU, by its own events and its allocator's counters."""

import gc
from collections.abc import Callable
from typing import Any, Protocol

_AHEAD = (
    10_000_000  # cycles that the card is kept waiting, some 5 ms, while a few calls are put into its queue
)
_CACHE = 128 << 20  # of a card that does not say


class NoGpu(ValueError):
    """There is no GPU to measure."""


class Clock(Protocol):
    """What the benchmark asks of a device."""

    device: str
    cache: int  # bytes of its last cache

    def seconds(self, call: Callable[[], Any], times: int) -> float: ...
    def peak(self, call: Callable[[], Any]) -> int: ...
    def free(self) -> int: ...
    def release(self) -> None: ...


class Card:
    """A GPU, by PyTorch: NVIDIA's, or AMD's, which PyTorch calls `cuda` as well."""

    device = "cuda"

    def __init__(self) -> None:
        try:
            import torch
        except ModuleNotFoundError:
            raise NoGpu('the benchmark of the GPU engine needs PyTorch: pip install "kosa[bench]"') from None
        if not torch.cuda.is_available():
            raise NoGpu(
                f"the benchmark of the GPU engine needs a GPU that PyTorch {torch.__version__} can use, and finds none"
            )
        self._cuda: Any = torch.cuda
        found: Any = torch.cuda.get_device_properties(0)
        self.name: str = found.name
        self.memory: int = found.total_memory
        self.cache = getattr(found, "L2_cache_size", 0) or _CACHE
        self.driver = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"

    def seconds(self, call: Callable[[], Any], times: int) -> float:
        """The time of one call of so many in a row, as the card sees it: it is kept busy until they are in its queue, so
        that a short kernel's time is not that of its launch.
        """
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        self._cuda.synchronize()
        self._cuda._sleep(_AHEAD)
        start.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / times

    def peak(self, call: Callable[[], Any]) -> int:
        """Bytes allocated at the call's highest beyond what was before it, its results among them."""
        self._cuda.synchronize()
        self._cuda.reset_peak_memory_stats()
        before = self._cuda.memory_allocated()
        value = call()
        self._cuda.synchronize()
        del value
        return int(self._cuda.max_memory_allocated() - before)

    def free(self) -> int:
        """Bytes that can be allocated."""
        return int(self._cuda.mem_get_info()[0])

    def release(self) -> None:
        """Give back what nothing refers to any more."""
        gc.collect()
        self._cuda.empty_cache()
