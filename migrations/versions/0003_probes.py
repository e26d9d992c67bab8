"""A base has a probe, by which the nearest of many are found without reading their records.

Bases from before have none, and are always candidates.

A revision is history: it names its own types and imports nothing of the package.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("bases") as table:
        table.add_column(sa.Column("probe", sa.LargeBinary(), nullable=True))
        table.create_check_constraint(op.f("ck_bases_probe_size"), "length(probe) = 1024")


def downgrade() -> None:
    with op.batch_alter_table("bases") as table:
        table.drop_constraint(op.f("ck_bases_probe_size"), type_="check")
        table.drop_column("probe")
