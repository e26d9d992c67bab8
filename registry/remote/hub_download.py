"""Models that are downloaded from the Hugging Face Hub, into the cache of its own client.

- A revision is resolved to a commit once. What the Hub lists at that commit is what may arrive: the
  same names, sizes and hashes, of no other commit.
- The client calls files in its cache what the server calls them, and so writes where the server
  wants. Here every answer is looked at before the client acts on it.
- A copy in the cache stands in for the Hub where a commit was named, or the user chose to be
  offline: never as the newest of a branch, because the Hub did not answer.
"""

from __future__ import annotations

import re
import shutil
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

from registry.errors import HostError, HubError
from registry.remote._hub_errors import asking, nonsense, other_commit
from registry.remote._hub_session import bound, held_session
from registry.remote.hub import HubFile, HubModel, is_commit, list_model
from registry.wholefile import write_file

if TYPE_CHECKING:
    from collections.abc import Mapping

_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MOST_PAGES = 1000
_LONGEST_PAGE = 64 << 20
_LONGEST_NOTE = 1 << 20
"""Of an answer that is neither a file nor a list of them."""
_PACKING = 64
_NAME = re.compile(r"\w[\w.+-]*(?:/\w[\w.+-]*)*", re.ASCII)
"""A branch or a tag that is fit to be the name of a file."""


def fetch_model(repo_id: str, revision: str | None = None) -> tuple[Path, str]:
    """Return the local folder of a Hub model's weights and texts, and its commit.

    Only safetensors, JSON, templates and tokenizer files (``.txt``, ``.model``) are fetched:
    nothing that could run code.

    Raises:
        HubError: the Hub does not have it, refuses, cannot be reached, or answers something else
            than it listed.
        HostError: there is no room for it.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _kept_offline(repo_id, revision)
    kept = None
    if revision is not None and is_commit(revision):
        kept = _kept(repo_id, revision)
        if kept is not None and (kept.parents[1] / "trees" / f"{revision}.json").is_file():
            return kept, revision  # all of it: the client compared it with that list
    try:
        model = list_model(repo_id, revision)
    except HubError:
        if kept is None:
            raise
        return kept, kept.name
    folder = _download(model)
    name = revision or constants.DEFAULT_REVISION
    if name != model.commit and _NAME.fullmatch(name):  # for who is offline later
        with suppress(OSError):  # a cache that cannot be written to knows one name less
            write_file(folder.parents[1] / "refs" / name, model.commit.encode())
    return folder, model.commit


def _kept(repo_id: str, revision: str | None) -> Path | None:
    """Return the folder that the client's cache has of a revision; nothing is asked."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                repo_id, revision=revision, allow_patterns=list(_WANTED), local_files_only=True
            )
        )
    except OSError:
        return None
    return folder if is_commit(folder.name) else None


def _kept_offline(repo_id: str, revision: str | None) -> tuple[Path, str]:
    folder = _kept(repo_id, revision)
    if folder is None:
        raise HubError(
            f"expected all of the model {repo_id} at {revision or 'its main revision'} in the "
            "Hub's cache while HF_HUB_OFFLINE is set, found less.",
            hint=f"Get it: HF_HUB_OFFLINE=0 hf download {repo_id}",
        )
    return folder, folder.name


def _download(model: HubModel) -> Path:
    """Return the folder of what is wanted of a model, all of which was listed.

    Raises:
        HubError, HostError: see ``fetch_model``.
    """
    from huggingface_hub import snapshot_download

    wanted = {
        name: file
        for name, file in model.files.items()
        if any(fnmatchcase(name, pattern) for pattern in _WANTED)
    }
    _require_names(model, wanted)
    _require_room(model, wanted)
    what = f"the model {model.repo_id} at {model.commit}"
    with (
        asking(what, model.repo_id),
        held_session(_Listed(model, wanted).look) as headers,
    ):
        folder = Path(
            snapshot_download(
                model.repo_id, revision=model.commit, allow_patterns=list(_WANTED), headers=headers
            )
        )
    for name, file in wanted.items():
        path = folder / name
        got = path.stat().st_size if path.is_file() else "no file"
        if got != file.size:
            raise nonsense(model.repo_id, f"{file.size} bytes of {name[:120]}", got)
    return folder


def _require_names(model: HubModel, wanted: Mapping[str, HubFile]) -> None:
    """Refuse names that lead out of a folder, or that are one name on some file system.

    Raises:
        HubError: there is one.
    """
    alike: dict[str, str] = {}
    for name in wanted:
        parts = name.split("/")
        is_plain = name.isprintable() and not any(c in name for c in "\\:")
        if not is_plain or any(part.strip(". ") == "" for part in parts):
            raise nonsense(model.repo_id, "names of files below a folder", name)
        other = alike.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            both = f"{other[:50]} and {name[:50]}"
            raise nonsense(model.repo_id, "names that differ in more than case", both)


