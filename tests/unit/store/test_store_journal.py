from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from support.store_builders import digest_of, make_record, publish

from registry import __version__
from registry.errors import BaseNotFoundError, DigestMismatchError, NotFoundError, StoreError
from registry.store.catalog import Registry

if TYPE_CHECKING:
    from pathlib import Path

NASTY = "x'; DROP TABLE reports; --\" %s :name ? \\ \x00\udc80"
ESCAPED = "x'; DROP TABLE reports; --\" %s :name ? \\ \\x00\\udc80"
NOON = dt.datetime(2030, 1, 1, 12, 30, 15, 250, tzinfo=dt.timezone(dt.timedelta(hours=2)))


def see(registry: Registry, tag: str = "tune", **changes: Any) -> int:
    known = {
        "base": None,
        "relation": "unknown",
        "evidence_level": 0,
        "distance": None,
        "config_digest": None,
        "locator": None,
    }
    return registry.record_checkpoint(digest_of(tag), **{**known, **changes})


def apply(registry: Registry, number: int, **changes: Any) -> None:
    known = {
        "version": None,
        "manifest_digest": digest_of("manifest"),
        "kind": "safety_lock",
        "alpha": 2.5,
        "device": "cuda:0",
        "applied_at": NOON,
        "verified_at": None,
        "evidence": {},
        "policy": "enforce",
    }
    registry.record_application(number, **{**known, **changes})


def test_a_checkpoint_seen_again_keeps_its_number_and_learns(registry: Registry) -> None:
    base = registry.add_base("base", make_record(), b"record")
    number = see(registry)
    other = see(registry, "other tune")
    again = see(registry, base=base, relation="derived", evidence_level=3, distance=0.01)
    assert again == number != other
    events = [event for event in registry.events() if event.action == "checkpoint.record"]
    assert [event.detail["evidence_level"] for event in events] == [0, 0, 3]
    assert events[-1].detail["base"] == base.weights


@pytest.mark.parametrize("changes", [{"evidence_level": 5}, {"distance": -0.5}])
def test_impossible_findings_about_a_checkpoint_are_refused(
    registry: Registry, changes: dict[str, Any]
) -> None:
    with pytest.raises(StoreError):
        see(registry, **changes)
    assert registry.events() == []


def test_what_is_no_digest_is_refused(registry: Registry) -> None:
    with pytest.raises(DigestMismatchError):
        registry.record_checkpoint(
            "abc",
            base=None,
            relation="unknown",
            evidence_level=0,
            distance=None,
            config_digest=None,
            locator=None,
        )
    with pytest.raises(DigestMismatchError):
        apply(registry, see(registry), manifest_digest="abc")


def test_a_base_of_another_registry_is_not_taken_for_ours(
    registry: Registry, tmp_path: Path
) -> None:
    with Registry.create(str(tmp_path / "other" / "other.db")) as other:
        base = other.add_base("base", make_record(), b"record")
    with pytest.raises(BaseNotFoundError):
        see(registry, base=base)


def test_reports_come_back_in_order_and_by_kind(registry: Registry) -> None:
    version = publish(registry, "lock", "1.0.0")
    number = see(registry)
    body = {"findings": [{"level": "warning", "text": NASTY}], "count": 1, "ratio": 0.1}
    registry.record_report(number, "check", NASTY, body, version=version)
    registry.record_report(number, "lineage", "derived", [1, None, True])
    check, lineage = registry.reports(digest_of("tune"))
    assert (check.kind, check.verdict, check.version) == ("check", ESCAPED, "lock@1.0.0")
    assert check.body["count"] == 1
    assert check.tool_version == __version__
    assert (lineage.body, lineage.version) == ([1, None, True], None)
    assert registry.reports(digest_of("tune"), kind="lineage") == [lineage]
    assert registry.reports(digest_of("nothing")) == []
    assert registry.verify_events() == []


def test_a_report_of_an_unknown_kind_or_checkpoint_is_refused(registry: Registry) -> None:
    number = see(registry)
    with pytest.raises(StoreError, match="kind_known"):
        registry.record_report(number, "gossip", "yes", {})
    with pytest.raises(NotFoundError, match=r"got number 4711"):
        registry.record_report(4711, "check", "yes", {})
    assert len(registry.events()) == 1


def test_applications_come_back_with_their_times_in_utc(registry: Registry) -> None:
    version = publish(registry, "lock", "1.0.0")
    number = see(registry)
    later = NOON + dt.timedelta(seconds=1)
    apply(
        registry,
        number,
        version=version,
        manifest_digest=version.digest,
        verified_at=later,
        evidence={"sites": 2, "why": NASTY},
    )
    apply(registry, number, alpha=None, device=NASTY, policy=NASTY)
    first, second = registry.applications(digest_of("tune"))
    assert (first.version, first.manifest_digest, first.alpha) == (
        "lock@1.0.0",
        version.digest,
        2.5,
    )
    assert (first.applied_at, first.verified_at) == (NOON, later)
    assert first.applied_at.tzinfo == dt.timezone.utc
    assert first.evidence["sites"] == 2
    assert (second.version, second.alpha, second.verified_at) == (None, None, None)
    assert (second.device, second.policy) == (ESCAPED, ESCAPED)
    assert registry.applications(digest_of("nothing")) == []
    detail = registry.events(limit=1)[0].detail
    assert detail["verified_at"] is None
    assert registry.verify_events() == []


def test_a_time_without_a_zone_is_refused(registry: Registry) -> None:
    number = see(registry)
    with pytest.raises(ValueError, match="expected a time with a time zone"):
        apply(registry, number, applied_at=NOON.replace(tzinfo=None))
    assert registry.applications(digest_of("tune")) == []


def test_a_locator_with_undecodable_bytes_is_kept_readable(registry: Registry) -> None:
    see(registry, locator=NASTY, relation=NASTY)
    assert registry.events(limit=1)[0].detail["locator"] == ESCAPED


def test_a_verdict_with_less_evidence_does_not_replace_a_better_one(registry: Registry) -> None:
    from sqlalchemy import select

    from registry.store.tables import checkpoints

    base = registry.add_base("base", make_record(), b"record")
    see(registry, base=base, relation="derived", evidence_level=3, distance=0.01)
    see(registry, relation="unrelated", evidence_level=2, distance=1.4, locator="moved/here")
    with registry._engine.connect() as connection:
        row = connection.execute(select(checkpoints)).one()
    assert (row.relation, row.evidence_level, row.distance) == ("derived", 3, 0.01)
    assert (row.base_id, row.locator) == (1, "moved/here")
    shown = [e.detail["relation"] for e in registry.events() if e.action == "checkpoint.record"]
    assert shown == ["derived", "unrelated"]
