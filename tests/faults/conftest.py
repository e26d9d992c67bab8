"""One laboratory for all of these tests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from faults.trials import Laboratory

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    if not sys.platform.startswith("linux"):
        pytest.skip("steps are told apart by Linux's /proc, and disks made small by its tmpfs")
    made = Laboratory(tmp_path_factory.mktemp("faults"))
    yield made
    made.close()
