"""Safelatch: versioned safety artifacts for open-weight language models.

An artifact is made once from an aligned base model, is keyed to the digest of its weights,
and then protects the fine-tunes derived from it. The public names load on first use, so
``import registry`` costs nothing but the standard library::

    from registry import load_protected
    model = load_protected("path/to/my-finetune")     # raises unless protection is verified
    model.safelatch                                    # what was applied, and when it was read back

``guard`` keeps it while a model is trained; of a mask, ``guard(model, artifact, mode="enhance")``
trains the selected weights alone. ``project`` writes a copy of a model with a mask's weights in it.

Stability: the names in ``__all__`` and the errors of ``registry.errors`` follow semantic
versioning; every other module is private.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry.store.catalog import Registry
    from registry.workflows.guard import guard
    from registry.workflows.load import load_protected
    from registry.workflows.project import project
    from registry.workflows.protect import protect, protected, unprotect
    from registry.workflows.trainer_callback import SafetyCallback

__version__ = "0.1.0"

_HOMES = {
    "Registry": "registry.store.catalog",
    "SafetyCallback": "registry.workflows.trainer_callback",
    "guard": "registry.workflows.guard",
    "load_protected": "registry.workflows.load",
    "project": "registry.workflows.project",
    "protect": "registry.workflows.protect",
    "protected": "registry.workflows.protect",
    "unprotect": "registry.workflows.protect",
}

__all__ = [
    "Registry", "SafetyCallback", "__version__", "guard", "load_protected", "project", "protect",
    "protected", "unprotect",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
