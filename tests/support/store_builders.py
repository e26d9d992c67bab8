"""Small real values for tests of the store: base records, manifests and their files."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from registry.artifact.manifest import BaseIdentity, FileEntry, Manifest
from registry.checkpoint.geometry import Geometry
from registry.checkpoint.record import Entry
from registry.checkpoint.sketch import extent
from registry.digest import Digest, digest_bytes
from registry.store.values import SignedLine

if TYPE_CHECKING:
    from collections.abc import Sequence

GEOMETRY = Geometry(
    family="llama", layers=2, heads=4, kv_heads=2, head_dim=16, hidden_size=64
)  # fmt: skip


def digest_of(tag: str) -> Digest:
    """Return a digest that belongs to ``tag``."""
    return digest_bytes(tag.encode())


def make_record(
    tag: str = "base",
    geometry: Geometry = GEOMETRY,
    *,
    like: int | None = None,
    relative: float = 0.0,
) -> Any:
    """Return the fields of a base record that the store reads.

    Args:
        tag: What its digests belong to.
        geometry: Its geometry.
        like: Seed of random weights; a record without has no weights, and so no probe.
        relative: How far its weights are from those of ``like``, along a direction of its own.
    """
    entries, samples = [], {}
    for name in [] if like is None else _weight_names(geometry):
        entry = Entry(name, "F32", (64, 64), digest_of(f"{tag} {name}"))
        values = _normal(f"{like} {name}", extent(entry.shape).count)
        values += relative * _normal(f"{tag} {name}", len(values))
        entries.append(entry)
        samples[name] = values.astype("<f4").tobytes()
    return SimpleNamespace(
        entries=tuple(entries),
        samples=samples,
        weights=digest_of(tag),
        config_digest=digest_of(f"{tag} config"),
        tokenizer=digest_of(f"{tag} tokenizer"),
        chat_template=None,
        geometry=geometry,
    )


def _weight_names(geometry: Geometry) -> list[str]:
    modules = [f"self_attn.{role}_proj" for role in "qkvo"] + ["mlp.down_proj"]
    layers = range(geometry.layers)
    return [f"model.layers.{layer}.{module}.weight" for layer in layers for module in modules]


def _normal(tag: str, count: int) -> Any:
    seed = int(digest_of(tag).removeprefix("blake3:"), 16)
    return np.random.default_rng(seed).standard_normal(count)


def make_bundle(
    name: str | None = "lock",
    version: str | None = "1.0.0",
    *,
    base: str = "base",
    kind: str = "safety_lock",
    tensors: bytes = b"tensors",
    **changes: Any,
) -> tuple[Manifest, dict[str, bytes]]:
    """Return a manifest and the files it covers, ``manifest.json`` included."""
    files = {"tensors.safetensors": tensors, "base.safetensors": f"record of {base}".encode()}
    manifest = Manifest(
        kind=kind,
        created="2030-01-01T00:00:00Z",
        base=BaseIdentity(
            name=base,
            weights=digest_of(base),
            config=digest_of(f"{base} config"),
            tokenizer=None,
            chat_template=None,
        ),
        geometry=GEOMETRY.to_dict(),
        body={},
        files={n: FileEntry(digest_bytes(data), len(data)) for n, data in files.items()},
        provenance={},
        name=name,
        version=version,
        **changes,
    )
    return manifest, {"manifest.json": manifest.to_bytes(), **files}


def key_of(tag: str) -> str:
    """Return the id of a key that belongs to ``tag``; it has no private one."""
    return "ed25519:" + digest_of(tag).removeprefix("blake3:")


def make_line(
    name: str = "lock",
    sequence: int = 1,
    *,
    base: str = "base",
    keys: Sequence[str] = ("key",),
    tag: str = "",
) -> SignedLine:
    """Return a line as the store takes it; ``tag`` makes another document of the same sequence."""
    document = f"line {name} {base} {sequence}{tag}".encode()
    return SignedLine(
        name=name,
        base=digest_of(base),
        sequence=sequence,
        digest=digest_bytes(document),
        key_ids=tuple(map(key_of, keys)),
        document=document,
        envelope=f"signed by {', '.join(keys)}: ".encode() + document,
    )


def let_events_change(connection: Any) -> None:
    """Take away what keeps events as they are, as somebody would who may change the tables.

    Args:
        connection: One of SQLAlchemy or of ``sqlite3``, in the transaction of the change.
    """
    run = getattr(connection, "exec_driver_sql", None) or connection.execute
    if hasattr(connection, "dialect") and connection.dialect.name == "postgresql":
        run("ALTER TABLE events DISABLE TRIGGER events_refuse_change")
        return
    for change in ("update", "delete", "replace"):
        run(f"DROP TRIGGER IF EXISTS events_refuse_{change}")


def publish(registry: Any, name: str, version: str, **changes: Any) -> Any:
    """Publish a version, its base registered first; return the version."""
    base = changes.get("base", "base")
    registry.add_base(base, make_record(base), f"record of {base}".encode())
    manifest, files = make_bundle(name, version, **changes)
    return registry.add_version(manifest, files, base_name=base)[0]
