"""Which models are protected, on what evidence?

Four words, never one tick: *declared* (a name or card says so), *stored* (the bytes carry it),
*applied* (our code put it on a live model), *verified* (a live model was read back, at that time).
The bytes are read now; applied and verified are records of this registry that its event log
confirms, for these weights and this config, with their times.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal

from registry.checkpoint.reader import Checkpoint
from registry.errors import BaseNotFoundError, CheckpointNotFoundError, SafelatchError
from registry.moment import stamp
from registry.plainfile import expanded
from registry.workflows import journal
from registry.workflows.bases import find_base
from registry.workflows.check import check
from registry.workflows.declared import declarations
from registry.workflows.find import bundles_for_base
from registry.workflows.identify import identify
from registry.workflows.inspect import inspect
from registry.workflows.open_model import require_plain_files
from registry.workflows.trust_report import trust_status, with_trust

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from registry.artifact.bundle import Bundle
    from registry.settings import Settings
    from registry.store.catalog import Registry
    from registry.store.values import Application
    from registry.workflows.check import CheckReport
    from registry.workflows.identify import Identified
    from registry.workflows.inspect import Inspection

State = Literal[
    "verified", "stored", "available", "refused", "no-artifact", "no-base", "unreadable"
]
WORDS: dict[State, str] = {
    "verified": "a live model was read back and carried it; see verified_at",
    "stored": "the checkpoint's bytes carry it, and its loader reads them",
    "available": "an artifact fits, nothing shows that it was applied",
    "refused": "an artifact of its base does not fit this checkpoint",
    "no-artifact": "its base is registered, no active artifact is",
    "no-base": "no registered base is within bounds",
    "unreadable": "the checkpoint could not be read",
}
"""What each state of an audited model means."""
_LONGEST_REASON = 400
WEIGHT_FILES = frozenset({".safetensors", ".bin", ".gguf", ".pt", ".pth"})
"""Endings by which a folder looks like a model."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One model and one artifact (or the lack of it), with the four words apart."""

    model: str
    weights: str | None
    claimed_base: str | None
    base: str | None
    relation: str | None
    evidence_level: int
    distance: float | None
    artifact: str | None
    kind: str | None
    declared: bool
    stored: bool
    applied_at: str | None
    verified_at: str | None
    state: State
    reason: str

    @property
    def is_protected(self) -> bool:
        """Whether the state is one of those that show protection."""
        return self.state in {"verified", "stored"}

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def find_checkpoints(targets: Sequence[str]) -> list[str]:
    """Return the models that ``targets`` name: each itself, and all below a folder.

    A folder that looks like a model and holds no safetensors is among them, so that an audit says
    that it could not be read instead of leaving it out.

    Raises:
        CheckpointNotFoundError: a target exists as a folder and holds none.
    """
    found: list[str] = []
    for target in targets:
        folder = expanded(target)
        is_folder = False
        with suppress(OSError):  # one that cannot be looked at is told by its row
            is_folder = folder.is_dir()
        if not is_folder:
            found.append(target)
            continue
        below = sorted(str(path) for path in folder.rglob("*") if _is_model(path))
        if _is_model(folder):
            below.insert(0, target)
        if not below:
            raise CheckpointNotFoundError(
                f"expected models in {folder}, found none.",
                hint="Name a model folder, or a folder that holds model folders.",
            )
        found += below
    return list(dict.fromkeys(found))


def audit(
    registry: Registry,
    targets: Sequence[str],
    *,
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
) -> list[AuditRow]:
    """Return what is known about the protection of each model, and write it down.

    A model that cannot be read becomes a row that says so; the others are audited all the same.
    """
    rows: list[AuditRow] = []
    checkpoints = find_checkpoints(targets)
    confirmed = _confirmed(registry)
    for index, target in enumerate(checkpoints):
        try:
            rows += _audit_one(registry, identify(target, settings=settings), confirmed)
        except (SafelatchError, OSError, ValueError) as error:
            rows.append(_unreadable(target, error))
        if progress is not None:
            progress(index + 1, len(checkpoints))
    return rows


def _confirmed(registry: Registry) -> set[tuple[Any, ...]]:
    """Return the applications that the event log has, by what identifies them."""
    return {
        (event.subject, event.detail.get("manifest_digest"), event.detail.get("verified_at"))
        for event in registry.events()
        if event.action == "application.record"
    }


