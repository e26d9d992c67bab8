"""Namespaces: what a pattern covers, and what it never does."""

from __future__ import annotations

import pytest
from support.refusals import refusal

from registry.artifact.scope import covers, require_pattern
from registry.errors import UsageError

DIGEST = "blake3:" + "0" * 64


@pytest.mark.parametrize("pattern", ["*", "acme/*", "acme/base-7b", "my-base", DIGEST, "A.b_c/D.e"])
def test_a_pattern_is_returned_as_it_is(pattern):
    assert require_pattern(pattern) == pattern


@pytest.mark.parametrize(
    "text",
    ["", " ", "acme*", "*acme", "acme/", "/acme", "acme/*/x", "acme/b*", "acme/**", "**", "acme//x",
     "acme/../evil", "..", "a..b", "-acme/*", "acme./*", "acme/*\n", "acme /x", "аcme/*", "acme/é",
     "acme\\x", "a/b/c", "acme/?", "[a]/x", "x" * 300],
)  # fmt: skip
def test_a_text_that_is_no_pattern_is_refused(text):
    refusal(UsageError, lambda: require_pattern(text), "expected a namespace such as acme/*")


@pytest.mark.parametrize(
    ("pattern", "name", "is_covered"),
    [
        ("*", "anything", True),
        ("acme/*", "acme/base", True),
        ("acme/*", "acme-evil/base", False),
        ("acme/*", "acme", False),
        ("acme/*", "evil/acme/base", False),
        ("acme/*", "ACME/base", False),
        ("acme/*", "аcme/base", False),
        ("acme/base", "acme/base", True),
        ("acme/base", "acme/base-2", False),
        ("acme/base", "acme/bas", False),
        ("base", "base", True),
        ("base", "acme/base", False),
        (DIGEST, DIGEST, True),
        (DIGEST, "blake3:" + "0" * 63 + "1", False),
    ],
)
def test_what_a_pattern_covers(pattern, name, is_covered):
    assert covers(pattern, [name]) is is_covered
    assert covers(pattern, ["other/name", name]) is is_covered or pattern == "*"


def test_no_name_at_all_is_in_no_namespace():
    assert not covers("*", [])
    assert not covers("acme/*", [])
