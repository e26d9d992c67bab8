"""All that a publisher and a reader do, through the real client: ``python scenario.py URL``.

Needs ``huggingface_hub`` alone, 1.x or 2.x, and a hub of ``serving(page_size=2)`` that is new.
Prints what happened as one JSON object, in which nothing depends on the version of the client.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import urllib.request
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

REPO, SECRET, BASE = "org/line", "org/secret", "org/base"
ALICE, BOB, READER = "hf_alice", "hf_bob", "hf_alice_read"
CARD = f"""---
base_model: {BASE}
base_model_relation: adapter
library_name: safelatch
tags: [safety]
---
# A line
"""


def safetensors(size: int) -> bytes:
    """Return a safetensors file of one tensor of ``size`` bytes."""
    entry = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"mask": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(i % 251 for i in range(size))


SMALL = safetensors(1000)
FILES = {
    "README.md": CARD.encode(),
    "v1/manifest.json": b'{"version": 1}',
    "v1/tensors.safetensors": SMALL,
    "v1/base.safetensors": SMALL * (9_000_000 // len(SMALL) + 1),
    "v1/empty.txt": b"",
}


def refusal(function: Callable[..., Any], *args: Any, **given: Any) -> list[Any]:
    """Return the class of the error that a call ends in, and the status of the answer."""
    try:
        function(*args, **given)
    except OSError as error:  # every error of the client is one
        cause = error if hasattr(error, "response") else error.__cause__
        response = getattr(cause, "response", None)
        return [type(error).__name__, getattr(response, "status_code", None)]
    return ["nothing was refused"]


def add_fault(url: str, **fault: Any) -> None:
    """Let something go wrong at the hub."""
    body = json.dumps(fault).encode()
    urllib.request.urlopen(urllib.request.Request(f"{url}/_hub/faults", body)).close()  # noqa: S310


def adds(files: dict[str, bytes]) -> list[Any]:
    """Return fresh operations: the client writes into those it was given."""
    from huggingface_hub import CommitOperationAdd

    return [CommitOperationAdd(path, data) for path, data in files.items()]


def run(url: str, folder: Path) -> dict[str, Any]:
    """Do all of it, with the files that are downloaded below ``folder``; return what happened."""
    from huggingface_hub import HfApi

    alice = HfApi(endpoint=url, token=ALICE)
    bob = HfApi(endpoint=url, token=BOB)
    nobody = HfApi(endpoint=url, token=False)
    facts: dict[str, Any] = {}
    facts |= publishing(alice)
    facts |= reading(alice, folder)
    facts |= conflicting(alice, url)
    facts |= branching(alice, folder)
    facts |= finding(alice, nobody)
    facts |= refusing(alice, bob, nobody, folder)
    alice.delete_tag(REPO, tag="v1")
    facts["tags in the end"] = [tag.name for tag in alice.list_repo_refs(REPO).tags]
    alice.delete_repo(REPO)
    facts["there in the end"] = [alice.repo_exists(REPO), nobody.repo_exists(REPO)]
    return facts


def publishing(alice: Any) -> dict[str, Any]:
    """Make a repository, one commit of all kinds of files, and a tag."""
    made = alice.create_repo(REPO)
    again = alice.create_repo(REPO, exist_ok=True)
    first = alice.model_info(REPO).sha
    commit = alice.create_commit(
        REPO, adds(FILES), commit_message="Publish v1", parent_commit=first
    )
    alice.create_tag(REPO, tag="v1", revision=commit.oid)
    alice.create_tag(REPO, tag="v1", revision=commit.oid, exist_ok=True)
    return {
        "who": alice.whoami()["name"],
        "repo": made.repo_id,
        "the same repo": made == again,
        "made twice": refusal(alice.create_repo, REPO),
        "tagged twice": refusal(alice.create_tag, REPO, tag="v1"),
        "history": [each.title for each in alice.list_repo_commits(REPO)],
        "tag is the commit": alice.model_info(REPO, revision="v1").sha == commit.oid,
        "head is the commit": alice.model_info(REPO).sha == commit.oid,
    }


def reading(alice: Any, folder: Path) -> dict[str, Any]:
    """Look at the repository in every way, and download it at the tag."""
    info = alice.model_info(REPO, files_metadata=True)
    tree = list(alice.list_repo_tree(REPO, recursive=True))
    refs = alice.list_repo_refs(REPO)
    one = Path(alice.hf_hub_download(REPO, "v1/manifest.json", cache_dir=folder / "one"))
    snapshot = Path(alice.snapshot_download(REPO, revision="v1", cache_dir=folder / "all"))
    wanted = ["v1/manifest.json", "nowhere", "v1"]
    header = alice.parse_safetensors_file_metadata(REPO, "v1/tensors.safetensors")
    return {
        "files": [
            [each.rfilename, each.size, bool(each.lfs)]
            for each in info.siblings if each.rfilename != ".gitattributes"
        ],
        "tree": [each.path for each in tree],
        "folder": [each.path for each in alice.list_repo_tree(REPO, "v1")],
        "refs": [[each.name for each in found] for found in (refs.branches, refs.tags)],
        "paths": [each.path for each in alice.get_paths_info(REPO, wanted)],
        "one file": one.read_bytes() == FILES["v1/manifest.json"],
        "snapshot": all((snapshot / name).read_bytes() == FILES[name] for name in FILES),
        "snapshot is the commit": snapshot.name == info.sha,
        "tensors": {name: list(tensor.shape) for name, tensor in header.tensors.items()},
        "is there": [
            alice.file_exists(REPO, "README.md"),
            alice.file_exists(REPO, "other.md"),
            alice.revision_exists(REPO, "v1"),
            alice.revision_exists(REPO, "v2"),
        ],
    }  # fmt: skip


def conflicting(alice: Any, url: str) -> dict[str, Any]:
    """Commit onto what is no longer the head, commit nothing, lose an answer; delete a file."""
    head = alice.model_info(REPO).sha

    def push(files: dict[str, bytes], parent: str, title: str = "More") -> str:
        made = alice.create_commit(REPO, adds(files), commit_message=title, parent_commit=parent)
        return str(made.oid)

    def titles() -> list[str]:
        return [each.title for each in alice.list_repo_commits(REPO)]

    facts: dict[str, Any] = {"nothing new": push(FILES, "0" * 40) == head}
    second = push({"v2.json": b"2"}, head)
    facts["stale parent"] = refusal(push, {"v3.json": b"3"}, head)
    try:
        push({"v3.json": b"3"}, head)
    except OSError as error:
        facts["stale parent, in words"] = str(error).strip().splitlines()[-1]
    add_fault(url, match=f"POST /api/models/{REPO}/commit", lost=True, status=504, times=1)
    facts["lost"] = refusal(push, {"v3.json": b"3"}, second, "Once")
    third = push({"v3.json": b"3"}, second, "Once")
    facts["lost, then again"] = third == alice.model_info(REPO).sha
    facts["lost, landed"] = titles().count("Once")
    alice.delete_file("v2.json", REPO, parent_commit=third)
    facts["there when deleted"] = alice.file_exists(REPO, "v2.json")
    facts["onto a tag"] = refusal(
        alice.create_commit, REPO, adds({"x": b"x"}), commit_message="x", revision="v1"
    )
    return facts


def branching(alice: Any, folder: Path) -> dict[str, Any]:
    """Work on a branch with a slash in its name."""
    alice.create_branch(REPO, branch="dev/x", revision="v1")
    operations = adds({"notes.json": b"{}"})
    alice.create_commit(REPO, operations, commit_message="Notes", revision="dev/x")
    given = {"revision": "dev/x", "cache_dir": folder / "branch"}
    path = Path(alice.hf_hub_download(REPO, "notes.json", **given))
    return {
        "branch": path.read_text(),
        "not of main": alice.file_exists(REPO, "notes.json"),
        "branches": [each.name for each in alice.list_repo_refs(REPO).branches],
    }


def finding(alice: Any, nobody: Any) -> dict[str, Any]:
    """Find models by what they say they were made from, over several pages."""
    for number in range(3):
        name = f"alice/tuned-{number}"
        alice.create_repo(name)
        card = f"---\nbase_model: {BASE}\n---\n".encode()
        alice.create_commit(name, adds({"README.md": card}), commit_message="Card")
    alice.create_repo(SECRET, private=True)
    alice.create_commit(SECRET, adds({"README.md": CARD.encode()}), commit_message="Card")

    def found(api: Any, *tags: str, **given: Any) -> list[str]:
        return sorted(model.id for model in api.list_models(filter=list(tags), **given))

    expanded = nobody.model_info(REPO, expand=["baseModels", "sha", "gated", "tags"])
    return {
        "adapters": found(nobody, f"base_model:adapter:{BASE}"),
        "adapters that alice sees": found(alice, f"base_model:adapter:{BASE}"),
        "finetunes": found(nobody, f"base_model:finetune:{BASE}"),
        "any": found(nobody, f"base_model:{BASE}"),
        "both tags": found(nobody, f"base_model:{BASE}", "safety"),
        "of an author": found(nobody, author="alice"),
        "base": expanded.base_models,
        "tags": expanded.tags,
    }


def refusing(alice: Any, bob: Any, nobody: Any, folder: Path) -> dict[str, Any]:
    """Ask for what one may not have."""
    from huggingface_hub import HfApi

    reader = HfApi(endpoint=alice.endpoint, token=READER)
    stranger = HfApi(endpoint=alice.endpoint, token="hf_stranger")
    alice.update_repo_settings(REPO, gated="manual")
    file, cache = "v1/manifest.json", {"cache_dir": folder / "refused"}
    one = {"commit_message": "x"}
    return {
        "gated, but listed": bob.model_info(REPO).gated,
        "gated": refusal(bob.hf_hub_download, REPO, file, **cache),
        "gated, to nobody": refusal(nobody.hf_hub_download, REPO, file, **cache),
        "gated, checked": refusal(bob.auth_check, REPO),
        "gated, of alice": refusal(alice.auth_check, REPO, write=True),
        "private": refusal(bob.model_info, SECRET),
        "private, to nobody": refusal(nobody.model_info, SECRET),
        "private, a file": refusal(bob.hf_hub_download, SECRET, "README.md", **cache),
        "private, of alice": alice.model_info(SECRET).private,
        "writing to another's": refusal(bob.create_commit, REPO, adds({"x": b"x"}), **one),
        "making another's": refusal(bob.create_repo, "org/mine"),
        "only reading": refusal(reader.create_commit, REPO, adds({"x": b"x"}), **one),
        "only reading, a repo": refusal(reader.create_repo, "alice/new"),
        "no token": refusal(nobody.create_commit, REPO, adds({"x": b"x"}), **one),
        "no such token": refusal(stranger.whoami),
        "no such revision": refusal(alice.model_info, REPO, revision="v9"),
        "no such file": refusal(alice.hf_hub_download, REPO, "other.md", **cache),
    }


if __name__ == "__main__":
    os.environ.update(HF_ENDPOINT=sys.argv[1], HF_HUB_DISABLE_XET="1")
    os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)  # its own LFS upload
    with tempfile.TemporaryDirectory() as home:
        os.environ["HF_HOME"] = home
        print(json.dumps(run(sys.argv[1], Path(home))))
