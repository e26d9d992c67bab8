from __future__ import annotations

from registry.errors import SchemaViolationError
from registry.wording import listed


def test_nothing_found_adds_nothing():
    assert not listed([])


def test_findings_at_the_limit_are_all_shown():
    assert listed(["a", "b"], 2) == "\n  a\n  b"


def test_findings_beyond_the_limit_are_counted():
    assert listed(["a", "b", "c", "d"], 2) == "\n  a\n  b\n  and 2 more"


def test_violations_are_all_carried_and_the_first_shown():
    found = [f"$.x{index}: wrong" for index in range(50)]
    error = SchemaViolationError("broken:", found)
    assert error.violations == found
    assert "$.x39:" in str(error)
    assert "$.x40:" not in str(error)
    assert str(error).endswith("and 10 more")
