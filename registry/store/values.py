"""What the store hands out: frozen values, never rows.

Times are aware and UTC. Digests are ``blake3:<64 hex>``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from registry.store._order import is_prerelease

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from registry.digest import Digest

State = Literal["active", "yanked", "revoked"]
AliasScheme = Literal["name", "path", "hub", "sha256-set"]
ReportKind = Literal["lineage", "check", "inspect", "audit"]


@dataclass(frozen=True, slots=True)
class Alias:
    """Another way to name a base model; a locator, never identity."""

    scheme: AliasScheme
    value: str


@dataclass(frozen=True, slots=True)
class Base:
    """A registered base model.

    Attributes:
        name: Unique name in this registry.
        weights: Weights digest: the identity.
        family: Architecture family; with the five counts after it, the geometry.
        config_digest: Digest of the config fields that change the computation.
        tokenizer: Digest of the tokenizer, if it had one.
        chat_template: Digest of the chat template, if it had one.
        record: Digest of the stored base record (``Registry.base_record_bytes``).
        aliases: Other ways to name it, sorted.
        created_at: When it was registered.
    """

    name: str
    weights: Digest
    family: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    config_digest: Digest
    tokenizer: Digest | None
    chat_template: Digest | None
    record: Digest
    aliases: tuple[Alias, ...]
    created_at: dt.datetime

    @property
    def is_measured(self) -> bool:
        """Whether it was added from its own files: one that came in a bundle has no alias."""
        return bool(self.aliases)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of artifacts: one name, one kind, one base, versions that increase.

    Attributes:
        sequence: Sequence number of the line's signed document; 0 before there is one.
        newest: The version that ``name`` alone resolves to; ``None`` when none is active.
        count: Number of published versions, whatever their state.
    """

    name: str
    kind: str
    base_name: str
    base_weights: Digest
    sequence: int
    newest: str | None
    count: int
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Version:
    """A published version; it never changes, except for its state.

    Attributes:
        digest: Digest of the manifest: the identity.
        state: ``yanked`` resolves by exact pin only, ``revoked`` never.
        key_id: Key of the stored signature, if it was signed.
        not_before: Start of validity, if the manifest names one.
        expires_at: End of validity, if the manifest names one. Whether it has passed is for the
            caller to say: the store has no clock of its own for trust.
    """

    name: str
    version: str
    kind: str
    base_name: str
    base_weights: Digest
    digest: Digest
    state: State
    state_reason: str | None
    key_id: str | None
    not_before: dt.datetime | None
    expires_at: dt.datetime | None
    published_at: dt.datetime

    @property
    def label(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @property
    def is_prerelease(self) -> bool:
        """Whether PEP 440 calls it a pre-release."""
        return is_prerelease(self.version)


@dataclass(frozen=True, slots=True)
class SignedLine:
    """The document of a line and its envelope, verified by whoever hands it over.

    Attributes:
        name: Name of the line.
        base: Weights digest of its base.
        sequence: Number of the document, from 1.
        digest: Digest of ``document``.
        key_ids: The keys that signed it and count here; at least one.
        document: The payload.
        envelope: Payload and signatures.
    """

    name: str
    base: Digest
    sequence: int
    digest: Digest
    key_ids: tuple[str, ...]
    document: bytes
    envelope: bytes


@dataclass(frozen=True, slots=True)
class LineHead:
    """The newest signed document seen of a line, published here or not; see ``SignedLine``.

    Attributes:
        key_ids: The keys that vouch for it, sorted; a revoked key is none of them.
        seen_at: When it was first seen here.
    """

    name: str
    base: Digest
    sequence: int
    digest: Digest
    key_ids: tuple[str, ...]
    document: bytes
    seen_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Report:
    """What a command found out about a checkpoint; ``version`` is ``name@version`` or ``None``."""

    weights: Digest
    version: str | None
    kind: ReportKind
    verdict: str
    body: Any
    tool_version: str
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Application:
    """An artifact put onto a live model.

    Attributes:
        weights: Weights digest of the checkpoint that was loaded.
        version: ``name@version`` when this registry holds it.
        alpha: Strength; dimensionless; ``None`` where the kind has none.
        verified_at: When the live model was read back and found to match; ``None`` if it was not.
        evidence: What that reading found.
        policy: The policy the load ran under.
    """

    weights: Digest
    version: str | None
    manifest_digest: Digest
    kind: str
    alpha: float | None
    device: str
    applied_at: dt.datetime
    verified_at: dt.datetime | None
    evidence: Mapping[str, Any]
    policy: str


@dataclass(frozen=True, slots=True)
class Event:
    """One link of the event log; ``digest`` covers all the other fields."""

    sequence: int
    at: str
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]
    previous: Digest
    digest: Digest
