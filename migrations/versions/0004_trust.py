"""Keys that are trusted, the newest signed line seen of each, and the one in force of each own.

SQLite's INSERT OR REPLACE fires no trigger of DELETE: it was a way to exchange an event.

A revision is history: it names its own types and imports nothing of the package.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

DIGEST = sa.String(71)
KEY_ID = sa.String(72)
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("key_id", KEY_ID, nullable=False),
        sa.Column("label", sa.Text()),
        sa.Column("namespaces", sa.Text(), nullable=False),
        sa.Column("not_before", TIME),
        sa.Column("not_after", TIME),
        sa.Column("trusted_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.Column("revoked_reason", sa.Text()),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_keys")),
        is_key("keys"),
        sa.CheckConstraint(
            "trusted_at IS NOT NULL OR revoked_at IS NOT NULL",
            name=op.f("ck_keys_trusted_or_revoked"),
        ),
        sa.CheckConstraint(
            "(revoked_at IS NULL) = (revoked_reason IS NULL)", name=op.f("ck_keys_revoked_why")
        ),
    )
    op.create_table(
        "line_heads",
        sa.Column("name", sa.String(96), nullable=False),
        sa.Column("base", DIGEST, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("key_ids", sa.Text(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", "base", name=op.f("pk_line_heads")),
        is_digest("line_heads", "base"),
        is_digest("line_heads", "digest"),
        sa.CheckConstraint(
            "substr(key_ids, 1, 10) = '[\"ed25519:'", name=op.f("ck_line_heads_key_ids_keys")
        ),
        sa.CheckConstraint("sequence > 0", name=op.f("ck_line_heads_sequence_positive")),
    )
    with op.batch_alter_table("artifacts") as table:
        table.add_column(sa.Column("line_blob", DIGEST, nullable=True))
        table.create_foreign_key(
            op.f("fk_artifacts_line_blob_blobs"), "blobs", ["line_blob"], ["digest"]
        )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER events_refuse_replace BEFORE INSERT ON events "
            "WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM events) "
            "OR EXISTS (SELECT 1 FROM events WHERE digest = NEW.digest) "
            "BEGIN SELECT RAISE(ABORT, 'events are only appended: none is changed or removed'); END"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER events_refuse_replace")
    with op.batch_alter_table("artifacts") as table:
        table.drop_constraint(op.f("fk_artifacts_line_blob_blobs"), type_="foreignkey")
        table.drop_column("line_blob")
    op.drop_table("line_heads")
    op.drop_table("keys")


def is_digest(table: str, column: str) -> sa.CheckConstraint:
    condition = (
        f"length({column}) = 71 AND substr({column}, 1, 7) = 'blake3:' "
        f"AND ltrim(substr({column}, 8), '0123456789abcdef') = ''"
    )
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{column}_digest"))


def is_key(table: str) -> sa.CheckConstraint:
    condition = (
        "length(key_id) = 72 AND substr(key_id, 1, 8) = 'ed25519:' "
        "AND ltrim(substr(key_id, 9), '0123456789abcdef') = ''"
    )
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_key_id_key"))
