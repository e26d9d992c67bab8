"""A Hugging Face Hub on this machine, for the real and unmodified client.

``serving`` yields a ``Hub``: its repositories, its ``log`` of requests, its ``faults``.
``client_at`` points the client of this process at it, ``environment_at`` that of another one.
"""

from support.hub.client import client_at, environment_at
from support.hub.faults import (
    Fault,
    extra_file,
    hostile_etag,
    lost_response,
    moved_ref,
    other_commit,
    other_size,
    renamed,
    stale,
)
from support.hub.history import MOVED
from support.hub.server import serving
from support.hub.state import ALICE, BOB, READER, Asked, Hub, Repo

__all__ = [
    "ALICE",
    "BOB",
    "MOVED",
    "READER",
    "Asked",
    "Fault",
    "Hub",
    "Repo",
    "client_at",
    "environment_at",
    "extra_file",
    "hostile_etag",
    "lost_response",
    "moved_ref",
    "other_commit",
    "other_size",
    "renamed",
    "serving",
    "stale",
]
