"""Settings that all tests share."""

from hypothesis import settings

# Examples are the same in every run; the first of a pair of types compiles, so no example has a deadline.
settings.register_profile("kosa", deadline=None, derandomize=True, print_blob=False, database=None)
settings.load_profile("kosa")
