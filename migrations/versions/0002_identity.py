"""A registry has an identity of its own, and its events stay as they were written.

A revision is history: it names its own types and imports nothing of the package.
"""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

REFUSAL = "events are only appended: none is changed or removed"


def upgrade() -> None:
    registry = op.create_table(
        "registry",
        sa.Column("one", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("one", name=op.f("pk_registry")),
        sa.CheckConstraint("one = 1", name=op.f("ck_registry_one_row")),
        sa.CheckConstraint(
            "length(id) = 32 AND ltrim(id, '0123456789abcdef') = ''",
            name=op.f("ck_registry_id_hex"),
        ),
    )
    op.execute(sa.insert(registry).values(one=1, id=secrets.token_hex(16)))
    refuse_changes_of_events()


def refuse_changes_of_events() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for change in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER events_refuse_{change} BEFORE {change.upper()} ON events "
                f"BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION events_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER events_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON events "
        "FOR EACH STATEMENT EXECUTE FUNCTION events_refuse_change()"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for change in ("update", "delete"):
            op.execute(f"DROP TRIGGER events_refuse_{change}")
    else:
        op.execute("DROP TRIGGER events_refuse_change ON events")
        op.execute("DROP FUNCTION events_refuse_change()")
    op.drop_table("registry")