def _audit_one(
    registry: Registry, model: Identified, confirmed: set[tuple[Any, ...]]
) -> list[AuditRow]:
    declared, claimed = declarations(model.path)
    common: dict[str, Any] = {
        "model": model.locator, "weights": model.record.weights, "claimed_base": claimed,
        "declared": declared,
    }  # fmt: skip
    nothing: dict[str, Any] = {
        "artifact": None, "kind": None, "stored": False, "applied_at": None, "verified_at": None,
    }  # fmt: skip
    try:
        descent = find_base(registry, model)
    except BaseNotFoundError as error:
        return [AuditRow(**common, **nothing, base=None, relation=None, evidence_level=0,
                         distance=None, state="no-base", reason=error.message)]  # fmt: skip
    lineage = descent.lineage
    common |= {
        "base": descent.base.name, "relation": lineage.relation,
        "evidence_level": lineage.level, "distance": lineage.to_dict()["distance"],
    }  # fmt: skip
    bundles = bundles_for_base(registry, descent.base.weights)
    if not bundles:
        rows = [AuditRow(**common, **nothing, state="no-artifact", reason=WORDS["no-artifact"])]
    else:
        applications = [
            entry
            for entry in registry.applications(model.record.weights)
            if (entry.weights, entry.manifest_digest, _iso(entry.verified_at)) in confirmed
            and entry.evidence.get("config") == model.record.config_digest
        ]
        rows = [
            _row(registry, common, model, bundle, found, applications)
            for bundle, found in zip(bundles, inspect(model, bundles), strict=True)
        ]
    if journal.writable(registry):
        number = journal.checkpoint(registry, model, descent.base.weights, lineage)
        registry.record_report(number, "audit", rows[0].state, [row.to_dict() for row in rows])
    return rows


def _row(  # noqa: PLR0917
    registry: Registry,
    common: dict[str, Any],
    model: Identified,
    bundle: Bundle,
    found: Inspection,
    applications: Sequence[Application],
) -> AuditRow:
    manifest = bundle.manifest
    last = next((a for a in reversed(applications) if a.manifest_digest == manifest.digest), None)
    report = with_trust(check(bundle, model.record), trust_status(bundle, registry))
    state, reason = _state(model, report, found, last)
    return AuditRow(
        **common,
        artifact=manifest.label,
        kind=manifest.kind,
        stored=found.stored,
        applied_at=None if last is None else stamp(last.applied_at),
        verified_at=None if last is None or last.verified_at is None else stamp(last.verified_at),
        state=state,
        reason=reason,
    )


def _state(
    model: Identified, report: CheckReport, found: Inspection, last: Application | None
) -> tuple[State, str]:
    """Return the state of one model and one artifact, and the reason in words."""
    try:
        require_plain_files(model)
    except SafelatchError as error:
        return "refused", error.message
    keeps = found.stored and found.loader_keeps and not _additions(model, report, found)
    # What is stored may need a config field of its own, which differs for that reason.
    errors = [e for e in report.errors if not (keeps and e.field in found.explains)]
    if errors:
        return "refused", errors[0].message
    if keeps:
        return "stored", WORDS["stored"]
    if last is not None and last.verified_at is not None:
        strength = "" if last.alpha is None else f" at alpha {last.alpha:g}"
        return "verified", f"read back on {last.device}{strength}, policy {last.policy}"
    if found.stored:
        return "available", (
            "stored in the bytes, but the stock loader drops it: nothing protects this model"
        )
    return "available", WORDS["available"]


def _additions(model: Identified, report: CheckReport, found: Inspection) -> list[str]:
    """Return tensors beside what is stored that the base does not have and that are not zero."""
    with Checkpoint.open(model.path) as checkpoint:
        return [
            name
            for name in report.lineage.unexpected
            if name not in found.tensors
            and any(bytes(piece).strip(b"\0") for piece in checkpoint.pieces(name))
        ]


def _unreadable(target: str, error: Exception) -> AuditRow:
    fact = error.message if isinstance(error, SafelatchError) else str(error)
    reason = shorten(fact, _LONGEST_REASON, placeholder=" ...")
    if isinstance(error, CheckpointNotFoundError) and error.hint:
        reason += f" {error.hint}"  # it says what is there instead
    return AuditRow(
        model=target, weights=None, claimed_base=None, base=None, relation=None, evidence_level=0,
        distance=None, artifact=None, kind=None, declared=False, stored=False, applied_at=None,
        verified_at=None, state="unreadable", reason=reason,
    )  # fmt: skip


def _is_model(folder: Path) -> bool:
    """Whether ``folder`` looks like a model, also one that cannot be read: it gets a row."""
    try:
        return folder.is_dir() and any(
            entry.name == "config.json" or entry.suffix in WEIGHT_FILES
            for entry in folder.iterdir()
            if entry.is_file()
        )
    except OSError:
        return True


def _iso(moment: Any) -> str | None:
    return None if moment is None else str(moment.isoformat())
