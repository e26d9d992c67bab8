"""One call: load a fine-tune with its base's protection on it, verified, or not at all.

Everything about files is settled before the model is loaded, everything about the model before it
is returned:

    whose child is it -> which artifacts -> are they what was published -> do they fit
    -> load -> is it what was checked -> do the directions point to refusal here
    -> apply, all or nothing -> read back -> write it down: in the registry, or else in a receipt

What puts weights back goes on before what is computed from the weights that are there.
"""

from __future__ import annotations

import warnings
from itertools import groupby
from typing import TYPE_CHECKING, Any

from registry.artifact.bundle import BASE
from registry.errors import NoProtectionError, SafelatchError
from registry.kinds import kind_of, parse_body
from registry.settings import Settings
from registry.workflows import journal, receipts
from registry.workflows.applied import Protection, applied_to
from registry.workflows.base_tensors import BaseTensors
from registry.workflows.bases import find_base, require_same_record
from registry.workflows.check import check
from registry.workflows.choose import choose
from registry.workflows.find import known_version, registry_if_any
from registry.workflows.identify import identify
from registry.workflows.load_policy import policy_of
from registry.workflows.open_model import open_model, open_tokenizer, require_plain_arguments
from registry.workflows.protect import apply_verified, unprotect
from registry.workflows.trust import base_names, names_of, trust_of, vouch

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from registry.artifact.bundle import Bundle
    from registry.reference import Reference
    from registry.store.catalog import Registry
    from registry.workflows.check import CheckReport
    from registry.workflows.identify import Identified
    from registry.workflows.trust import Trust, TrustArgument, Vouched


def load_protected(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    artifacts: Sequence[str | os.PathLike[str] | Reference] | None = None,
    registry: Registry | str | None = None,
    trust: TrustArgument = None,
    policy: str | os.PathLike[str] = "enforce",
    base: str | os.PathLike[str] | None = None,
    **from_pretrained_kwargs: Any,
) -> PreTrainedModel:
    """Load a fine-tune and put its base's safety artifacts on it.

    Args:
        model: Folder or Hub id of the fine-tune.
        revision: Hub revision; resolved to a commit once.
        artifacts: References or bundle folders to apply; by default the active version of the one
            line of each kind that the registry holds for the measured base, or finds for it
            (``workflows.discover``) and pulls. Safety layers, which put the base's weights back,
            are applied only where they are named here.
        registry: A ``Registry`` or its URL; the default one otherwise. Not needed when every
            artifact is named by its place, a folder or ``hf://``.
        trust: Public keys (files or ids) of which one must have signed each artifact and its line;
            by default the keys that the registry trusts for the base, if there are any.
        policy: ``enforce`` raises unless at least one artifact is verified on the model; ``warn``
            returns the model without protection, with a warning and an event; the path of a
            policy file says more.
        base: Folder or Hub id of the artifacts' base, for a kind that puts weights of it back; by
            default the files of it that the registry knows.
        **from_pretrained_kwargs: Passed to ``AutoModelForCausalLM.from_pretrained``.

    Returns:
        The plain model. ``model.safelatch`` says what was applied and when it was read back, and
        whether a registry has that on record; where none has, ``receipt`` is the file that says it.

    Raises:
        NoProtectionError: nothing fits, under ``enforce``; the text says what to do.
        BaseModelMismatchError, GeometryError: an artifact does not belong to this checkpoint.
        UnsignedError, SignatureError, UntrustedKeyError, KeyScopeError: nobody who is trusted
            signed an artifact or its line.
        RevokedError, LineExpiredError, RollbackError, LineForkError: what was signed no longer
            holds.
        PolicyError: the policy file asks for more.
        RemoteError: a remote that is named cannot be reached, or refuses.
        UsageError, NotFoundError: an argument cannot be, or a key or policy file is not there.
        EvidenceError: an artifact or the loaded model is not what was checked.
    """
    rule = policy_of(policy)
    require_plain_arguments(from_pretrained_kwargs)
    with registry_if_any(registry) as opened:
        trusted = trust_of(trust, opened)
        place = _place(registry)
        written = journal.LoadJournal(opened, place)
        identified = identify(model, settings=Settings.load(), revision=revision)
        try:
            bundles, base_name = choose(
                opened, place, identified, artifacts, policy=rule.file,
                approve=lambda head: _vouched(opened, head, trusted),
            )  # fmt: skip
            bundles.sort(key=_goes_on_later)
            vouched = [_vouched(opened, bundle, trusted) for bundle in bundles]
            reports = _compatible(written, identified, bundles)
            found = list(zip(bundles, reports, vouched, strict=True))
            names = [*_names(opened, identified)]
            for bundle in bundles:
                names += names_of(bundle, opened)
            rule.meet(identified, tuple(dict.fromkeys(names)), found, written)
            loaded = open_model(identified, **from_pretrained_kwargs)
            tensors = [BaseTensors(bundle, base, opened or place) for bundle in bundles]
            _apply_all(loaded, identified, list(zip(bundles, vouched, tensors, strict=True)))
        except NoProtectionError as error:
            if not rule.goes_without(identified, _names(opened, identified), written):
                written.refusal(identified, error)
                raise
            return _unprotected(written, identified, error, from_pretrained_kwargs)
        except SafelatchError as error:
            written.refusal(identified, error)
            raise
        for bundle, said in zip(bundles, vouched, strict=True):
            _tell_yanked(opened, bundle, said, identified, written)
        done = list(zip(bundles, reports, applied_to(loaded), strict=True))
        facts = (identified, str(loaded.device), rule.mode, done)
        noted = written.applications(*facts)
        loaded.safelatch = Protection(
            applied=applied_to(loaded),
            checkpoint=identified.record.weights,
            base=base_name or bundles[0].manifest.base.name,
            lineage=reports[0].lineage.to_dict(),
            policy=rule.mode,
            noted=noted,
            receipt=None if noted else receipts.leave(*facts, journal=written),
        )
        return loaded


