"""Models on the Hugging Face Hub that are asked about without a download, through its own client.

- A revision is resolved to a 40-hex commit once, and everything is fetched at that commit.
- What is asked goes through the client's session, with its endpoint and its token, and is written
  nowhere: the client's own reader of headers takes a whole file from a
  server that does not know ranges, and its cache trusts what the server calls a file.
- Nothing is read that was not bounded before: sizes come from the listing, a part of a file must
  be the part that was asked for.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from registry.errors import UnsafeFormatError
from registry.remote._hub_errors import asking, nonsense, other_commit
from registry.remote._hub_session import bound, held_session
from registry.tensorfile import HEADER_LIMIT, Header, header_length, parse_header

if TYPE_CHECKING:
    from collections.abc import Collection
    from contextlib import AbstractContextManager

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST = 2**53
_MOST_FILES = 100_000
_LONGEST_LISTING = 64 << 20
_PACKING = 64
_MOST_HEADERS = 64 << 20
"""Most bytes of all headers of a repository: room for half a million tensors."""
_THREADS = 8
_ASK = "Ask its publisher, or name another revision: --revision REVISION"


@dataclass(frozen=True, slots=True)
class HubFile:
    """What the Hub states about one file.

    Attributes:
        size: In bytes.
        sha256: 64 lower-case hex digits; ``None`` for a file that is kept in git itself.
    """

    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the Hub at one commit, of which nothing was downloaded.

    Attributes:
        repo_id: ``namespace/name``.
        commit: 40 hex digits.
        files: Every file by its path in the repository.
    """

    repo_id: str
    commit: str
    files: dict[str, HubFile]


def is_commit(revision: str) -> bool:
    """Return whether ``revision`` is a commit written out: 40 lower-case hex digits."""
    return _COMMIT.fullmatch(revision) is not None


def list_model(repo_id: str, revision: str | None = None) -> HubModel:
    """Return the commit of a Hub model and what the Hub states about each of its files.

    Raises:
        HubError: the Hub does not have it, refuses, cannot be reached, or states nonsense.
    """
    from huggingface_hub import HfApi, constants

    def look(answer: Any) -> None:
        expected = f"a listing of at most {_LONGEST_LISTING:,} bytes"
        refuse = partial(nonsense, repo_id, expected, "more")
        bound(answer, _LONGEST_LISTING, refuse, packing=_PACKING)

    with _asking(repo_id, revision), held_session(look) as headers:
        info = HfApi(headers=headers).model_info(
            repo_id, revision=revision, files_metadata=True,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        )  # fmt: skip
        stated = [(item.rfilename, item.size, item.lfs) for item in info.siblings or ()]
        commit = info.sha
    if not isinstance(commit, str) or not is_commit(commit):
        raise nonsense(repo_id, "a 40-hex commit", commit)
    _require_commit(revision, commit)
    if len(stated) > _MOST_FILES:
        raise nonsense(repo_id, f"at most {_MOST_FILES:,} files", f"{len(stated):,}")
    files: dict[str, HubFile] = {}
    for name, size, lfs in stated:
        sha256 = None if lfs is None else lfs.sha256
        if not isinstance(name, str) or name in files:
            raise nonsense(repo_id, "each file once", name)
        is_size = type(size) is int and 0 <= size <= _LARGEST
        if not is_size or (lfs is not None and lfs.size != size):
            raise nonsense(repo_id, f"one size of {name[:120]}", size)
        if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
            raise nonsense(repo_id, f"the SHA-256 of {name[:120]}", sha256)
        files[name] = HubFile(size, sha256)
    return HubModel(repo_id, commit, files)


