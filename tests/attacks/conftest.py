"""Every test has its own data folder, and no registry in it yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFELATCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAFELATCH_CACHE", str(tmp_path / "cache"))
    for name in ("SAFELATCH_DB", "SAFELATCH_BLOBS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"
