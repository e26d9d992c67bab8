"""Writing down what was seen, found and applied. A registry that cannot be written stays silent.

Those that may stay silent return whether they wrote, so that a caller can say ``recorded: false``
instead of claiming a record that is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.errors import BaseNotFoundError, NotFoundError
from registry.moment import parse_stamp
from registry.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.artifact.bundle import Bundle
    from registry.checkpoint.lineage import Lineage
    from registry.errors import SafelatchError
    from registry.store.catalog import Registry
    from registry.store.values import Base, ReportKind, Version
    from registry.workflows.check import CheckReport
    from registry.workflows.identify import Identified
    from registry.workflows.protect import Applied


def writable(registry: Registry | None) -> bool:
    """Return whether there is a registry that can be written."""
    return registry is not None and not registry.is_read_only


def event(
    registry: Registry | None, action: str, model: Identified, detail: dict[str, Any]
) -> bool:
    """Append an event about ``model``."""
    if registry is None or not writable(registry):
        return False
    registry.append_event(action, model.record.weights, {"model": model.locator, **detail})
    return True


def refusal(registry: Registry | None, model: Identified, error: SafelatchError) -> bool:
    """Append an event that ``model`` was not loaded, and why."""
    return event(registry, "load.refuse", model, {"code": error.code, "reason": error.message})


def checkpoint(registry: Registry, model: Identified, base: str, lineage: Lineage) -> int:
    """Write down what ``model`` was found to be and return its row.

    Args:
        registry: A writable registry.
        model: What was read.
        base: Weights digest of the base it was judged against.
        lineage: The verdict.
    """
    return registry.record_checkpoint(
        model.record.weights,
        base=_base(registry, base),
        relation=lineage.relation,
        evidence_level=lineage.level,
        distance=lineage.to_dict()["distance"],
        config_digest=model.record.config_digest,
        locator=model.locator if model.commit is None else f"hf://{model.locator}@{model.commit}",
    )


def reports(
    registry: Registry | None,
    model: Identified,
    bundles: Sequence[Bundle],
    found: Sequence[CheckReport],
) -> bool:
    """Write down the compatibility verdicts of a load."""
    if registry is None or not writable(registry):
        return False
    for bundle, report in zip(bundles, found, strict=True):
        base, version = bundle.manifest.base_weights, known_version(registry, bundle)
        report_on(
            registry, model, base, report.lineage, "check", report.verdict, report.to_dict(),
            version=version,
        )  # fmt: skip
    return True


def report_on(  # noqa: PLR0917
    registry: Registry,
    model: Identified,
    base: str,
    lineage: Lineage,
    kind: ReportKind,
    verdict: str,
    body: Any,
    *,
    version: Version | None,
) -> None:
    """Write down one report about ``model``."""
    number = checkpoint(registry, model, base, lineage)
    registry.record_report(number, kind, verdict, body, version=version)


def applications(
    registry: Registry | None,
    model: Identified,
    device: str,
    policy: str,
    done: Sequence[tuple[Bundle, CheckReport, Applied]],
) -> bool:
    """Write down what was applied to the live model and when it was read back."""
    if registry is None or not writable(registry):
        return False
    for bundle, report, applied in done:
        registry.record_application(
            checkpoint(registry, model, bundle.manifest.base_weights, report.lineage),
            known_version(registry, bundle),
            manifest_digest=applied.digest,
            kind=applied.kind,
            alpha=applied.alpha,
            device=device,
            applied_at=parse_stamp(applied.applied_at),
            verified_at=None if applied.verified_at is None else parse_stamp(applied.verified_at),
            evidence={
                **applied.evidence,
                "precondition": applied.precondition,
                "config": model.record.config_digest,
            },
            policy=policy,
        )
        applied.recorded = True
    return True


def known_version(registry: Registry, bundle: Bundle) -> Version | None:
    """Return the published version this bundle is, or ``None`` when the registry has none."""
    try:
        return registry.resolve(Reference("digest", location=bundle.manifest.digest))
    except NotFoundError:
        return None


def _base(registry: Registry, weights: str) -> Base | None:
    try:
        return registry.base(weights)
    except BaseNotFoundError:
        return None
