"""Settings that all tests share."""

import gpu_engine as _gpu_engine
import pytest
from gpu_engine import device, gpu_engine  # noqa: F401  (fixtures)
from hypothesis import settings

_gpu_engine.choose()

# Examples are the same in every run; the first of a pair of types compiles, so no example has a deadline.
settings.register_profile("kosa", deadline=None, derandomize=True, print_blob=False, database=None)
settings.load_profile("kosa")


@pytest.fixture
def one_thread():
    """PyTorch's threads wait by spinning, and hold each other up where there are fewer cores than threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
