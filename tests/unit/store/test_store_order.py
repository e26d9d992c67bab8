from __future__ import annotations

import pytest
from packaging.version import Version

from registry.errors import UsageError
from registry.store._order import is_prerelease, order_key

# The order that PEP 440 prints, and the traps of text order around it.
ASCENDING = [
    "1.dev0", "1.0.dev456", "1.0a1", "1.0a2.dev456", "1.0a12.dev456", "1.0a12", "1.0b1.dev456",
    "1.0b2", "1.0b2.post345.dev456", "1.0b2.post345", "1.0rc1.dev456", "1.0rc1", "1.0",
    "1.0+abc.5", "1.0+abc.7", "1.0+5", "1.0.post456.dev34", "1.0.post456", "1.0.15", "1.1.dev1",
    "1.2", "1.10", "2", "10", "1!0.1",
]  # fmt: skip


def test_the_keys_of_pep_440s_own_list_ascend() -> None:
    ordered = sorted(ASCENDING, key=Version)
    keys = [order_key(text) for text in ordered]
    assert keys == sorted(set(keys))


def test_trailing_zeros_and_spelling_make_no_other_key() -> None:
    assert order_key("1.0.0") == order_key("1") == order_key("v1.0")
    assert order_key("1.0-alpha.1") == order_key("1.0a1")


@pytest.mark.parametrize("text", ["", "1.x", "latest", "1.0;", "1" * 65, "1.0\x00"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a PEP 440 version"):
        order_key(text)


def test_the_longest_version_fits_the_column() -> None:
    assert len(order_key("1" + ".1" * 31)) <= 512
    assert len(order_key("1+" + ".".join(["a"] * 31))) <= 512


def test_candidates_and_development_releases_are_prereleases() -> None:
    assert is_prerelease("1.0rc1")
    assert is_prerelease("1.0.dev1")
    assert not is_prerelease("1.0.post1")
