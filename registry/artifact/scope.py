"""Namespaces of base models: what a key may speak for, what a rule is about.

    acme/*            every repository of acme
    acme/base-7b      this one
    my-base           a base of this name
    *                 any base
    blake3:<64 hex>   these weights, whatever they are called

A ``*`` stands alone or for all of a namespace, so that ``acme/*`` is never ``acme-evil/x``. Names
are locators and not identity: what ties a name to weights is the registry that measured them (see
``workflows.trust``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from registry.digest import is_digest
from registry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,198}[A-Za-z0-9])?"
_PATTERN = re.compile(rf"\*|(?!.*\.\.){_NAME}(?:/\*|/{_NAME})?")


def require_pattern(text: str) -> str:
    """Return ``text`` if it is a pattern.

    Raises:
        UsageError: it is none of the forms above.
    """
    is_weights = text.startswith("blake3:")
    if not (is_digest(text) if is_weights else _PATTERN.fullmatch(text)):
        raise UsageError(
            f"expected a namespace such as acme/*, acme/base-7b, a digest or '*', got "
            f"{text[:120]!r}.",
            hint="Name what the key may speak for: --for 'acme/*'",
        )
    return text


def covers(pattern: str, names: Iterable[str]) -> bool:
    """Return whether one of ``names`` is in ``pattern``; upper and lower case differ."""
    if pattern.endswith("*"):
        begin = pattern[:-1]
        return any(name.startswith(begin) for name in names)
    return pattern in names
