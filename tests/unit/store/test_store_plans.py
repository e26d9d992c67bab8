"""Nothing that a command looks up reads a whole table: the plans SQLite makes of the real queries.

Its planner knows no row counts until ANALYZE, which nothing here runs: plans of empty tables are
those of full ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event
from support.store_builders import GEOMETRY, digest_of, make_record, publish

from registry.errors import BaseNotFoundError
from registry.reference import Reference

if TYPE_CHECKING:
    from registry.store.catalog import Registry


def record(registry: Registry) -> None:
    number = registry.record_checkpoint(
        digest_of("tune"), base=registry.base("base"), relation="derived", evidence_level=3,
        distance=0.01, config_digest=None, locator=None,
    )  # fmt: skip
    registry.record_report(number, "lineage", "derived", {})


def misspelt(registry: Registry) -> None:
    with pytest.raises(BaseNotFoundError, match="Did you mean base"):
        registry.base("bsae")


LOOKUPS = {
    "by name": lambda registry: registry.base("base"),
    "by weights": lambda registry: registry.base(digest_of("base")),
    "by alias": lambda registry: registry.base("/models/base"),
    "by geometry": lambda registry: registry.bases_like(GEOMETRY),
    "by probe": lambda registry: registry.bases_near(make_record("child", like=1)),
    "an alias of a known base": lambda registry: registry.add_base(
        "base", make_record(), b"record of base", [("name", "another"), ("path", "/models/base")]
    ),
    "a new base": lambda registry: registry.add_base(
        "new", make_record("new", like=2), b"record of new", [("hub", "org/new@" + "0" * 40)]
    ),
    "reports of a checkpoint": lambda registry: registry.reports(digest_of("tune")),
    "lineages of a checkpoint": lambda registry: registry.reports(digest_of("tune"), "lineage"),
    "applications of a checkpoint": lambda registry: registry.applications(digest_of("tune")),
    "a checkpoint again": record,
    "a version": lambda registry: registry.resolve(Reference.parse("lock@1.0.0")),
    "versions for a base": lambda registry: registry.versions_for_base(digest_of("base")),
    "the record of a base": lambda registry: registry.base_record_bytes(registry.base("base")),
}
WHOLE = {
    "by a prefix of a digest": lambda registry: registry.base(digest_of("base")[7:17]),
    "their number": lambda registry: registry.base_count(),
    "every name, for one that is not there": misspelt,
}


@pytest.fixture
def filled(sqlite_registry: Registry) -> Registry:
    publish(sqlite_registry, "lock", "1.0.0")
    sqlite_registry.add_base("base", make_record(), b"record of base", [("path", "/models/base")])
    sqlite_registry.add_base("probed", make_record("probed", like=1), b"record of probed")
    record(sqlite_registry)
    return sqlite_registry


def plans(registry: Registry, look_up) -> list[str]:
    """Return every step of the plans of the queries that ``look_up`` makes."""
    asked = []
    event.listen(registry._engine, "before_cursor_execute", lambda *got: asked.append(got[2:4]))
    look_up(registry)
    words = ("SELECT", "INSERT", "UPDATE")
    queries = [(text, values) for text, values in asked if text.startswith(words)]
    assert queries
    with registry._engine.connect() as connection:
        return [
            f"{row.detail} -- {text}"
            for text, values in queries
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)
        ]


def scans(steps: list[str]) -> list[str]:
    """Return the steps that read from one end on; with a limit they stop when they have it."""
    return [step for step in steps if step.startswith("SCAN") and " LIMIT " not in step]


@pytest.mark.parametrize("what", LOOKUPS)
def test_a_lookup_reads_no_table_and_no_index_from_end_to_end(filled: Registry, what: str) -> None:
    steps = plans(filled, LOOKUPS[what])
    assert any(" USING " in step for step in steps)
    assert scans(steps) == []


@pytest.mark.parametrize("what", WHOLE)
def test_what_must_look_at_every_row_reads_an_index_and_no_rows(
    filled: Registry, what: str
) -> None:
    read = scans(plans(filled, WHOLE[what]))
    assert read
    assert [step for step in read if " USING COVERING INDEX " not in step] == []


def test_every_base_is_read_in_the_order_of_an_index(filled: Registry) -> None:
    steps = plans(filled, lambda registry: registry.bases())
    assert [step for step in scans(steps) if " USING INDEX " not in step] == []
    assert [step for step in steps if "TEMP B-TREE" in step] == []