def _compatible(
    written: journal.LoadJournal, model: Identified, bundles: Sequence[Bundle]
) -> list[CheckReport]:
    """Return the verdicts on the chosen bundles and the files, written down; all must fit."""
    reports = [check(bundle, model.record) for bundle in bundles]
    written.reports(model, bundles, reports)
    for report in reports:
        report.require()
    return reports


def _place(registry: Registry | str | None) -> str:
    return Settings.load(registry if isinstance(registry, str) else None).db_url


def _vouched(opened: Registry | None, bundle: Bundle, trusted: Trust) -> Vouched | None:
    _require_as_registered(opened, bundle)
    return vouch(bundle, trusted, opened)


def _names(opened: Registry | None, model: Identified) -> tuple[str, ...]:
    """Return what the base of ``model`` is called, as far as it is known here."""
    if opened is None:
        return ()
    try:
        base = find_base(opened, model).base
    except SafelatchError:
        return ()
    return (*base_names(base), str(base.weights))


def _tell_yanked(
    opened: Registry | None,
    bundle: Bundle,
    said: Vouched | None,
    model: Identified,
    written: journal.LoadJournal,
) -> None:
    """Warn, and leave an event, that a version was named which its publisher yanked."""
    here = None if opened is None else known_version(opened, bundle)
    reason: str | None = None
    if said is not None and said.is_yanked:
        reason = said.reason or "no reason given"
    elif here is not None and here.state == "yanked":
        reason = here.state_reason or "no reason given"
    if reason is not None:
        label = bundle.manifest.label
        written.event("load.yanked", model, {"artifact": label, "reason": reason})
        warnings.warn(f"{label} is yanked: {reason}. It is loaded as it was named.", stacklevel=3)


def _require_as_registered(opened: Registry | None, bundle: Bundle) -> None:
    """Check that the registry has not revoked a bundle, and the base record that it brings."""
    if opened is None:
        return
    known_version(opened, bundle)  # raises if it is revoked
    for base in opened.bases():
        if base.weights == bundle.manifest.base_weights:
            brought = bundle.manifest.files[BASE].digest
            require_same_record(base, brought, f"the one in {bundle.manifest.label}")


def _goes_on_later(bundle: Bundle) -> bool:
    return not kind_of(bundle.manifest.kind).rewrites


def _apply_all(
    loaded: Any,
    model: Identified,
    given: Sequence[tuple[Bundle, Vouched | None, BaseTensors]],
) -> None:
    """Check what must hold before each artifact goes on, then apply all of them, or none.

    What must hold of the weights is asked once those that are put back are there, and before
    anything is computed from them.
    """

    def tokenizer() -> Any:
        return open_tokenizer(model)

    try:
        for _, group in groupby(given, lambda one: _goes_on_later(one[0])):
            together = list(group)
            met = [
                kind_of(bundle.manifest.kind)
                .verb("verify")
                .precondition(loaded, tokenizer, parse_body(bundle))
                for bundle, _, _ in together
            ]
            for (bundle, said, tensors), found in zip(together, met, strict=True):
                with tensors:
                    apply_verified(loaded, bundle, base=tensors, precondition=found, said=said)
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
        f"{model.locator} is loaded WITHOUT protection, as its policy allows: {error.message}",
        stacklevel=3,
    )
    return loaded
