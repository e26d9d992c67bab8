"""One call: load a fine-tune with its base's protection on it, verified, or not at all.

Everything about files is settled before the model is loaded, everything about the model before it
is returned:

    whose child is it -> which artifacts -> are they what was published -> do they fit
    -> load -> is it what was checked -> do the directions point to refusal here
    -> apply, all or nothing -> read back -> write it down: in the registry, or else in a receipt
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

from registry.artifact.bundle import BASE
from registry.errors import (
    ArtifactNotFoundError,
    BaseNotFoundError,
    NoProtectionError,
    RegistryMissingError,
    SafelatchError,
    UsageError,
    VersionNotFoundError,
)
from registry.kinds import kind_of, parse_body
from registry.settings import Settings
from registry.workflows import journal, receipts
from registry.workflows.bases import descents, describe, find_base, require_same_record
from registry.workflows.check import check
from registry.workflows.find import (
    bundles_for_base,
    find_bundle,
    open_registry,
    require_not_revoked,
)
from registry.workflows.identify import identify
from registry.workflows.open_model import open_model, open_tokenizer, require_plain_arguments
from registry.workflows.protect import Protection, applied_to, apply_verified, unprotect

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from registry.artifact.bundle import Bundle
    from registry.reference import Reference
    from registry.store.catalog import Registry
    from registry.workflows.check import CheckReport
    from registry.workflows.identify import Identified

Policy = Literal["enforce", "warn"]


def load_protected(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    artifacts: Sequence[str | os.PathLike[str] | Reference] | None = None,
    registry: Registry | str | None = None,
    policy: Policy = "enforce",
    **from_pretrained_kwargs: Any,
) -> PreTrainedModel:
    """Load a fine-tune and put its base's safety artifacts on it.

    Args:
        model: Folder or Hub id of the fine-tune.
        revision: Hub revision; resolved to a commit once.
        artifacts: References or bundle folders to apply; by default the active version of the one
            line of each kind that the registry holds for the measured base.
        registry: A ``Registry`` or its URL; the default one otherwise. Not needed when every
            artifact is a folder.
        policy: ``enforce`` raises unless at least one artifact is verified on the model; ``warn``
            returns the model without protection, with a warning and an event.
        **from_pretrained_kwargs: Passed to ``AutoModelForCausalLM.from_pretrained``.

    Returns:
        The plain model. ``model.safelatch`` says what was applied and when it was read back, and
        whether a registry has that on record; where none has, ``receipt`` is the file that says it.

    Raises:
        NoProtectionError: nothing fits, under ``enforce``; the text says what to do.
        BaseModelMismatchError, GeometryError: an artifact does not belong to this checkpoint.
        EvidenceError: an artifact or the loaded model is not what was checked.
    """
    if policy not in {"enforce", "warn"}:
        raise UsageError(
            f"expected policy 'enforce' or 'warn', got {policy!r}.",
            hint="Leave it out to enforce.",
        )
    require_plain_arguments(from_pretrained_kwargs)
    with ExitStack() as stack:
        opened = _open(stack, registry)
        written = journal.LoadJournal(opened, _place(registry))
        identified = identify(model, settings=Settings.load(), revision=revision)
        try:
            bundles, base_name = _choose(opened, registry, identified, artifacts)
            loaded, reports = _protected(
                opened, written, identified, bundles, from_pretrained_kwargs
            )
        except NoProtectionError as error:
            if policy == "warn":
                return _unprotected(written, identified, error, from_pretrained_kwargs)
            written.refusal(identified, error)
            raise
        except SafelatchError as error:
            written.refusal(identified, error)
            raise
        done = list(zip(bundles, reports, applied_to(loaded), strict=True))
        facts = (identified, str(loaded.device), policy, done)
        noted = written.applications(*facts)
        loaded.safelatch = Protection(
            applied=applied_to(loaded),
            checkpoint=identified.record.weights,
            base=base_name or bundles[0].manifest.base.name,
            lineage=reports[0].lineage.to_dict(),
            policy=policy,
            noted=noted,
            receipt=None if noted else receipts.leave(*facts, journal=written),
        )
        return loaded


def _protected(
    opened: Registry | None,
    written: journal.LoadJournal,
    model: Identified,
    bundles: Sequence[Bundle],
    arguments: dict[str, Any],
) -> tuple[Any, list[CheckReport]]:
    """Check the chosen bundles against the files, load the model, and apply them."""
    for bundle in bundles:
        _require_as_registered(opened, bundle)
    reports = [check(bundle, model.record) for bundle in bundles]
    written.reports(model, bundles, reports)
    for report in reports:
        report.require()
    loaded = open_model(model, **arguments)
    _apply_all(loaded, model, bundles)
    return loaded, reports


def _open(stack: ExitStack, registry: Registry | str | None) -> Registry | None:
    try:
        return stack.enter_context(open_registry(registry))
    except RegistryMissingError:
        return None  # whether one is needed is for ``_choose`` to say


def _place(registry: Registry | str | None) -> str:
    return Settings.load(registry if isinstance(registry, str) else None).db_url


def _choose(
    opened: Registry | None,
    registry: Registry | str | None,
    model: Identified,
    artifacts: Sequence[str | os.PathLike[str] | Reference] | None,
) -> tuple[list[Bundle], str | None]:
    """Return the bundles to apply and the base's name in the registry."""
    if artifacts is not None:
        if not artifacts or isinstance(artifacts, str):
            raise UsageError(
                f"expected a list of at least one artifact, got {artifacts!r}.",
                hint="Write a list: load_protected(..., artifacts=['NAME@VERSION'])",
            )
        try:
            return [find_bundle(name, opened or registry) for name in artifacts], None
        except (ArtifactNotFoundError, VersionNotFoundError, RegistryMissingError) as error:
            raise NoProtectionError(error.message, hint=error.hint) from error
    if opened is None:
        raise NoProtectionError(
            f"expected a registry to find protection in, found none at {_place(registry)}.",
            hint="Create one and add the base: safelatch init, then safelatch base add MODEL; "
            "or name a bundle: load_protected(..., artifacts=['file:///path/to/bundle'])",
        )
    try:
        descent = find_base(opened, model)
    except BaseNotFoundError as error:
        raise NoProtectionError(error.message, hint=error.hint) from error
    bundles = bundles_for_base(opened, descent.base.weights)
    if not bundles:
        raise NoProtectionError(
            f"expected an active artifact for the base {descent.base.name}, the registry has none.",
            hint=_of_another_base(opened, model)
            or f"Make and publish one: safelatch extract safety-lock {descent.base.name} "
            "--out DIR, then safelatch publish DIR --name NAME --version VERSION",
        )
    labels: dict[str, list[str]] = {}
    for bundle in bundles:
        labels.setdefault(bundle.manifest.kind, []).append(bundle.manifest.label)
    for kind, names in labels.items():
        if len(names) > 1:
            raise NoProtectionError(
                f"expected one {kind} for the base {descent.base.name}, got {', '.join(names)}.",
                hint=f"Name one: load_protected(..., artifacts=[{names[0]!r}])",
            )
    return bundles, descent.base.name


