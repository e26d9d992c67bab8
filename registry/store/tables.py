"""The tables of the registry, as SQLAlchemy Core metadata.

- A closed set is a CHECK, not a database enum: a later migration only replaces a constraint.
- A digest column accepts ``blake3:`` and 64 lower-case hex digits, nothing else.
- Free text has no length. What has one is checked before it gets here: SQLite would not.
- JSON is text in canonical form: what was hashed is what is stored.
- ``migrations/`` is the history of this module; ``migrate.check`` says when they differ. The
  triggers that refuse to change or remove an event are made there; ``triggers`` knows them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from registry.store.columns import PlainText, UtcDateTime

if TYPE_CHECKING:
    from collections.abc import Iterable

STATES: Final = ("active", "yanked", "revoked")
ALIAS_SCHEMES: Final = ("name", "path", "hub", "sha256-set")
REPORT_KINDS: Final = ("lineage", "check", "inspect", "audit")
BASE_NAME_LIMIT: Final = 255
ALIAS_LIMIT: Final = 1024  # an index entry of PostgreSQL holds at most 2,704 bytes

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


ROW_ID = BigInteger().with_variant(Integer(), "sqlite")  # SQLite's rowid alias is INTEGER only
DIGEST = String(71)
KEY_ID = String(72)
# A byte-wise order everywhere: a server's locale would sort the key of versions differently.
ORDER_KEY = String(512).with_variant(String(512, collation="C"), "postgresql")


def _digest_check(column: str) -> CheckConstraint:
    return CheckConstraint(
        f"length({column}) = 71 AND substr({column}, 1, 7) = 'blake3:' "
        f"AND ltrim(substr({column}, 8), '0123456789abcdef') = ''",
        name=f"{column}_digest",
    )


def _key_check() -> CheckConstraint:
    return CheckConstraint(
        "length(key_id) = 72 AND substr(key_id, 1, 8) = 'ed25519:' "
        "AND ltrim(substr(key_id, 9), '0123456789abcdef') = ''",
        name="key_id_key",
    )


def _closed(column: str, values: Iterable[str]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def _key() -> Column[int]:
    return Column("id", ROW_ID, primary_key=True, autoincrement=True)


def _blob(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, DIGEST, ForeignKey("blobs.digest"), nullable=nullable)


identity = Table(
    "registry",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("id", String(32), nullable=False),
    CheckConstraint("one = 1", name="one_row"),
    CheckConstraint("length(id) = 32 AND ltrim(id, '0123456789abcdef') = ''", name="id_hex"),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", DIGEST, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    _digest_check("digest"),
    CheckConstraint("size >= 0", name="size_natural"),
)

bases = Table(
    "bases",
    metadata,
    _key(),
    Column("weights", DIGEST, nullable=False, unique=True),
    Column("name", String(BASE_NAME_LIMIT), nullable=False, unique=True),
    Column("family", String(64), nullable=False),
    Column("layers", Integer, nullable=False),
    Column("heads", Integer, nullable=False),
    Column("kv_heads", Integer, nullable=False),
    Column("head_dim", Integer, nullable=False),
    Column("hidden_size", Integer, nullable=False),
    Column("config_digest", DIGEST, nullable=False),
    Column("tokenizer", DIGEST),
    Column("chat_template", DIGEST),
    _blob("record_blob"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("probe", LargeBinary),  # last, and read by the search alone: see checkpoint.probe
    _digest_check("weights"),
    _digest_check("config_digest"),
    _digest_check("tokenizer"),
    _digest_check("chat_template"),
    CheckConstraint(
        "layers > 0 AND heads > 0 AND kv_heads > 0 AND head_dim > 0 AND hidden_size > 0",
        name="geometry_positive",
    ),
    CheckConstraint("length(probe) = 1024", name="probe_size"),
    Index(
        "ix_bases_geometry", "family", "layers", "heads", "kv_heads", "head_dim", "hidden_size"
    ),
)  # fmt: skip

aliases = Table(
    "aliases",
    metadata,
    _key(),
    Column("base_id", ROW_ID, ForeignKey("bases.id"), nullable=False, index=True),
    Column("scheme", String(16), nullable=False),
    Column("value", String(ALIAS_LIMIT), nullable=False, index=True),
    Column("created_at", UtcDateTime, nullable=False),
    _closed("scheme", ALIAS_SCHEMES),
    UniqueConstraint("scheme", "value"),
)

artifacts = Table(
    "artifacts",
    metadata,
    _key(),
    Column("name", String(96), nullable=False, unique=True),
    Column("kind", String(64), nullable=False),
    Column("base_id", ROW_ID, ForeignKey("bases.id"), nullable=False, index=True),
    Column("sequence", BigInteger, nullable=False, server_default="0"),
    Column("created_at", UtcDateTime, nullable=False),
    _blob("line_blob", nullable=True),  # the signed envelope of the document of this sequence
    CheckConstraint("sequence >= 0", name="sequence_natural"),
)

versions = Table(
    "versions",
    metadata,
    _key(),
    Column("artifact_id", ROW_ID, ForeignKey("artifacts.id"), nullable=False),
    Column("version", String(64), nullable=False),
    Column("version_order", ORDER_KEY, nullable=False),
    Column("manifest_digest", DIGEST, nullable=False, unique=True),
    Column("state", String(16), nullable=False, server_default="active"),
    Column("state_reason", PlainText),
    _blob("signature_blob", nullable=True),
    Column("key_id", String(128)),
    Column("not_before", UtcDateTime),
    Column("expires_at", UtcDateTime),
    Column("published_at", UtcDateTime, nullable=False),
    _digest_check("manifest_digest"),
    _closed("state", STATES),
    UniqueConstraint("artifact_id", "version"),
    UniqueConstraint("artifact_id", "version_order"),
)

version_files = Table(
    "version_files",
    metadata,
    Column("version_id", ROW_ID, ForeignKey("versions.id"), nullable=False),
    Column("path", String(128), nullable=False),
    _blob("blob"),
    PrimaryKeyConstraint("version_id", "path"),
    Index(None, "blob"),
)

keys = Table(
    "keys",
    metadata,
    Column("key_id", KEY_ID, primary_key=True),
    Column("label", PlainText),
    Column("namespaces", Text, nullable=False),
    Column("not_before", UtcDateTime),
    Column("not_after", UtcDateTime),
    Column("trusted_at", UtcDateTime),  # none for a key that was revoked before it was trusted
    Column("revoked_at", UtcDateTime),
    Column("revoked_reason", PlainText),
    _key_check(),
    CheckConstraint(
        "trusted_at IS NOT NULL OR revoked_at IS NOT NULL", name="trusted_or_revoked"
    ),
    CheckConstraint("(revoked_at IS NULL) = (revoked_reason IS NULL)", name="revoked_why"),
)  # fmt: skip

# The newest signed document seen of each line, published here or not.
line_heads = Table(
    "line_heads",
    metadata,
    Column("name", String(96), nullable=False),
    Column("base", DIGEST, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("digest", DIGEST, nullable=False),
    Column("key_ids", Text, nullable=False),  # every key that vouches for it: JSON, sorted
    Column("document", LargeBinary, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("name", "base"),
    _digest_check("base"),
    _digest_check("digest"),
    CheckConstraint("substr(key_ids, 1, 10) = '[\"ed25519:'", name="key_ids_keys"),
    CheckConstraint("sequence > 0", name="sequence_positive"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    _key(),
    Column("weights", DIGEST, nullable=False, unique=True),
    Column("base_id", ROW_ID, ForeignKey("bases.id"), index=True),
    Column("relation", PlainText, nullable=False),
    Column("evidence_level", Integer, nullable=False),
    Column("distance", Double),
    Column("config_digest", DIGEST),
    Column("locator", PlainText),
    Column("first_seen", UtcDateTime, nullable=False),
    Column("last_seen", UtcDateTime, nullable=False),
    _digest_check("weights"),
    _digest_check("config_digest"),
    CheckConstraint("evidence_level BETWEEN 0 AND 4", name="evidence_level_known"),
    CheckConstraint("distance >= 0", name="distance_natural"),
)

reports = Table(
    "reports",
    metadata,
    _key(),
    Column("checkpoint_id", ROW_ID, ForeignKey("checkpoints.id"), nullable=False),
    Column("version_id", ROW_ID, ForeignKey("versions.id"), index=True),
    Column("kind", String(16), nullable=False),
    Column("verdict", PlainText, nullable=False),
    Column("body", Text, nullable=False),
    Column("tool_version", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    _closed("kind", REPORT_KINDS),
    Index(None, "checkpoint_id", "kind"),
)

applications = Table(
    "applications",
    metadata,
    _key(),
    Column("checkpoint_id", ROW_ID, ForeignKey("checkpoints.id"), nullable=False, index=True),
    Column("version_id", ROW_ID, ForeignKey("versions.id"), index=True),
    Column("manifest_digest", DIGEST, nullable=False, index=True),
    Column("kind", String(64), nullable=False),
    Column("alpha", Double),
    Column("device", PlainText, nullable=False),
    Column("applied_at", UtcDateTime, nullable=False),
    Column("verified_at", UtcDateTime),
    Column("evidence", Text, nullable=False),
    Column("policy", PlainText, nullable=False),
    _digest_check("manifest_digest"),
)

events = Table(
    "events",
    metadata,
    Column("sequence", ROW_ID, primary_key=True, autoincrement=False),
    Column("at", String(27), nullable=False),  # the hashed text itself: 2030-01-31T12:00:00.000000Z
    Column("actor", PlainText, nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", PlainText, nullable=False),
    Column("detail", Text, nullable=False),
    Column("previous_digest", DIGEST, nullable=False),
    Column("digest", DIGEST, nullable=False, unique=True),
    _digest_check("previous_digest"),
    _digest_check("digest"),
    CheckConstraint("sequence > 0", name="sequence_positive"),
)
