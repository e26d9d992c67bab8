"""The alias that recognises a checkpoint by what the Hub says about its files.

``sha256-set`` is ``sha256:`` and the SHA-256 of this text: the SHA-256 of every weight file as 64
lower-case hex digits, sorted, each on a line of its own that ends with a line feed. Names of files
and the index are no part of it. The Hub states these numbers, and so does every shell:
``sha256sum *.safetensors | cut -c1-64 | sort | sha256sum``.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING

from registry.checkpoint.reader import Checkpoint
from registry.errors import EvidenceError
from registry.plainfile import SETTLE, open_plain, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from registry.workflows.identify import Identified

_PIECE = 4 << 20
_MOST_THREADS = 8
_HINT = "Get the model's files again: hf download NS/NAME --local-dir DIR"


def sha256_set(digests: Iterable[str]) -> str:
    """Return the ``sha256-set`` alias of files with these SHA-256 values (hex), one for each."""
    lines = "".join(f"{digest}\n" for digest in sorted(digests))
    return f"sha256:{hashlib.sha256(lines.encode('ascii')).hexdigest()}"


def measure_sha256_set(
    model: Identified,
    *,
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> str:
    """Return the ``sha256-set`` alias of the files that ``model`` was read from, reading them all.

    An interrupt ends it after the pieces in hand.

    Args:
        model: The checkpoint; its files must be those that were read.
        progress: Called in this thread with (bytes done, bytes in all).
        threads: How many files to read at once; the number of processors, at most 8, by default.

    Raises:
        EvidenceError: a file was written or replaced since it was read.
        UnsafeFormatError, HostError: a file cannot be read.
    """
    with Checkpoint.open(model.path) as checkpoint:
        if checkpoint.stat_key() != model.key:
            raise EvidenceError(
                f"{model.path}: expected the files that were read, got files that changed since.",
                hint=SETTLE,
            )
        digests = _hash_all(checkpoint.files, progress, threads or _processors())
        checkpoint.require_unchanged()
    return sha256_set(digests)


def _processors() -> int:
    return min(_MOST_THREADS, os.cpu_count() or 1)


def _hash_all(
    files: tuple[Path, ...], progress: Callable[[int, int], None] | None, threads: int
) -> list[str]:
    total, done = sum(file.stat().st_size for file in files), 0
    told: SimpleQueue[int | Future[str]] = SimpleQueue()
    stopped = Event()
    digests: list[str] = []
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="sha256")
    try:
        for file in sorted(files, key=lambda path: -path.stat().st_size):
            pool.submit(_hash, file, told.put, stopped).add_done_callback(told.put)
        while len(digests) < len(files):
            # Not ``futures.wait``: an interrupt inside it can leave locks that the workers need.
            news = told.get()
            if isinstance(news, Future):
                digests.append(news.result())
                continue
            done += news
            if progress is not None:
                progress(done, total)
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
    return digests


def _hash(path: Path, tell: Callable[[int], None], stopped: Event) -> str:
    hasher = hashlib.sha256()
    with open_plain(path, hint=_HINT) as file:
        try:
            for piece in iter(partial(file.read, _PIECE), b""):
                hasher.update(piece)
                tell(len(piece))
                if stopped.is_set():
                    break
        except OSError as error:
            raise unreadable(path, error, hint=_HINT) from error
    return hasher.hexdigest()