def _of_another_base(opened: Registry, model: Identified) -> str | None:
    """Return the hint that names an artifact of a farther base that ``model`` descends from too."""
    for descent in descents(opened, model.record):
        if descent.lineage.is_descendant:
            for bundle in bundles_for_base(opened, descent.base.weights):
                return (
                    f"It is {describe(descent.lineage)} of {descent.base.name} too; name that "
                    f"one's: load_protected(..., artifacts=[{bundle.manifest.label!r}])"
                )
    return None


def _require_as_registered(opened: Registry | None, bundle: Bundle) -> None:
    """Check that the registry has not revoked a bundle, and the base record that it brings."""
    if opened is None:
        return
    require_not_revoked(opened, bundle)
    for base in opened.bases():
        if base.weights == bundle.manifest.base_weights:
            brought = bundle.manifest.files[BASE].digest
            require_same_record(base, brought, f"the one in {bundle.manifest.label}")


def _apply_all(loaded: Any, model: Identified, bundles: Sequence[Bundle]) -> None:
    """Check what must hold before each artifact goes on, then apply all of them, or none."""

    def tokenizer() -> Any:
        return open_tokenizer(model)

    met = [
        kind_of(bundle.manifest.kind)
        .verb("verify")
        .precondition(loaded, tokenizer, parse_body(bundle))
        for bundle in bundles
    ]
    try:
        for bundle, found in zip(bundles, met, strict=True):
            apply_verified(loaded, bundle, precondition=found)
    except BaseException:
        unprotect(loaded)
        raise


def _unprotected(
    written: journal.LoadJournal,
    model: Identified,
    error: SafelatchError,
    arguments: dict[str, Any],
) -> PreTrainedModel:
    loaded = open_model(model, **arguments)
    noted = written.event("load.unprotected", model, {"reason": error.message})
    loaded.safelatch = Protection((), checkpoint=model.record.weights, policy="warn", noted=noted)
    warnings.warn(
        f"{model.locator} is loaded WITHOUT protection (policy='warn'): {error.message}",
        stacklevel=3,
    )
    return loaded
