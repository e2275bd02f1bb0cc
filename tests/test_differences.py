"""docs/differences.md: every test that it names exists."""

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_every_test_that_the_list_of_differences_names_exists():
    named = set(re.findall(r"`(test_\w+)`", (TESTS.parent / "docs" / "differences.md").read_text("utf-8")))
    known = {
        name
        for file in TESTS.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.M)
    }
    assert len(named) >= 10
    assert named <= known
