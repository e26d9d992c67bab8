from __future__ import annotations

import huggingface_hub
import pytest

from registry.errors import HubError
from registry.remote.hub import fetch_model


def test_the_clients_own_got_is_not_said_twice(monkeypatch):
    def refuse(*_args, **_given):
        raise OSError("Got: ConnectError: no route\nAn error happened")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(HubError, match=r"on the Hub, got: ConnectError: no route\.\n"):
        fetch_model("org/model")
