"""What was seen, found and applied: checkpoints, reports, applications.

``Journal`` is the half of the registry that only grows. Every record and its event are one
transaction. Lists are in the order in which things were recorded. Times have a time zone.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from registry import __version__
from registry.digest import Digest, canonical_json, digest_json, parse_digest
from registry.errors import NotFoundError
from registry.store import bases, events, session, versions
from registry.store.columns import inserted_id, plain_json
from registry.store.eventlog import EventLog
from registry.store.tables import (
    applications,
    artifacts,
    checkpoints,
    reports,
)
from registry.store.tables import versions as version_rows
from registry.store.values import Application, Report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from registry.store.values import Base, ReportKind, Version


class Journal(EventLog):
    """The records of one database; ``catalog.Registry`` is this and the catalog."""

    def record_checkpoint(
        self,
        weights: str,
        *,
        base: Base | None,
        relation: str,
        evidence_level: int,
        distance: float | None,
        config_digest: str | None,
        locator: str | None,
    ) -> int:
        """Record a checkpoint, or what is newly known of it; return its number here.

        A verdict with less evidence than the one on record (a check against the wrong artifact,
        say) does not replace it; the event log has both.

        Args:
            weights: Its weights digest.
            base: The base it descends from, if it is known.
            relation: What was done to the base, in one word.
            evidence_level: 0 (claimed) to 4 (identical or attested).
            distance: Estimated ``||dW||_F / ||W||_F`` to the base (dimensionless, finite).
            config_digest: Digest of its config.
            locator: Where it was seen: a path or a Hub address.

        Raises:
            BaseNotFoundError: the base is of another registry.
        """
        known = {
            "relation": relation,
            "evidence_level": evidence_level,
            "distance": distance,
            "config_digest": None if config_digest is None else parse_digest(config_digest),
            "locator": locator,
        }
        now = dt.datetime.now(dt.timezone.utc)
        same = checkpoints.c.weights == parse_digest(weights)
        with session.write(self._engine) as connection:
            base_id = None if base is None else bases.row_id(connection, base)
            row = {"base_id": base_id, "last_seen": now, **known}
            seen = connection.execute(
                select(checkpoints.c.id, checkpoints.c.evidence_level).where(same)
            ).one_or_none()
            if seen is None:
                new = insert(checkpoints).values(weights=weights, first_seen=now, **row)
                number = inserted_id(connection.execute(new))
            else:
                number = int(seen.id)
                if evidence_level < seen.evidence_level:
                    row = {"last_seen": now, "locator": locator}
                connection.execute(update(checkpoints).where(same).values(row))
            detail = {"base": None if base is None else base.weights, **known}
            events.log(connection, "checkpoint.record", weights, detail)
        return number

    def record_report(
        self,
        checkpoint_id: int,
        kind: ReportKind,
        verdict: str,
        body: Any,
        version: Version | None = None,
    ) -> None:
        """Record what a command found out about a checkpoint.

        Args:
            checkpoint_id: What ``record_checkpoint`` returned.
            kind: Which command.
            verdict: Its answer, in one word.
            body: The whole answer, any JSON value.
            version: The artifact it was about, if it was about one.

        Raises:
            NotFoundError: there is no such checkpoint.
        """
        about = None if version is None else version.digest
        plain_body = plain_json(body)
        with session.write(self._engine) as connection:
            weights = _weights(connection, checkpoint_id)
            connection.execute(
                insert(reports).values(
                    checkpoint_id=checkpoint_id,
                    version_id=versions.row_id(connection, about),
                    kind=kind,
                    verdict=verdict,
                    body=canonical_json(plain_body).decode(),
                    tool_version=__version__,
                    created_at=dt.datetime.now(dt.timezone.utc),
                )
            )
            detail = {
                "kind": kind,
                "verdict": verdict,
                "artifact": about,
                "body": digest_json(plain_body),
            }
            events.log(connection, "report.record", weights, detail)

    def record_application(  # noqa: PLR0917 -- one column each; callers name them
        self,
        checkpoint_id: int,
        version: Version | None,
        manifest_digest: str,
        kind: str,
        alpha: float | None,
        device: str,
        applied_at: dt.datetime,
        verified_at: dt.datetime | None,
        evidence: Mapping[str, Any],
        policy: str,
    ) -> None:
        """Record that an artifact was put onto a live model, and when it was read back there.

        Args:
            checkpoint_id: What ``record_checkpoint`` returned.
            version: The artifact, when this registry holds it.
            manifest_digest: Its identity in any case.
            kind: Its kind.
            alpha: Strength; dimensionless; ``None`` where the kind has none.
            device: Where the model is.
            applied_at: When it was put there.
            verified_at: When the model was read back and matched; ``None`` if it was not.
            evidence: What that reading found, any JSON object.
            policy: The policy of the load.

        Raises:
            NotFoundError: there is no such checkpoint.
            ValueError: a time has no time zone.
        """
        fields: dict[str, Any] = {
            "manifest_digest": parse_digest(manifest_digest),
            "kind": kind,
            "alpha": alpha,
            "device": device,
            "policy": policy,
        }
        found = plain_json(dict(evidence))
        times = {"applied_at": _aware(applied_at), "verified_at": _aware(verified_at)}
        with session.write(self._engine) as connection:
            weights = _weights(connection, checkpoint_id)
            about = None if version is None else version.digest
            connection.execute(
                insert(applications).values(
                    checkpoint_id=checkpoint_id,
                    version_id=versions.row_id(connection, about),
                    evidence=canonical_json(found).decode(),
                    **fields,
                    **times,
                )
            )
            moments = {name: None if at is None else at.isoformat() for name, at in times.items()}
            detail = {**fields, **moments, "evidence": digest_json(found)}
            events.log(connection, "application.record", weights, detail)

    def applications(self, weights: str) -> list[Application]:
        """Return what was applied to the checkpoint with these weights, oldest first."""
        with session.read(self._engine) as connection:
            return [
                Application(
                    weights=Digest(row.weights),
                    version=_label(row),
                    manifest_digest=Digest(row.manifest_digest),
                    kind=row.kind,
                    alpha=row.alpha,
                    device=row.device,
                    applied_at=row.applied_at,
                    verified_at=row.verified_at,
                    evidence=json.loads(row.evidence),
                    policy=row.policy,
                )
                for row in connection.execute(_about(applications, weights))
            ]

    def reports(self, weights: str, kind: ReportKind | None = None) -> list[Report]:
        """Return the reports about the checkpoint with these weights, oldest first."""
        query = _about(reports, weights)
        if kind is not None:
            query = query.where(reports.c.kind == kind)
        with session.read(self._engine) as connection:
            return [
                Report(
                    weights=Digest(row.weights),
                    version=_label(row),
                    kind=row.kind,
                    verdict=row.verdict,
                    body=json.loads(row.body),
                    tool_version=row.tool_version,
                    created_at=row.created_at,
                )
                for row in connection.execute(query)
            ]


def _weights(connection: Connection, checkpoint_id: int) -> str:
    query = select(checkpoints.c.weights).where(checkpoints.c.id == checkpoint_id)
    weights = connection.scalar(query)
    if weights is None:
        raise NotFoundError(
            f"expected a recorded checkpoint, got number {checkpoint_id}.",
            hint="Record it first: Registry.record_checkpoint(...)",
        )
    return str(weights)


def _aware(moment: dt.datetime | None) -> dt.datetime | None:
    if moment is not None and moment.utcoffset() is None:
        raise ValueError(f"expected a time with a time zone, got {moment.isoformat()}")
    return moment


def _about(what: Any, weights: str) -> Any:
    columns = (what, checkpoints.c.weights, artifacts.c.name, version_rows.c.version)
    return (
        select(*columns)
        .join(checkpoints, checkpoints.c.id == what.c.checkpoint_id)
        .outerjoin(version_rows, version_rows.c.id == what.c.version_id)
        .outerjoin(artifacts, artifacts.c.id == version_rows.c.artifact_id)
        .where(checkpoints.c.weights == weights)
        .order_by(what.c.id)
    )


def _label(row: Any) -> str | None:
    return None if row.name is None else f"{row.name}@{row.version}"
