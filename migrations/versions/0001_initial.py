"""The first tables.

A revision is history: it names its own types and imports nothing of the package.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DIGEST = sa.String(71)
TIME = sa.DateTime(timezone=True)
ORDER_KEY = sa.String(512).with_variant(sa.String(512, collation="C"), "postgresql")


def upgrade() -> None:
    create_blobs_and_bases()
    create_artifacts()
    create_journal()


def create_blobs_and_bases() -> None:
    op.create_table(
        "blobs",
        required("digest", DIGEST),
        required("size", sa.BigInteger()),
        required("created_at", TIME),
        key("blobs", "digest"),
        is_digest("blobs", "digest"),
        check("blobs", "size_natural", "size >= 0"),
    )
    op.create_table(
        "bases",
        row_id(),
        required("weights", DIGEST),
        required("name", sa.String(255)),
        required("family", sa.String(64)),
        required("layers", sa.Integer()),
        required("heads", sa.Integer()),
        required("kv_heads", sa.Integer()),
        required("head_dim", sa.Integer()),
        required("hidden_size", sa.Integer()),
        required("config_digest", DIGEST),
        sa.Column("tokenizer", DIGEST),
        sa.Column("chat_template", DIGEST),
        required("record_blob", DIGEST),
        required("created_at", TIME),
        key("bases", "id"),
        unique("bases", "weights"),
        unique("bases", "name"),
        names("bases", "record_blob", "blobs", "digest"),
        is_digest("bases", "weights"),
        is_digest("bases", "config_digest"),
        is_digest("bases", "tokenizer"),
        is_digest("bases", "chat_template"),
        check(
            "bases",
            "geometry_positive",
            "layers > 0 AND heads > 0 AND kv_heads > 0 AND head_dim > 0 AND hidden_size > 0",
        ),
    )
    geometry = ["family", "layers", "heads", "kv_heads", "head_dim", "hidden_size"]
    op.create_index("ix_bases_geometry", "bases", geometry)
    op.create_table(
        "aliases",
        row_id(),
        required("base_id", ROW_ID),
        required("scheme", sa.String(16)),
        required("value", sa.String(1024)),
        required("created_at", TIME),
        key("aliases", "id"),
        unique("aliases", "scheme", "value"),
        names("aliases", "base_id", "bases", "id"),
        check("aliases", "scheme_known", "scheme IN ('name', 'path', 'hub', 'sha256-set')"),
    )
    index("aliases", "base_id")
    index("aliases", "value")


def create_artifacts() -> None:
    op.create_table(
        "artifacts",
        row_id(),
        required("name", sa.String(96)),
        required("kind", sa.String(64)),
        required("base_id", ROW_ID),
        required("sequence", sa.BigInteger(), server_default="0"),
        required("created_at", TIME),
        key("artifacts", "id"),
        unique("artifacts", "name"),
        names("artifacts", "base_id", "bases", "id"),
        check("artifacts", "sequence_natural", "sequence >= 0"),
    )
    index("artifacts", "base_id")
    op.create_table(
        "versions",
        row_id(),
        required("artifact_id", ROW_ID),
        required("version", sa.String(64)),
        required("version_order", ORDER_KEY),
        required("manifest_digest", DIGEST),
        required("state", sa.String(16), server_default="active"),
        sa.Column("state_reason", sa.Text()),
        sa.Column("signature_blob", DIGEST),
        sa.Column("key_id", sa.String(128)),
        sa.Column("not_before", TIME),
        sa.Column("expires_at", TIME),
        required("published_at", TIME),
        key("versions", "id"),
        unique("versions", "manifest_digest"),
        unique("versions", "artifact_id", "version"),
        unique("versions", "artifact_id", "version_order"),
        names("versions", "artifact_id", "artifacts", "id"),
        names("versions", "signature_blob", "blobs", "digest"),
        is_digest("versions", "manifest_digest"),
        check("versions", "state_known", "state IN ('active', 'yanked', 'revoked')"),
    )
    op.create_table(
        "version_files",
        required("version_id", ROW_ID),
        required("path", sa.String(128)),
        required("blob", DIGEST),
        key("version_files", "version_id", "path"),
        names("version_files", "version_id", "versions", "id"),
        names("version_files", "blob", "blobs", "digest"),
    )
    index("version_files", "blob")


def create_journal() -> None:
    op.create_table(
        "checkpoints",
        row_id(),
        required("weights", DIGEST),
        sa.Column("base_id", ROW_ID),
        required("relation", sa.Text()),
        required("evidence_level", sa.Integer()),
        sa.Column("distance", sa.Double()),
        sa.Column("config_digest", DIGEST),
        sa.Column("locator", sa.Text()),
        required("first_seen", TIME),
        required("last_seen", TIME),
        key("checkpoints", "id"),
        unique("checkpoints", "weights"),
        names("checkpoints", "base_id", "bases", "id"),
        is_digest("checkpoints", "weights"),
        is_digest("checkpoints", "config_digest"),
        check("checkpoints", "evidence_level_known", "evidence_level BETWEEN 0 AND 4"),
        check("checkpoints", "distance_natural", "distance >= 0"),
    )
    index("checkpoints", "base_id")
    op.create_table(
        "reports",
        row_id(),
        required("checkpoint_id", ROW_ID),
        sa.Column("version_id", ROW_ID),
        required("kind", sa.String(16)),
        required("verdict", sa.Text()),
        required("body", sa.Text()),
        required("tool_version", sa.String(64)),
        required("created_at", TIME),
        key("reports", "id"),
        names("reports", "checkpoint_id", "checkpoints", "id"),
        names("reports", "version_id", "versions", "id"),
        check("reports", "kind_known", "kind IN ('lineage', 'check', 'inspect', 'audit')"),
    )
    index("reports", "checkpoint_id", "kind")
    index("reports", "version_id")
    op.create_table(
        "applications",
        row_id(),
        required("checkpoint_id", ROW_ID),
        sa.Column("version_id", ROW_ID),
        required("manifest_digest", DIGEST),
        required("kind", sa.String(64)),
        sa.Column("alpha", sa.Double()),
        required("device", sa.Text()),
        required("applied_at", TIME),
        sa.Column("verified_at", TIME),
        required("evidence", sa.Text()),
        required("policy", sa.Text()),
        key("applications", "id"),
        names("applications", "checkpoint_id", "checkpoints", "id"),
        names("applications", "version_id", "versions", "id"),
        is_digest("applications", "manifest_digest"),
    )
    index("applications", "checkpoint_id")
    index("applications", "version_id")
    index("applications", "manifest_digest")
    op.create_table(
        "events",
        required("sequence", ROW_ID, autoincrement=False),
        required("at", sa.String(27)),
        required("actor", sa.Text()),
        required("action", sa.String(64)),
        required("subject", sa.Text()),
        required("detail", sa.Text()),
        required("previous_digest", DIGEST),
        required("digest", DIGEST),
        key("events", "sequence"),
        unique("events", "digest"),
        is_digest("events", "previous_digest"),
        is_digest("events", "digest"),
        check("events", "sequence_positive", "sequence > 0"),
    )


def downgrade() -> None:
    for name in (
        "events",
        "applications",
        "reports",
        "checkpoints",
        "version_files",
        "versions",
        "artifacts",
        "aliases",
        "bases",
        "blobs",
    ):
        op.drop_table(name)


def required(name: str, kind: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, **options)


def row_id() -> sa.Column[Any]:
    return required("id", ROW_ID, autoincrement=True)


def key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=op.f(f"uq_{table}_{'_'.join(columns)}"))


def names(table: str, column: str, other: str, other_column: str) -> sa.ForeignKeyConstraint:
    target = f"{other}.{other_column}"
    return sa.ForeignKeyConstraint([column], [target], name=op.f(f"fk_{table}_{column}_{other}"))


def check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def is_digest(table: str, column: str) -> sa.CheckConstraint:
    condition = (
        f"length({column}) = 71 AND substr({column}, 1, 7) = 'blake3:' "
        f"AND ltrim(substr({column}, 8), '0123456789abcdef') = ''"
    )
    return check(table, f"{column}_digest", condition)


def index(table: str, *columns: str) -> None:
    op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, list(columns))
