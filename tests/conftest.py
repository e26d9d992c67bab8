"""Make the shared test code under tests/support importable as ``support``; leave the user alone."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parent))

# The Hub's client reads this when it is imported: no test asks the real Hub, or waits for it.
os.environ["HF_HUB_OFFLINE"] = "1"

# A shell that runs the tests in the background has them, and all they start, ignore Ctrl-C. A
# handler is not inherited as being ignored is: the programs under test begin with the system's.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def receipts_of_all_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Loads without a registry leave their receipts here, not in the user's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAFELATCH_RECEIPTS", str(tmp_path_factory.mktemp("receipts")))
        patch.setenv("SAFELATCH_LINES", str(tmp_path_factory.mktemp("lines")))
        yield
