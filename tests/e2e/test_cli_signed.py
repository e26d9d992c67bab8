"""A signed lock goes from its publisher to somebody else: one line loads it, until it is revoked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.command_line import safelatch

from registry import load_protected
from registry.errors import RevokedError, RollbackError, UntrustedKeyError

if TYPE_CHECKING:
    from pathlib import Path

    from support.cli_world import World


def test_what_save_wrote_loads_with_the_publishers_key_alone(
    world: World, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = ("--key", "publisher.key")
    for step in (
        ("key", "generate", "--out", "publisher"),
        ("key", "generate", "--out", "stranger"),
        ("key", "trust", "publisher.pub", "--for", "tiny"),
        ("sign", "lock", *key),
        ("save", "lock", "--out", "first"),
        ("revoke", "lock@1.0", "--reason", "made from leaked data", *key),
        ("save", "lock@1.0", "--out", "second"),
    ):
        assert safelatch(*step).status == 0, step
    monkeypatch.setenv("SAFELATCH_HOME", str(tmp_path / "somebody-else"))
    monkeypatch.setenv("SAFELATCH_LINES", str(tmp_path / "lines"))
    with pytest.raises(UntrustedKeyError):
        load_protected(world.tuned, artifacts=["./first"], trust="stranger.pub")
    model = load_protected(world.tuned, artifacts=["./first"], trust="publisher.pub")
    assert model.safelatch.verified
    (applied,) = model.safelatch.to_dict()["applied"]
    assert len(applied["signed_by"]) == 1
    with pytest.raises(RevokedError, match="made from leaked data"):
        load_protected(world.tuned, artifacts=["./second"], trust="publisher.pub")
    with pytest.raises(RollbackError):  # what was seen is remembered without a registry
        load_protected(world.tuned, artifacts=["./first"], trust="publisher.pub")