def _require_room(model: HubModel, wanted: Mapping[str, HubFile]) -> None:
    """Refuse what the disk has no room for.

    Raises:
        HostError: it has not.
    """
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).expanduser().absolute()
    blobs = cache / f"models--{model.repo_id.replace('/', '--')}" / "blobs"
    missing = {
        file.sha256 or name: file.size
        for name, file in wanted.items()
        if file.sha256 is None or not (blobs / file.sha256).exists()
    }
    there = next(place for place in (cache, *cache.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if sum(missing.values()) > free:
        raise HostError(
            f"expected {sum(missing.values()):,} free bytes at {cache} for {model.repo_id}, "
            f"got {free:,}.",
            hint="Make room, or name another folder: HF_HUB_CACHE=DIR",
        )


@dataclass
class _Listed:
    """What was listed, and so what may arrive."""

    model: HubModel
    wanted: Mapping[str, HubFile]
    pages: int = 0

    def look(self, answer: Any) -> None:
        """Refuse an answer that is none to what was listed; see ``held_session``.

        Raises:
            HubError: it is not.
        """
        model = self.model
        commit = answer.headers.get("X-Repo-Commit")
        if commit is not None and commit != model.commit:
            raise other_commit(model.commit, commit)
        path = answer.request.url.path
        name = path.partition(f"/resolve/{model.commit}/")[2]
        if answer.status_code >= 400:
            bound(answer, _LONGEST_NOTE, lambda: self._more("a refusal"), packing=_PACKING)
        elif answer.request.method == "HEAD":
            self._look_at_head(answer, name)
        elif self._is_listing(path):
            bound(answer, _LONGEST_PAGE, lambda: self._more("a listing"), packing=_PACKING)
            self._look_at_page(answer)
        else:
            most = max([_LONGEST_NOTE, *(file.size for file in self.wanted.values())])
            most = self.wanted[name].size if name in self.wanted else most
            bound(answer, most, lambda: self._more(name or "a file"))

    def _is_listing(self, path: str) -> bool:
        """Tell by its address whether the client takes an answer for a page of its listing.

        It follows redirects and links to further pages: ``_look_at_page`` lets them lead to such
        addresses only. A model that was renamed has another name there.
        """
        return re.search(rf"/api/models/[^/]+/[^/]+/tree/{self.model.commit}\Z", path) is not None

    def _look_at_page(self, answer: Any) -> None:
        """Compare a page of the client's own listing, from which it may take names of files."""
        steps = [answer.headers["Location"]] if answer.has_redirect_location else []
        steps += [link["url"] for link in answer.links.values() if "url" in link]
        for step in steps:
            path = urlsplit(urljoin(str(answer.request.url), step)).path
            if not self._is_listing(unquote(path)):
                raise nonsense(self.model.repo_id, "a listing that goes on as one", step)
        if answer.has_redirect_location:
            return
        self.pages += 1
        if self.pages > _MOST_PAGES:
            raise nonsense(self.model.repo_id, f"at most {_MOST_PAGES:,} pages", "more")
        answer.read()
        for entry in answer.json():
            if entry["type"] != "file":
                continue
            name = entry["path"]
            is_wanted = any(fnmatchcase(name, pattern) for pattern in _WANTED)
            if is_wanted and name not in self.wanted:
                raise nonsense(self.model.repo_id, "the files that it listed", name)
            if is_wanted:
                sha256 = (entry.get("lfs") or {}).get("oid")
                self._require(name, HubFile(entry["size"], sha256))
                if sha256 is not None and entry["lfs"]["size"] != entry["size"]:
                    raise nonsense(self.model.repo_id, f"one size of {name}", entry["lfs"]["size"])

    def _look_at_head(self, answer: Any, name: str) -> None:
        """Compare what the client takes from an answer: the name in its cache, and the size."""
        headers = answer.headers
        target = urlsplit(urljoin(str(answer.request.url), headers.get("Location", "")))
        if answer.has_redirect_location and target[:2] == urlsplit(str(answer.request.url))[:2]:
            return  # the client follows it, and takes what the next answer says
        etag = headers.get("X-Linked-Etag") or headers.get("ETag")
        if etag is not None:
            etag = etag.lstrip("W/").strip('"')  # as the client does
            if not _HASH.fullmatch(etag):
                raise nonsense(self.model.repo_id, f"a hash as the ETag of {name}", etag)
        size = headers.get("X-Linked-Size")
        if size is None and not answer.has_redirect_location:
            size = headers.get("Content-Length")
        listed = self.wanted.get(name)
        if listed is None or etag is None:
            return
        got = int(size) if size is not None and size.isascii() and size.isdigit() else listed.size
        self._require(name, HubFile(got, None if listed.sha256 is None else etag))

    def _require(self, name: str, got: HubFile) -> None:
        listed = self.wanted[name]
        if got != listed:
            raise nonsense(self.model.repo_id, f"{name[:80]} with {_shown(listed)}", _shown(got))

    def _more(self, what: str) -> HubError:
        return nonsense(self.model.repo_id, f"the bytes of {what[:80]}", "more")


def _shown(file: HubFile) -> str:
    return f"{file.size} bytes" + (f", {file.sha256}" if file.sha256 else "")
