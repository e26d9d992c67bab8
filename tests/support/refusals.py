"""What every refusal of hostile input must be: one error of ours, whole, readable, with a repair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from registry.errors import SafelatchError

if TYPE_CHECKING:
    from collections.abc import Callable


def refusal(kind: type[SafelatchError], call: Callable[[], Any], *said: str) -> SafelatchError:
    """Return the error of ``call``, after checking its class, its hint and that it says ``said``."""
    with pytest.raises(SafelatchError) as caught:
        call()
    error = caught.value
    assert type(error) is kind, f"{type(error).__name__}: {error}"
    for part in said:
        assert part in error.message, error.message
    assert error.hint
    assert all(line.isprintable() for line in str(error).split("\n"))
    assert str(error).encode("utf-8")
    assert len(error.message) < 20_000
    return error


def everything_under(folder: Any) -> dict[str, Any]:
    """Return every path under ``folder`` with its size and its time of writing."""
    return {
        str(path): (found.st_size, found.st_mtime_ns, found.st_ino)
        for path in sorted(folder.rglob("*"))
        if (found := path.lstat())
    }
