"""The real client, pointed at a hub of this machine: in this process or in another one."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMEOUT = 10  # seconds


class _Clock:
    """``time``, of which ``sleep`` only notes how long it would have taken."""

    def __init__(self, naps: list[float]) -> None:
        self.naps = naps

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)


@contextmanager
def client_at(url: str, cache: Path, token: str | None = None) -> Iterator[list[float]]:
    """Let the client of this process speak to ``url`` alone, and keep its files in ``cache``.

    It reads its environment when it is imported: what it read is what is changed. Between two
    tries it does not sleep; what is yielded is how long it would have, in seconds.
    """
    from huggingface_hub import close_session, constants, file_download, hf_api
    from huggingface_hub.utils import _http

    naps: list[float] = []
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    changes = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "no-token"),
        "HF_HUB_DOWNLOAD_TIMEOUT": TIMEOUT,
        "HF_HUB_ETAG_TIMEOUT": TIMEOUT,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": token is None,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changes.items():
            patch.setattr(constants, name, value)
        patch.setattr(hf_api.api, "endpoint", url)
        for module in (_http, file_download):
            patch.setattr(module, "time", _Clock(naps))
        if token is not None:
            patch.setenv("HF_TOKEN", token)
        close_session()
        try:
            yield naps
        finally:
            close_session()


def environment_at(url: str, home: Path, token: str | None = None) -> dict[str, str]:
    """Return the environment of a process whose client speaks to ``url`` alone."""
    given = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return given | {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_ETAG_TIMEOUT": str(TIMEOUT),
        "HF_HUB_DOWNLOAD_TIMEOUT": str(TIMEOUT),
        **({"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}),
    }
