"""From what the user typed to files that were read, and to a live model; quietly.

A base may be named by path, by Hub id, or by the name of a registered base whose files are still
where they were. Then the files must still hold the registered weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.cli.invocation import one_stage
from registry.errors import BaseModelMismatchError, BaseNotFoundError

if TYPE_CHECKING:
    from registry.artifact.bundle import Bundle
    from registry.cli.invocation import Invocation, StageProgress
    from registry.store.values import Base
    from registry.workflows.check import CheckReport
    from registry.workflows.identify import Identified


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base whose files were read, and what to call it."""

    identified: Identified
    name: str


def read_model(
    invocation: Invocation,
    model: str,
    *,
    revision: str | None = None,
    use_cache: bool = True,
    progress: StageProgress | None = None,
) -> Identified:
    """Return what ``model`` (a path or Hub id) is, with a bar over its bytes."""
    from registry.workflows.identify import identify

    return identify(
        model,
        settings=invocation.settings(),
        revision=revision,
        use_cache=use_cache,
        progress=one_stage(progress, "reading weights"),
    )


def read_base(
    invocation: Invocation,
    text: str,
    *,
    revision: str | None = None,
    progress: StageProgress | None = None,
) -> BaseModel:
    """Return the base that ``text`` names: a path, a Hub id, or a registered base.

    Raises:
        BaseNotFoundError: nothing of this name.
        CheckpointNotFoundError: a registered base whose files are gone.
        BaseModelMismatchError: its files hold other weights now.
    """
    from registry.plainfile import expanded
    from registry.workflows.bases import default_name, registered_files

    locator, known = text, None
    if not expanded(text).exists():
        known = _registered(invocation, text)
    if known is not None:
        locator, revision = registered_files(known)
    identified = read_model(invocation, locator, revision=revision, progress=progress)
    if known is not None and identified.record.weights != known.weights:
        raise BaseModelMismatchError(
            f"{known.name}: expected {known.weights} at {locator}, got "
            f"{identified.record.weights}: the files changed since it was registered.",
            hint="Name the base by the place of its files.",
        )
    found = known or registered_weights(invocation, identified.record.weights)
    return BaseModel(identified, found.name if found is not None else default_name(identified))


def base_place(invocation: Invocation, text: str) -> str:
    """Return where the files are of the base that ``text`` names: a path or Hub id as it is.

    Raises:
        BaseNotFoundError: nothing of this name.
        CheckpointNotFoundError: a registered base whose files are gone.
    """
    from registry.plainfile import expanded
    from registry.workflows.bases import registered_files
    from registry.workflows.identify import locate

    known = None if expanded(text).exists() else _registered(invocation, text)
    return text if known is None else str(locate(*registered_files(known))[0])


def open_live(model: Identified, device: str = "auto") -> tuple[Any, Any]:
    """Return the live model and its tokenizer, proven to be the files that were read.

    Args:
        model: What was read.
        device: ``cpu``, ``cuda``, or ``auto`` for cuda where there is one.

    Raises:
        HostError: there is no such device here.
    """
    from registry.workflows.open_model import (
        open_model,
        open_tokenizer,
        pick_device,
        quiet_libraries,
    )

    with quiet_libraries():
        tokenizer = open_tokenizer(model)
        chosen = pick_device(device)
        return open_model(model).to(chosen), tokenizer


def check_live(
    invocation: Invocation, bundle: Bundle, model: Identified, device: str, data: Path | None
) -> CheckReport:
    """Return the verdict on files and live model, with a bar over what is read of answers.

    Args:
        invocation: This run.
        bundle: The artifact.
        model: What was read.
        device: As ``open_live``.
        data: File of the preference pairs the artifact was made from; the packaged ones by default.
    """
    from registry.measure.prompts import read_pairs
    from registry.workflows.check_measure import check_measured

    pairs = None if data is None else read_pairs(data)
    with invocation.progress() as progress:
        return check_measured(
            bundle,
            model.record,
            lambda: open_live(model, device),
            pairs=pairs,
            progress=one_stage(progress, "reading activations"),
        )


def _registered(invocation: Invocation, text: str) -> Base | None:
    """Return the registered base called ``text``; ``None`` when it can only be a Hub id or path."""
    from registry.reference import is_repo_id

    with invocation.registry_if_any() as registry:
        if registry is None:
            return None
        try:
            return registry.base(text)
        except BaseNotFoundError:
            if is_repo_id(text) or Path(text).is_absolute() or text.startswith((".", "~")):
                return None
            raise


def registered_weights(invocation: Invocation, weights: str) -> Base | None:
    """Return the registered base with these weights, or ``None``."""
    with invocation.registry_if_any() as registry:
        if registry is None:
            return None
        try:
            return registry.base(weights)
        except BaseNotFoundError:
            return None
