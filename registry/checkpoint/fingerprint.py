"""Identity and sketch of a checkpoint, in one pass over its bytes.

Rules:

- The weights digest is BLAKE3 over the canonical JSON of the sorted list of [name, dtype, shape,
  BLAKE3 of the tensor's bytes]. dtype and shape are part of it; sharding, file names, the order in
  the file and free-text metadata are not.
- **Tied head**: an output head (``lm_head.weight``) whose dtype, shape and digest equal the input
  embedding's is left out, whether or not it was stored. Writers differ in this and the model is the
  same; whether the head is tied is the config's ``tie_word_embeddings``, beside the identity.
- A head that the config unties must be stored: loaders fill a missing one with random numbers.
- Weights that are not finite are bits like any others.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.config import computation_fields, config_digest
from registry.checkpoint.geometry import read_geometry
from registry.checkpoint.record import BaseRecord, Entry, entries_json
from registry.checkpoint.sketch import Sampler
from registry.checkpoint.texts import chat_template_digest, tokenizer_digest
from registry.digest import digest_bytes, digest_pieces
from registry.errors import GeometryError
from registry.wording import RESTORE_CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from registry.checkpoint.architecture import Sites
    from registry.checkpoint.reader import Checkpoint

    Measured = tuple[Entry, bytes]

_MOST_THREADS = 8


def fingerprint(
    checkpoint: Checkpoint,
    *,
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> BaseRecord:
    """Return everything measured about an open checkpoint.

    The result does not depend on ``threads``. Bytes are digested and sampled piece by piece as they
    are read, so memory stays at a few megabytes whatever the model's size.

    Args:
        checkpoint: The open checkpoint.
        progress: Called in this thread with (bytes done, bytes in all) after each tensor.
        threads: How many tensors to read at once; the number of processors, at most 8, by default.

    Raises:
        UnsupportedArchitectureError: there is no row for the family.
        GeometryError: config and shapes disagree, or an untied output head is missing.
        EvidenceError: a file changed while it was read.
    """
    sites = sites_for(checkpoint.config.get("model_type"))
    geometry = read_geometry(checkpoint.shapes, checkpoint.config)
    fields = computation_fields(checkpoint.config, geometry)
    if not fields["tie_word_embeddings"] and sites.head not in checkpoint.tensors:
        raise GeometryError(
            f"config tie_word_embeddings is false and {sites.head} is not stored: "
            "a loader would fill it with random numbers.",
            hint=RESTORE_CONFIG,
        )
    tokenizer = tokenizer_digest(checkpoint.folder)  # refused, if at all, before the long reading
    chat_template = chat_template_digest(checkpoint.folder)
    measured = _measure_all(checkpoint, progress, threads or min(_MOST_THREADS, _processors()))
    if fields["tie_word_embeddings"]:
        _drop_tied_head(measured, sites)
    entries = tuple(measured[name][0] for name in sorted(measured))
    record = BaseRecord(
        weights=digest_bytes(entries_json(entries)),
        entries=entries,
        samples={entry.name: measured[entry.name][1] for entry in entries},
        config=fields,
        config_digest=config_digest(fields),
        tokenizer=tokenizer,
        chat_template=chat_template,
        geometry=geometry,
    )
    checkpoint.require_unchanged()
    return record


def _processors() -> int:
    return os.cpu_count() or 1


def _measure_all(
    checkpoint: Checkpoint, progress: Callable[[int, int], None] | None, threads: int
) -> dict[str, Measured]:
    tensors = checkpoint.tensors
    total, done = sum(info.nbytes for info in tensors.values()), 0
    measured: dict[str, Measured] = {}
    results: SimpleQueue[tuple[str, Future[Measured]]] = SimpleQueue()
    largest_first = sorted(tensors, key=lambda name: -tensors[name].nbytes)
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="fingerprint")
    try:
        for name in largest_first:
            future = pool.submit(_measure, checkpoint, name)
            future.add_done_callback(partial(_tell, results, name))
        while len(measured) < len(tensors):
            # Not ``futures.wait``: an interrupt inside it can leave locks that the workers need.
            name, finished = results.get()
            measured[name] = finished.result()
            done += tensors[name].nbytes
            if progress is not None:
                progress(done, total)
    finally:  # an interrupt waits for the tensors in hand, never for the queue
        pool.shutdown(wait=True, cancel_futures=True)
    return measured


def _tell(
    results: SimpleQueue[tuple[str, Future[Measured]]], name: str, finished: Future[Measured]
) -> None:
    results.put((name, finished))


def _measure(checkpoint: Checkpoint, name: str) -> Measured:
    info = checkpoint.tensors[name]
    sampler = Sampler(name, info.dtype, info.shape)

    def sampled() -> Iterator[memoryview]:
        for piece in checkpoint.pieces(name):
            sampler.add(piece)
            yield piece

    entry = Entry(name, info.dtype, info.shape, digest_pieces(sampled()))
    return entry, sampler.bits()


def _drop_tied_head(measured: dict[str, Measured], sites: Sites) -> None:
    """Take the output head out where it is the embedding once more, as the config says.

    Raises:
        GeometryError: it is another one, which some loaders would use and some would not.
    """
    if sites.head not in measured or sites.embedding not in measured:
        return
    head, embedding = measured[sites.head][0], measured[sites.embedding][0]
    expected = (embedding.dtype, embedding.shape, embedding.digest)
    if (head.dtype, head.shape, head.digest) != expected:
        raise GeometryError(
            f"config tie_word_embeddings is true: expected {sites.head} to be {sites.embedding} "
            f"({embedding.digest}), got another ({head.digest}).",
            hint=RESTORE_CONFIG,
        )
    del measured[sites.head]
