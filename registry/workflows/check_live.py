"""Do this artifact and this model in memory belong together? The same checks as for a checkpoint.

The model's files were not seen, so its weights are sampled where the base record was: a model too
far from the artifact's base, one that computes with another config, and an artifact outside its
validity are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.checkpoint.config import computation_fields, differing_fields
from registry.checkpoint.record import BaseRecord
from registry.live.compare import live_distance, stray_parameters
from registry.live.sites import model_geometry
from registry.moment import now
from registry.workflows.check import (
    Finding,
    config_findings,
    geometry_findings,
    require_no_error,
    require_own_base,
    validity_findings,
)

if TYPE_CHECKING:
    from registry.artifact.bundle import Bundle


def require_compatible(model: Any, bundle: Bundle) -> None:
    """Check that ``bundle`` may be applied to ``model``, a transformers model.

    Raises:
        BaseModelMismatchError: the model is too far from the artifact's base.
        GeometryError: config and shapes disagree, or the config is not the base's.
        EvidenceError: the artifact is outside its validity, or not what it says.
    """
    manifest = bundle.manifest
    geometry = model_geometry(model)
    base = BaseRecord.from_tensors(bundle.base_tensors())
    require_own_base(bundle, base)
    require_no_error(manifest.label, geometry_findings(bundle, geometry))
    distance, bound = live_distance(model, base), manifest.compatibility.max_distance
    findings = validity_findings(bundle, now())
    stray = stray_parameters(model, base)
    if stray:
        findings.append(
            Finding(
                "error",
                "stray-parameter",
                f"expected only the parameters of {manifest.base.name} in its layers, got "
                f"{', '.join(stray[:5])}: they could undo what is applied.",
            )
        )
    if distance > bound:
        findings.append(
            Finding(
                "error",
                "base-mismatch",
                f"expected a fine-tune of {manifest.base.name} within distance {bound:g}, the "
                f"model in memory is at distance {distance:.3g}.",
            )
        )
    else:
        live = computation_fields(model.config.to_dict(), geometry)
        findings += config_findings(differing_fields(base.config, live))
    require_no_error(manifest.label, findings)
