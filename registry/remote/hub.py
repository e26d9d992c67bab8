"""The Hugging Face Hub, through its own client; the only module that imports it.

A revision is resolved to a 40-hex commit once, and everything is fetched at that commit.
"""

from __future__ import annotations

import re
from pathlib import Path

from registry.errors import HubError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model")


def fetch_model(repo_id: str, revision: str | None = None) -> tuple[Path, str]:
    """Return the local folder of a Hub model's weights and texts, and its commit.

    Only safetensors, JSON, templates and tokenizer files (``.txt``, ``.model``) are fetched:
    nothing that could run code.

    Raises:
        HubError: the Hub does not have it, refuses, or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(_WANTED)))
    except OSError as error:  # the client's own errors all derive from OSError
        raise HubError(
            f"expected the model {repo_id} at {revision or 'its main revision'} on the Hub, got: "
            f"{str(error).splitlines()[0][:300]}",
            hint=f"Log in if it is gated: hf auth login; or give a local folder instead of "
            f"{repo_id}.",
        ) from error
    if not _COMMIT.fullmatch(folder.name):
        raise HubError(f"expected a snapshot folder named by a 40-hex commit, got {folder}.")
    if revision is not None and _COMMIT.fullmatch(revision) and folder.name != revision:
        raise HubError(f"expected commit {revision}, the Hub answered with {folder.name}.")
    return folder, folder.name
