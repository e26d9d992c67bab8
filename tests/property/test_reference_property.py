"""References: what parses is printed as it was written, and nothing hostile parses."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import ReferenceSyntaxError
from registry.reference import Reference, require_name, suggest_name

names = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,20}[a-z0-9])?", fullmatch=True)
versions = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}(rc[0-9]|\+[a-z0-9]{1,5})?", fullmatch=True)
lines = names | st.tuples(names, versions).map("@".join)
folders = st.from_regex(r"(/[A-Za-z0-9_.-]{1,12}){1,4}", fullmatch=True)
repos = st.from_regex(
    r"[A-Za-z0-9][A-Za-z0-9_-]{0,12}/[A-Za-z0-9][A-Za-z0-9_-]{0,12}", fullmatch=True
)
revisions = st.from_regex(r"[0-9a-f]{40}|[A-Za-z0-9]{1,10}(/[a-z0-9]{1,5})?", fullmatch=True)
fragments = st.just("") | lines.map("#{}".format)
references = st.one_of(
    lines,
    st.from_regex(r"blake3:[0-9a-f]{64}", fullmatch=True),
    st.tuples(folders, fragments).map(lambda parts: f"file://{parts[0]}{parts[1]}"),
    st.tuples(repos, st.just("") | revisions.map("@{}".format), fragments).map(
        lambda parts: f"hf://{parts[0]}{parts[1]}{parts[2]}"
    ),
)


@given(references)
def test_every_form_parses_and_prints_as_it_was_written(text):
    assert str(Reference.parse(text)) == text


@given(st.text() | references.flatmap(lambda t: st.text(max_size=3).map(lambda extra: t + extra)))
def test_what_parses_prints_as_it_was_written_and_the_rest_is_refused(text):
    try:
        reference = Reference.parse(text)
    except ReferenceSyntaxError:
        return
    assert str(reference) == text
    assert Reference.parse(str(reference)) == reference


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_every_folder_has_a_reference_that_leads_back_to_it(name):
    reference = Reference("file", location=f"/{name.replace('/', '_')}")
    assert Reference.parse(str(reference)) == reference


@given(st.text())
def test_a_suggested_name_is_a_name(text):
    assert require_name(suggest_name(text)) == suggest_name(text)


@given(st.text(max_size=120))
def test_a_name_is_a_plain_file_name_or_refused(text):
    try:
        require_name(text)
    except ReferenceSyntaxError:
        return
    assert re.fullmatch(r"[a-z0-9._-]{1,96}", text)
    assert ".." not in text
    assert text[0] not in "._-"
    assert text[-1] not in "._-"


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "a b", "A", "../x", "a/../b", "a..b", "name@", "@1", "name@1@2", "name@../1",
        "name\n", "name@1\n", "blake3:" + "0" * 63, "blake3:" + "A" * 64, "sha256:" + "0" * 64,
        "file://relative", "file:///a#", "file:///a b", "file:///a%2fb%00#x@", "file:///a%ff",
        "file:///%61", "hf://x", "hf://a/b/c", "hf://a/b@", "hf://a/../b", "hf://a/b@../x",
        "hf://a/b#", "hf://a/b#N", "https://x/y", "s3://a/b", "name@1#x",
    ],
)  # fmt: skip
def test_what_looks_like_a_reference_and_is_none_is_refused(text):
    with pytest.raises(ReferenceSyntaxError):
        Reference.parse(text)


@pytest.mark.parametrize("text", ["./lock", "../lock", "/srv/lock", "folder/lock", "~/lock"])
def test_a_path_is_a_folder_and_a_bare_word_is_a_name(text):
    assert Reference.parse_or_path(text).scheme == "file"
    assert Reference.parse_or_path("lock").scheme == "registry"
    assert Reference.parse_or_path("lock@1.0").scheme == "registry"