def read_file(model: HubModel, name: str, *, limit: int, only_first: bool = False) -> bytes:
    """Return the bytes of a small file; they are kept nowhere.

    Args:
        model: Where it is listed.
        name: Its path there.
        limit: Most bytes that are read.
        only_first: Return the first ``limit`` bytes of a longer file.

    Raises:
        KeyError: there is no such file.
        UnsafeFormatError: it is longer than ``limit``.
        HubError: see ``list_model``; or the Hub sends another number of bytes than it states.
    """
    size = model.files[name].size
    if size > limit and not only_first:
        raise UnsafeFormatError(
            f"{name}: expected at most {limit:,} bytes, got {size:,}.", hint=_ASK
        )
    return _read(model, name, 0, min(size, limit))


def read_headers(model: HubModel, names: Collection[str]) -> dict[str, Header]:
    """Return the headers of safetensors files; of their tensors no byte is asked for.

    Raises:
        KeyError: there is no such file.
        UnsafeFormatError: a header breaks a rule of ``tensorfile``, or all are too long together.
        HubError: see ``read_file``.
    """
    files = sorted(names)
    pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="hub")
    try:
        lengths = list(pool.map(lambda name: _header_length(model, name), files))
        if sum(lengths) > _MOST_HEADERS:
            raise UnsafeFormatError(
                f"{model.repo_id}: expected headers of at most {_MOST_HEADERS:,} bytes together, "
                f"got {sum(lengths):,}.",
                hint=_ASK,
            )
        texts = list(pool.map(lambda name, n: _read(model, name, 8, 8 + n), files, lengths))
    finally:  # an interrupt waits for the answers in hand, never for the queue
        pool.shutdown(wait=True, cancel_futures=True)
    return {
        name: parse_header(text, file_size=model.files[name].size, what=name, hint=_ASK)
        for name, text in zip(files, texts, strict=True)
    }


def _header_length(model: HubModel, name: str) -> int:
    size = model.files[name].size
    prefix = _read(model, name, 0, min(8, size))
    return header_length(prefix, file_size=size, what=name, limit=HEADER_LIMIT, hint=_ASK)


def _read(model: HubModel, name: str, start: int, stop: int) -> bytes:
    """Return the bytes from ``start`` to before ``stop`` of a file.

    A server may send the whole file instead; then it is left alone after the last byte wanted.
    """
    from huggingface_hub import HfApi, constants, get_session, hf_hub_url, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers

    if start == stop:
        return b""
    url = hf_hub_url(model.repo_id, name, revision=model.commit, endpoint=HfApi().endpoint)
    asked = {"Accept-Encoding": "identity"}
    size = model.files[name].size
    if (start, stop) != (0, size):
        asked["Range"] = f"bytes={start}-{stop - 1}"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    data = bytearray()
    with _asking(model.repo_id, model.commit):
        request = {"headers": {**build_hf_headers(), **asked}, "timeout": timeout}
        with get_session().stream("GET", url, **request) as response:
            hf_raise_for_status(response)
            answers = [*response.history, response]
            commits = {str(each.headers.get("X-Repo-Commit", model.commit)) for each in answers}
            if others := commits - {model.commit}:
                raise other_commit(model.commit, min(others))
            is_part = response.status_code == 206
            part = response.headers.get("Content-Range")
            first, wanted = (start, stop - start) if is_part else (0, stop)
            for piece in response.iter_raw():
                data += piece
                if len(data) > wanted:
                    break
    if is_part and part != f"bytes {start}-{stop - 1}/{size}":
        raise nonsense(model.repo_id, f"bytes {start}-{stop - 1}/{size} of {name[:120]}", part)
    if len(data) < wanted or (len(data) > wanted and (is_part or stop == size)):
        got = "more" if len(data) > wanted else f"{len(data):,}"
        raise nonsense(model.repo_id, f"{wanted:,} bytes of {name[:120]}", got)
    return bytes(data[start - first : stop - first])


def _asking(repo_id: str, revision: str | None) -> AbstractContextManager[None]:
    return asking(f"the model {repo_id} at {revision or 'its main revision'}", repo_id)


def _require_commit(revision: str | None, commit: str) -> None:
    if revision is not None and is_commit(revision) and commit != revision:
        raise other_commit(revision, commit)
