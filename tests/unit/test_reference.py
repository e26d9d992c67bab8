from __future__ import annotations

import pytest

from registry.digest import digest_bytes, is_digest
from registry.errors import ReferenceSyntaxError
from registry.reference import Reference, is_repo_id


@pytest.mark.parametrize("text", ["ns/name", "a/b", "Org.1/model_v2-x", "n" * 96 + "/" + "m" * 96])
def test_namespace_and_name_are_a_repository(text):
    assert is_repo_id(text)
    assert Reference.parse(f"hf://{text}").location == text


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "a/b/c",
        "../x",
        "a/..",
        "a..b/c",
        "/a",
        "a/",
        "a/b\n",
        "n" * 97 + "/m",
        "n/" + "m" * 97,
    ],
)
def test_what_the_hub_cannot_hold_is_no_repository(text):
    assert not is_repo_id(text)


@pytest.mark.parametrize(
    "change", [str, str.upper, lambda text: text[:-1], lambda text: text + "\n"]
)
def test_digest_references_are_exactly_the_digests(change):
    text = change(digest_bytes(b"x"))
    try:
        is_reference = Reference.parse(text).scheme == "digest"
    except ReferenceSyntaxError:
        is_reference = False
    assert is_reference == is_digest(text)


def test_a_password_typed_in_a_url_is_not_repeated() -> None:
    with pytest.raises(ReferenceSyntaxError, match=r"got 'https://\.\.\.@host/lock'") as caught:
        Reference.parse("https://me:secret@host/lock")
    assert "secret" not in str(caught.value)
