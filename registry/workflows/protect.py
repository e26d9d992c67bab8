"""Put an artifact onto a model that is in memory, read it back, take it off again.

- The base is checked on the live weights themselves (``check_live``): a model too far from the
  artifact's base is refused with the measured distance.
- Applying and reading back are one step: what cannot be verified is taken off and raised.
- What an artifact is made of is on a model once, under whatever name and version.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from registry.artifact.bundle import TENSORS
from registry.errors import AlreadyAppliedError, RegistryMissingError
from registry.kinds import kind_of, parse_body
from registry.moment import stamp
from registry.workflows.applied import Applied, applied_to, remember
from registry.workflows.base_tensors import BaseTensors
from registry.workflows.check_live import require_compatible
from registry.workflows.find import open_registry
from registry.workflows.trust import vouched_bundle

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from registry.artifact.bundle import Bundle
    from registry.reference import Reference
    from registry.store.catalog import Registry
    from registry.workflows.trust import TrustArgument, Vouched


def protect(
    model: Any,
    artifact: Bundle | Reference | str | os.PathLike[str],
    *,
    alpha: float | None = None,
    allow_unsafe: bool = False,
    tokenizer: Any = None,
    registry: Registry | str | None = None,
    trust: TrustArgument = None,
    base: str | os.PathLike[str] | None = None,
) -> Applied:
    """Apply ``artifact`` to a live model, read it back, and return the handle.

    Args:
        model: A transformers model with plain weights, a fine-tune of the artifact's base.
        artifact: A bundle, its folder, or a reference.
        alpha: Strength; the calibrated one by default.
        allow_unsafe: Accept a strength outside the measured range.
        tokenizer: The model's tokenizer; with it the kind's precondition is checked on the model
            first, as ``load_protected`` always does (for a lock: that it points to refusal).
            Without it ``handle.precondition`` is ``None``: not checked.
        registry: Where references are looked up, and an unsafe strength is written down; the
            default registry, if there is one.
        trust: Public keys of which one must have signed it; by default those that the registry
            trusts. A bundle in memory is asked for a signature only where keys are given.
        base: Folder or Hub id of the artifact's base, for a kind that puts weights of it back; by
            default the files of it that the registry knows.

    Raises:
        BaseModelMismatchError, GeometryError: the model is too far from the artifact's base, or
            computes with another config.
        EvidenceError: nobody who is trusted signed it, or it is revoked (``workflows.trust``).
        SafelatchError: see the kind's ``apply`` and ``verify``; the model is as it was.
    """
    bundle, said = vouched_bundle(artifact, trust, registry)
    require_compatible(model, bundle)
    found = None
    if tokenizer is not None:
        verb = kind_of(bundle.manifest.kind).verb("verify")
        found = verb.precondition(model, lambda: tokenizer, parse_body(bundle))
    with BaseTensors(bundle, base, registry) as tensors:
        handle = apply_verified(
            model, bundle, base=tensors, alpha=alpha, allow_unsafe=allow_unsafe,
            precondition=found, said=said,
        )  # fmt: skip
    if allow_unsafe:
        try:
            _record_unsafe(handle, registry)
        except BaseException:  # an unmeasured strength that leaves no event does not stay
            handle.undo()
            raise
    return handle


def apply_verified(
    model: Any,
    bundle: Bundle,
    *,
    base: BaseTensors | None = None,
    alpha: float | None = None,
    allow_unsafe: bool = False,
    precondition: dict[str, Any] | None = None,
    said: Vouched | None = None,
) -> Applied:
    """Apply a bundle that was checked against this model; raise, with it off, if unverified."""
    manifest = bundle.manifest
    kind, body = kind_of(manifest.kind), parse_body(bundle)
    content = getattr(body, "content", None) or manifest.files[TENSORS].digest
    for entry in applied_to(model):
        if entry.content == content:
            raise AlreadyAppliedError(
                f"{manifest.label}: expected an artifact that is not on this model, its tensors "
                f"are on it already as {entry.label}.",
                hint="Take it off first: registry.unprotect(model)",
            )
    application = kind.verb("apply").apply(
        model,
        body,
        base=base,
        owner=f"{manifest.label} ({manifest.digest})",
        alpha=alpha,
        allow_unsafe=allow_unsafe,
    )
    handle = Applied(
        label=manifest.label,
        digest=manifest.digest,
        content=content,
        kind=manifest.kind,
        alpha=application.alpha,
        applied_at=stamp(),
        verified_at=None,
        evidence={},
        precondition=precondition,
        signed_by=() if said is None else said.signers,
        recorded=False,
        body=body,
        _model=model,
        _application=application,
    )
    remember(model, (*applied_to(model), handle))
    try:
        handle.verify()
    except BaseException:  # also out of memory and Ctrl-C: what was not verified does not stay
        handle.undo()
        raise
    return handle


@contextmanager
def protected(
    model: Any, artifact: Bundle | Reference | str | os.PathLike[str], **options: Any
) -> Iterator[Applied]:
    """Apply ``artifact`` inside the block and take it off after it; options as ``protect``."""
    handle = protect(model, artifact, **options)
    try:
        yield handle
    finally:
        handle.undo()


def unprotect(model: Any) -> int:
    """Take every artifact off ``model`` and return how many there were."""
    handles = applied_to(model)
    for handle in reversed(handles):
        handle.undo()
    return len(handles)


def _record_unsafe(handle: Applied, registry: Registry | str | None) -> None:
    """Leave an event about a strength that was not measured, where there is a registry."""
    try:
        with open_registry(registry) as opened:
            if not opened.is_read_only:
                detail = {"kind": handle.kind, "alpha": handle.alpha, "digest": handle.digest}
                opened.append_event("protect.unsafe", handle.label, detail)
    except RegistryMissingError:
        return
