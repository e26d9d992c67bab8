from __future__ import annotations

import sys
from pathlib import Path

import pytest

from registry.errors import UsageError
from registry.settings import Settings, receipt_folder
from registry.store.catalog import Registry


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {}, "/home/ann/.local/state/safelatch/receipts"),
        ("linux", {"XDG_STATE_HOME": "/state"}, "/state/safelatch/receipts"),
        ("darwin", {}, "/home/ann/Library/Application Support/safelatch/receipts"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/safelatch/receipts"),
        ("linux", {"SAFELATCH_RECEIPTS": "/here", "XDG_STATE_HOME": "/state"}, "/here"),
        ("linux", {"SAFELATCH_HOME": "/read-only"}, "/home/ann/.local/state/safelatch/receipts"),
    ],
)
def test_receipts_are_in_the_users_state_folder(
    monkeypatch: pytest.MonkeyPatch, platform: str, environ: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ann"))
    assert receipt_folder(environ) == Path(expected)


def test_a_user_without_a_home_needs_none_where_every_folder_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    named = {"SAFELATCH_HOME": "/registry", "SAFELATCH_CACHE": "/cache"}
    assert Settings.load(environ=named).sqlite_path == Path("/registry/registry.db")
    with pytest.raises(OSError, match="this user has no home folder"):
        receipt_folder(named)
    with pytest.raises(UsageError) as caught:
        Settings.load("/registry.db", environ={})
    assert str(caught.value) == (
        "expected a home folder of this user, found none.\n"
        "Name the folders: export SAFELATCH_HOME=/path SAFELATCH_CACHE=/path"
    )


PLACE = "expected the path of a SQLite file or the URL of a database, got "
NAME = "\nName the registry: --db URL, or export SAFELATCH_DB=URL"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("x\0y", "'x\\x00y'"),
        ("sqlite:///x\0", "'x\\x00'"),
        ("postgresql://ann:secret@h/d\0", "'postgresql://...'"),
        ("\ud800", "'\\ud800'"),
        ("sqlite:///\ud800", "'\\ud800'"),
        ("/", "'/'"),
        ("//", "'//'"),
        ("sqlite:////", "'/'"),
        ("sqlite:///.", "'.'"),
        ("~zzznobody/x", "'~zzznobody/x': nobody's home"),
    ],
)
def test_a_place_where_no_registry_can_be_is_refused_by_name(url: str, shown: str) -> None:
    for opening in (Registry.open, Registry.create):
        with pytest.raises(UsageError) as caught:
            opening(url)
        assert str(caught.value) == f"{PLACE}{shown}.{NAME}"


def test_a_tilde_is_the_home_folder_in_every_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("USERPROFILE", "/home/ann")
    environ = {f"SAFELATCH_{name}": f"~/{name}" for name in ("HOME", "CACHE", "RECEIPTS")}
    home = Path("/home/ann")
    found = Settings.load(environ=environ)
    assert (found.sqlite_path, found.cache) == (home / "HOME/registry.db", home / "CACHE")
    assert found.blobs == home / "HOME/blobs"
    assert receipt_folder(environ) == home / "RECEIPTS"
    assert Settings.load(environ={**environ, "SAFELATCH_BLOBS": "~/B"}).blobs == home / "B"
    assert Settings.load(environ={"SAFELATCH_DB": "~/db"}).sqlite_path == home / "db"


@pytest.mark.parametrize("variable", ["SAFELATCH_HOME", "SAFELATCH_BLOBS", "SAFELATCH_CACHE"])
def test_a_home_of_nobody_is_refused_with_its_variable(variable: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings.load("registry.db", environ={variable: "~zzznobody/x"})
    assert str(caught.value) == (
        f"expected the path of a folder in {variable}, got '~zzznobody/x': nobody's home.\n"
        f"Name one: export {variable}=/path"
    )


def test_receipts_in_the_home_of_nobody_do_not_cost_a_load() -> None:
    with pytest.raises(OSError, match="no home folder"):
        receipt_folder({"SAFELATCH_RECEIPTS": "~zzznobody/x"})
