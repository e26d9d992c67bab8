"""What the processes of the store's race tests run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from support.store_builders import make_bundle, make_record

from registry.errors import ArtifactNotFoundError, VersionConflictError
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from registry.settings import Settings


def create_and_publish(settings: Settings, worker: int, count: int) -> list[str]:
    """Create the registry, then publish ``count`` versions of one line, each numbered next."""
    done = []
    with Registry.create(settings=settings) as registry:
        registry.add_base("base", make_record(), b"record of base")
        while len(done) < count:
            tensors = f"{worker}.{len(done)}.{os.getpid()}".encode()
            manifest, files = make_bundle("lock", f"{_next(registry)}.0", tensors=tensors)
            try:
                version, is_new = registry.add_version(manifest, files, base_name="base")
            except VersionConflictError:
                continue  # another process took the number
            assert is_new
            done.append(version.version)
    return done


def _next(registry: Registry) -> int:
    try:
        return int(registry.versions("lock")[0].version.split(".")[0]) + 1
    except ArtifactNotFoundError:
        return 1
