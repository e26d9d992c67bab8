"""Tiny models on disk, and a registry of the module's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.cli_world import World, build_world

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = build_world(tmp_path_factory.mktemp("world"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAFELATCH_HOME", str(made.folder / "home"))
        patch.setenv("SAFELATCH_CACHE", str(made.folder / "cache"))
        for name in ("SAFELATCH_DB", "SAFELATCH_BLOBS"):
            patch.delenv(name, raising=False)
        yield made
