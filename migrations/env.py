"""How alembic reaches the registry's database.

The package passes its connection, already inside the one writing transaction, and commits it
itself. From a checkout, ``alembic -x db=URL revision --autogenerate`` opens its own. Logging is
the application's business and is not configured here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from alembic import context

from registry.settings import Settings
from registry.store.columns import PlainText, UtcDateTime
from registry.store.session import connect, write
from registry.store.tables import metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection


def render_item(what: str, item: Any, _: Any) -> str | Literal[False]:
    """Write the package's types as what they are in the database: a revision is history."""
    if what == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if what == "type" and isinstance(item, PlainText):
        return "sa.Text()"
    return False


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",  # SQLite cannot alter a constraint
        compare_type=True,
        render_item=render_item,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def migrate_from_checkout() -> None:
    database = context.get_x_argument(as_dictionary=True).get("db")
    engine = connect(Settings.load(database), create=True)
    with write(engine, rebuilds=True) as connection:
        migrate(connection)


if context.is_offline_mode():
    raise SystemExit("expected a database to migrate; scripts for other tools (--sql) are not made")
handed_over = context.config.attributes.get("connection")
if handed_over is None:
    migrate_from_checkout()
else:
    migrate(handed_over)
