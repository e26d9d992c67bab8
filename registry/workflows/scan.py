"""Which protection do these bytes carry, and which models are protected, on what evidence?

Four words, never one tick: *declared* (a name or card says so), *stored* (the bytes carry it),
*applied* (our code put it on a live model), *verified* (a live model was read back, at that time).
The bytes are read now; applied and verified come from the event log, with their times.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from registry.artifact.bundle import check_files
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.reader import Checkpoint
from registry.errors import (
    BaseNotFoundError,
    CheckpointNotFoundError,
    GeometryError,
    SafelatchError,
)
from registry.kinds import kind_of, parse_body
from registry.workflows import journal
from registry.workflows.bases import find_base
from registry.workflows.check import check
from registry.workflows.identify import identify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from registry.artifact.bundle import Bundle
    from registry.settings import Settings
    from registry.store.catalog import Registry
    from registry.store.values import Application
    from registry.workflows.identify import Identified

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


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a checkpoint's bytes say about one artifact."""

    model: str
    weights: str
    artifact: str
    digest: str
    kind: str
    found: dict[str, Any]

    @property
    def stored(self) -> bool:
        """Whether the bytes carry the artifact."""
        return bool(self.found["stored"])

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self) | {"stored": self.stored}


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


def inspect(model: Identified, bundles: Iterable[Bundle]) -> list[Inspection]:
    """Look for each of ``bundles`` in the bytes of ``model``; nothing is loaded.

    Raises:
        GeometryError: a bundle is for models of other widths, so nothing can be compared.
    """
    found = []
    for bundle in bundles:
        _require_same_geometry(bundle, model)
    with Checkpoint.open(model.path) as checkpoint:
        sites = sites_for(model.record.geometry.family)
        for bundle in bundles:
            manifest = bundle.manifest
            verb = kind_of(manifest.kind).verb("inspect")
            result = verb.inspect(checkpoint, parse_body(bundle), sites)
            found.append(
                Inspection(model.locator, model.record.weights, manifest.label, manifest.digest,
                           manifest.kind, result.to_dict())
            )  # fmt: skip
    return found


def _require_same_geometry(bundle: Bundle, model: Identified) -> None:
    expected, got = dict(bundle.manifest.geometry), model.record.geometry.to_dict()
    if expected != got:
        differing = sorted(name for name in got if got[name] != expected.get(name))
        listed = ", ".join(f"{n}: expected {expected.get(n)}, got {got[n]}" for n in differing)
        raise GeometryError(
            f"{bundle.manifest.label} is not for {model.locator}: {listed}.",
            hint="See what there is for its base: safelatch inspect MODEL",
        )


def bundles_for_base(registry: Registry, weights: str) -> list[Bundle]:
    """Return the checked bundle of the active version of each line of a base."""
    return [
        check_files(registry.bundle_files(version), expected=version.digest)
        for version in registry.versions_for_base(weights)
    ]


def find_checkpoints(targets: Sequence[str]) -> list[str]:
    """Return the checkpoints that ``targets`` name: each itself, or all below a plain folder.

    Raises:
        CheckpointNotFoundError: a target exists as a folder and holds none.
    """
    found: list[str] = []
    for target in targets:
        folder = Path(target).expanduser()
        if not folder.is_dir() or _holds_weights(folder):
            found.append(target)
            continue
        below = sorted(str(path) for path in folder.rglob("*") if _holds_weights(path))
        if not below:
            raise CheckpointNotFoundError(
                f"expected safetensors checkpoints in {folder}, found none.",
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
    for index, target in enumerate(checkpoints):
        try:
            model = identify(target, settings=settings)
        except SafelatchError as error:
            rows.append(_unreadable(target, error))
        else:
            rows += _audit_one(registry, model)
        if progress is not None:
            progress(index + 1, len(checkpoints))
    return rows


def _audit_one(registry: Registry, model: Identified) -> list[AuditRow]:
    declared, claimed = _declarations(model.path)
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
        applications = registry.applications(model.record.weights)
        rows = [
            _row(common, model, bundle, found, applications)
            for bundle, found in zip(bundles, inspect(model, bundles), strict=True)
        ]
    if journal.writable(registry):
        number = journal.checkpoint(registry, model, descent.base.weights, lineage)
        registry.record_report(number, "audit", rows[0].state, [row.to_dict() for row in rows])
    return rows


def _row(
    common: dict[str, Any],
    model: Identified,
    bundle: Bundle,
    found: Inspection,
    applications: Sequence[Application],
) -> AuditRow:
    manifest = bundle.manifest
    report = check(bundle, model.record)
    last = next((a for a in reversed(applications) if a.manifest_digest == manifest.digest), None)
    state: State = "available"
    reason = WORDS["available"]
    keeps = found.stored and found.found["loader_keeps"]
    switch = sites_for(model.record.geometry.family).o_proj_has_bias
    # A stored lock needs the switch of its bias, which differs from the base's for that reason.
    errors = [error for error in report.errors if not (keeps and error.field == switch)]
    if errors:
        state, reason = "refused", errors[0].message
    elif keeps:
        state, reason = "stored", WORDS["stored"]
    elif last is not None and last.verified_at is not None:
        state = "verified"
        reason = f"read back on {last.device} at alpha {last.alpha:g}, policy {last.policy}"
    elif found.stored:
        reason = "stored in the bytes, but the stock loader drops it: nothing protects this model"
    return AuditRow(
        **common,
        artifact=manifest.label,
        kind=manifest.kind,
        stored=found.stored,
        applied_at=None if last is None else _stamp(last.applied_at),
        verified_at=None if last is None or last.verified_at is None else _stamp(last.verified_at),
        state=state,
        reason=reason,
    )


def _unreadable(target: str, error: SafelatchError) -> AuditRow:
    return AuditRow(
        model=target, weights=None, claimed_base=None, base=None, relation=None, evidence_level=0,
        distance=None, artifact=None, kind=None, declared=False, stored=False, applied_at=None,
        verified_at=None, state="unreadable", reason=error.message.splitlines()[0],
    )  # fmt: skip


def _declarations(path: Path) -> tuple[bool, str | None]:
    """Return whether a card or config says "safelatch" or "safetylock", and the claimed base."""
    folder = path if path.is_dir() else path.parent
    with Checkpoint.open(path) as checkpoint:
        config = checkpoint.config
    card = ""
    if (folder / "README.md").is_file():
        card = (folder / "README.md").read_text("utf-8", errors="replace")[:200_000]
    words = (folder.name + card).lower()
    declared = "safelatch" in config or "safelatch" in words or "safetylock" in words
    claimed = config.get("_name_or_path") or None
    for line in card.splitlines()[:200]:
        key, colon, value = line.partition(":")
        if colon and key.strip() == "base_model" and value.strip():
            claimed = value.strip()
    return declared, claimed if isinstance(claimed, str) else None


def _holds_weights(folder: Path) -> bool:
    return folder.is_dir() and (
        (folder / "model.safetensors").is_file()
        or (folder / "model.safetensors.index.json").is_file()
    )


def _stamp(moment: Any) -> str:
    return str(moment.strftime("%Y-%m-%dT%H:%M:%SZ"))
