"""A safety lock has no guard: it is added after training and leaves every weight trainable."""

from __future__ import annotations

from typing import Any, NoReturn

from registry.errors import UsageError


def guard(model: Any, body: Any, *, mode: str | None = None) -> NoReturn:  # noqa: ARG001 -- the contract's
    """Say that there is nothing to keep while training.

    Raises:
        UsageError: always.
    """
    raise UsageError(
        "a safety-lock has no guard: it is applied after training and leaves every weight "
        "trainable.",
        hint="Train as you like, then load the result with: registry.load_protected(MODEL)",
    )
