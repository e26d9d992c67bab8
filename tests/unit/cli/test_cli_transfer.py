"""``push`` and ``pull`` as they are typed: what they say, and where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command_line import safelatch

from registry.workflows import publication

if TYPE_CHECKING:
    from conftest import Locks

KEY = ("--key", "publisher.key")
READER = ("--db", "reader/registry.db")


@pytest.fixture
def url(signed: Locks, home: Path) -> str:
    """The remote's URL; one reads from it who trusts the publisher."""
    assert safelatch(*READER, "init").status == 0
    trusted = safelatch(*READER, "key", "trust", "publisher.pub", "--for", "*")
    assert trusted.status == 0
    return f"file://{home.resolve()}/remote"


def commit() -> str:
    from registry.remote.directory import DirectoryRemote

    found = DirectoryRemote("remote").snapshot()
    assert found is not None
    return found.commit


def test_push_says_what_came_where_and_the_same_again_that_it_is_there(url: str) -> None:
    done = safelatch("push", "lock", "./remote")
    assert (done.status, done.out, done.err) == (0, f"pushed  lock@1.0  {url}  {commit()}\n", "")
    again = safelatch("push", "lock@1.0", "./remote")
    assert again.out == f"already there  lock@1.0  {url}  {commit()}\n"


def test_a_dry_run_says_what_would_be_written(url: str) -> None:
    done = safelatch("push", "lock", "./remote", "--dry-run")
    assert done.out == f"would push  lock@1.0  {url}\n"
    document = safelatch("push", "lock", "./remote", "--dry-run", "--format", "json").document
    (row,) = document["versions"]
    assert [each["path"] for each in row["files"] if "plots" not in each["path"]] == [
        "README.md", "line.json", "versions/1.0/base.safetensors", "versions/1.0/manifest.json",
        "versions/1.0/signature.json", "versions/1.0/tensors.safetensors",
    ]  # fmt: skip
    assert (document["dry_run"], row["commit"]) == (True, None)
    assert not Path("remote").exists()


def test_a_yank_is_an_update(url: str) -> None:
    safelatch("push", "lock", "./remote")
    assert safelatch("yank", "lock@1.0", *KEY).status == 0
    planned = safelatch("push", "lock", "./remote", "--dry-run")
    assert planned.out == f"would update  lock@1.0  {url}\n"
    assert safelatch("push", "lock", "./remote").out == f"updated  lock@1.0  {url}  {commit()}\n"


def test_push_says_which_version_of_the_line_is_not_there(signed: Locks, url: str) -> None:
    step = ("publish", signed.other, "--name", "lock", "--version", "1.1", *KEY)
    assert safelatch(*step).status == 0
    done = safelatch("push", "lock@1.0", "./remote")
    assert done.err == (
        "note: the line names 1 active version(s) that are not there: "
        f"safelatch push lock@1.1 {url}\n"
    )
    missed = safelatch(*READER, "pull", "./remote")
    assert missed.status == 4
    assert missed.err == (
        f"error [remote]: {url}: expected versions/1.1/manifest.json at commit {commit()}, found "
        f"none.\nhint: Ask its publisher to push it: safelatch --db reader/registry.db push "
        f"lock@1.1 {url}\n"
    )
    done = safelatch("push", "lock", "./remote")
    assert [line.split("  ")[:2] for line in done.out.splitlines()] == [
        ["pushed", "lock@1.1"], ["already there", "lock@1.0"],
    ]  # fmt: skip
    assert safelatch(*READER, "pull", "./remote").status == 0


def test_without_matplotlib_it_says_that_the_card_has_no_images(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication, "_drawn", lambda _: None)
    monkeypatch.setattr(publication, "present", with_a_chart(publication.present))
    done = safelatch("push", "lock", "./remote")
    assert done.status == 0
    assert done.err == (
        "note: the card has no images: matplotlib is not installed. With it: pip install "
        "'safelatch[plot]'\n"
    )
    assert "matplotlib" not in safelatch("--quiet", "push", "lock", "./elsewhere").err


def with_a_chart(present):  # type: ignore[no-untyped-def]
    """Return ``present`` for a lock that has something to draw."""
    from dataclasses import replace

    from registry.artifact.presentation import Chart, Panel, Point, Series

    panel = Panel("share", (Series("a", (Point(0, 0.5),)),))
    chart = Chart("probes", "title", "described", "x", (panel,))
    return lambda bundle: replace(present(bundle), charts=(chart,))


def test_an_unsigned_line_is_refused(published: Locks) -> None:
    done = safelatch("push", "lock", "./remote")
    assert done.status == 2
    assert done.err == (
        "error [confirmation-required]: expected a signed version to push, lock@1.0 is signed by "
        "nobody.\nhint: Sign it: safelatch sign lock --key KEY\n"
    )
    assert not Path("remote").exists()


def test_a_folder_cannot_be_private(url: str) -> None:
    done = safelatch("push", "lock", "./remote", "--private")
    assert (done.status, done.out) == (2, "")
    assert f"expected a repository on the Hub for --private, got {url}." in done.err


@pytest.mark.parametrize("place", ["lock", "blake3:" + "0" * 64])
def test_a_place_that_is_none_is_refused(url: str, place: str) -> None:
    for done in (safelatch("push", "lock", place), safelatch("pull", place)):
        assert done.status == 2
        assert f"expected a remote, hf://NS/REPO or file:///DIR, got {place}." in done.err


def test_pull_says_what_came_and_the_same_again_that_it_is_here(url: str) -> None:
    safelatch("push", "lock", "./remote")
    digest = safelatch("show", "lock@1.0", "--field", "digest").out.strip()
    done = safelatch(*READER, "pull", "./remote")
    assert (done.status, done.out) == (0, f"pulled  lock@1.0  active  {digest}  from {url}\n")
    again = safelatch(*READER, "pull", f"{url}#lock@1.0")
    assert again.out == f"already here  lock@1.0  active  {digest}  from {url}\n"
    assert safelatch(*READER, "show", "lock", "--field", "state").out == "active\n"


def test_pull_of_what_nobody_trusted_signed_is_refused(url: str) -> None:
    safelatch("push", "lock", "./remote")
    assert safelatch("--db", "third/registry.db", "init").status == 0
    done = safelatch("--db", "third/registry.db", "pull", "./remote")
    assert done.status == 3
    assert done.err.startswith("error [untrusted-key]: lock@1.0 line.json: expected a signature")
    assert safelatch("--db", "third/registry.db", "list", "--format", "json").document == []


def test_the_hint_of_an_error_names_this_registry(url: str) -> None:
    done = safelatch(*READER, "pull", "./nothing")
    assert done.status == 1
    assert "hint: Put one there: safelatch --db reader/registry.db push NAME file://" in done.err
