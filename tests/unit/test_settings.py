from __future__ import annotations

import sys
from pathlib import Path

import pytest

from registry.settings import Settings, receipt_folder


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
