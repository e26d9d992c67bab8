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
        line = str(error).strip().partition("\n")[0].removeprefix("Got: ")
        said = line[:300] or type(error).__name__
        raise HubError(
            f"expected the model {repo_id} at {revision or 'its main revision'} on the Hub, got: "
            f"{said.rstrip('.')}.",
            hint=_way_out(error, repo_id),
        ) from error
    if not _COMMIT.fullmatch(folder.name):
        raise HubError(
            f"expected a snapshot folder named by a 40-hex commit, got {folder}.",
            hint=_local(repo_id),
        )
    if revision is not None and _COMMIT.fullmatch(revision) and folder.name != revision:
        raise HubError(
            f"expected commit {revision}, the Hub answered with {folder.name}.",
            hint="See what HF_ENDPOINT names: hf env",
        )
    return folder, folder.name


def _way_out(error: OSError, repo_id: str) -> str:
    """Return what to do about an error of the client."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return f"Ask for access on the page of {repo_id}, then log in: hf auth login"
    if isinstance(error, RepositoryNotFoundError):  # the Hub says so of private ones too
        return "Check its name; if it is private, log in: hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return "Name a branch, a tag or a commit that is there: --revision REVISION"
    return f"Check the network. {_local(repo_id)}"


def _local(repo_id: str) -> str:
    return f"Where there is one: hf download {repo_id} --local-dir DIR, then name DIR."
