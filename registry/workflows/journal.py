"""Writing down what was seen, found and applied. A registry that cannot be written stays silent.

Those that may stay silent return whether they wrote, so that a caller can say ``recorded: false``
instead of claiming a record that is not there. What a load writes goes through ``LoadJournal``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.errors import BaseNotFoundError, StoreError
from registry.moment import parse_stamp
from registry.workflows.find import known_version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from registry.artifact.bundle import Bundle
    from registry.checkpoint.lineage import Lineage
    from registry.errors import SafelatchError
    from registry.store.catalog import Registry
    from registry.store.values import Base, ReportKind, Version
    from registry.workflows.applied import Applied
    from registry.workflows.check import CheckReport
    from registry.workflows.identify import Identified


def writable(registry: Registry | None) -> bool:
    """Return whether there is a registry that can be written."""
    return registry is not None and not registry.is_read_only


class LoadJournal:
    """What one load writes into its registry, for as long as that can be written.

    A model that was verified is not thrown away because a record of it could not be made: the first
    failure ends the writing, so that a busy registry is waited for once, and is kept for the
    receipt that takes the record's place.

    Attributes:
        silence: Why nothing (more) is written; ``None`` while everything is.
        has_failed: Whether a registry that can be written did not take it.
    """

    def __init__(self, registry: Registry | None, place: str) -> None:
        self._registry = registry
        self.silence: str | None = None
        self.has_failed = False
        if registry is None:
            self.silence = f"no registry at {place}"
        elif registry.is_read_only:
            self.silence = f"{registry.location} is read-only"

    def event(self, action: str, model: Identified, detail: dict[str, Any]) -> bool:
        """Append an event about ``model``."""
        subject, content = model.record.weights, {"model": model.locator, **detail}
        return self._write(lambda registry: registry.append_event(action, subject, content))

    def refusal(self, model: Identified, error: SafelatchError) -> bool:
        """Append an event that ``model`` was not loaded, and why."""
        return self.event("load.refuse", model, {"code": error.code, "reason": error.message})

    def reports(
        self, model: Identified, bundles: Sequence[Bundle], found: Sequence[CheckReport]
    ) -> bool:
        """Write down the compatibility verdicts."""
        return self._write(lambda registry: reports(registry, model, bundles, found))

    def applications(
        self,
        model: Identified,
        device: str,
        policy: str,
        done: Sequence[tuple[Bundle, CheckReport, Applied]],
    ) -> bool:
        """Write down what was applied to the live model and when it was read back."""

        def write(registry: Registry) -> None:
            for bundle, report, applied in done:
                facts = application(model, device, policy, applied)
                times = {
                    name: None if facts[name] is None else parse_stamp(facts[name])
                    for name in ("applied_at", "verified_at")
                }
                registry.record_application(
                    checkpoint(registry, model, bundle.manifest.base_weights, report.lineage),
                    known_version(registry, bundle),
                    **{**facts, **times},
                )
                applied.recorded = True

        return self._write(write)

    def _write(self, write: Callable[[Registry], object]) -> bool:
        if self._registry is None or self.silence is not None:
            return False
        try:
            write(self._registry)
        except StoreError as error:
            self.silence, self.has_failed = error.message.rstrip("."), True
            return False
        return True


def application(model: Identified, device: str, policy: str, applied: Applied) -> dict[str, Any]:
    """Return what is kept about an application, in a record as in a receipt."""
    return {
        "manifest_digest": applied.digest,
        "kind": applied.kind,
        "alpha": applied.alpha,
        "device": device,
        "applied_at": applied.applied_at,
        "verified_at": applied.verified_at,
        "evidence": {
            **applied.evidence,
            "precondition": applied.precondition,
            "signed_by": list(applied.signed_by),
            "config": model.record.config_digest,
        },
        "policy": policy,
    }


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
    """Write down compatibility verdicts."""
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


def _base(registry: Registry, weights: str) -> Base | None:
    try:
        return registry.base(weights)
    except BaseNotFoundError:
        return None
