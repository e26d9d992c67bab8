"""A text key that sorts as PEP 440 orders versions, so that a database can.

The rules are those of ``packaging.version``: epoch, release without trailing zeros, pre-release,
post-release, development release, local label. Each field is written so that no field is a prefix
of another one's text, and the bytes compare as the values do:

- a number is its two-digit length, then its digits: ``7`` is ``017``, ``10`` is ``0210``;
- a list is ``1`` before each item and ``0`` at its end;
- an absent field is one character below or above a present one, as the rules say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import UsageError

if TYPE_CHECKING:
    from packaging.version import Version

VERSION_LIMIT = 64
"""Most characters of a version: what a reference can name and a column holds."""


def order_key(version: str) -> str:
    """Return the key of a PEP 440 ``version``: keys compare (byte-wise) as the versions do.

    Raises:
        UsageError: it is not a PEP 440 version of at most 64 characters.
    """
    from packaging.version import InvalidVersion, Version

    try:
        parsed = Version(version) if len(version) <= VERSION_LIMIT else None
    except InvalidVersion:
        parsed = None
    if parsed is None:
        raise UsageError(
            f"expected a PEP 440 version of at most {VERSION_LIMIT} characters, "
            f"got {version[:80]!r}.",
            hint="Use, for example: 1.0.0 or 2.1rc1",
        )
    release = list(parsed.release)
    while release and release[-1] == 0:
        release.pop()
    return "".join(
        [
            _number(parsed.epoch),
            *("1" + _number(part) for part in release),
            "0",
            _pre(parsed),
            "0" if parsed.post is None else "1" + _number(parsed.post),
            "1" if parsed.dev is None else "0" + _number(parsed.dev),
            _local(parsed.local),
        ]
    )


def is_prerelease(version: str) -> bool:
    """Return whether ``version`` is an alpha, beta, candidate or development release."""
    from packaging.version import Version

    return Version(version).is_prerelease


def _number(value: int) -> str:
    digits = str(value)
    return f"{len(digits):02d}{digits}"


def _pre(parsed: Version) -> str:
    if parsed.pre is not None:
        label, number = parsed.pre
        return "1" + label[0] + _number(number)  # a < b < r
    below_every_pre = parsed.post is None and parsed.dev is not None
    return "0" if below_every_pre else "2"


def _local(label: str | None) -> str:
    if label is None:
        return "0"
    parts = label.split(".")
    items = ("2" + _number(int(part)) if part.isdigit() else f"1{part}." for part in parts)
    return "1" + "".join(items) + "0"
