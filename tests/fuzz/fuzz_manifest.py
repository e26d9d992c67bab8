"""Fuzz strict JSON and the manifest: arbitrary bytes, the standard library as the other opinion.

Run it like ``fuzz_tensorfile.py``, with a Python that also has jsonschema and packaging:

    PYTHONPATH=. python tests/fuzz/fuzz_manifest.py -max_total_time=600 WORK \
        tests/fuzz/corpus/manifest

The property: bytes are refused with an ``EvidenceError``, or they are a manifest that is written as
the very same bytes, says what a plain JSON reader finds in them, and holds no text that a terminal
would obey.
"""

from __future__ import annotations

import json
import sys
from random import Random
from typing import Any

VALUES = (
    None, True, -1, 0, 0.5, 2**53 - 1, 1e308, "", "x", "\n", "../x", "\u202e", "\ud800", [], {},
    [0], {"a": 1}, "con", "1.0", "1.0rc1", "2030-02-30T00:00:00Z", "2031-01-01T00:00:00Z",
    "safelatch/manifest/v2", "blake3:" + "0" * 64,
)  # fmt: skip


def check(data: bytes) -> bool:
    """Return whether ``data`` is accepted as a manifest; raise if the property is broken."""
    from registry.artifact.manifest import Manifest
    from registry.errors import EvidenceError

    try:
        manifest = Manifest.from_bytes(data)
    except EvidenceError as error:
        require_readable(str(error), error.hint)
        return False
    document = json.loads(data)
    assert manifest.to_bytes() == data
    assert manifest.to_dict() == document
    assert Manifest.from_bytes(manifest.to_bytes()).digest == manifest.digest
    assert all(text.isprintable() for text in texts(document))
    return True


def require_readable(message: str, hint: str | None) -> None:
    """Raise unless an error can be shown to somebody and says what to do."""
    assert all(line.isprintable() for line in message.split("\n"))
    assert len(message) < 30_000
    assert hint


def texts(value: Any) -> list[str]:
    """Return every text in a JSON value, names of members too."""
    if isinstance(value, str):
        return [value]
    items = [*value, *value.values()] if isinstance(value, dict) else value
    return [text for item in items for text in texts(item)] if isinstance(items, list) else []


def with_other_value(data: bytes, random: Random) -> bytes:
    """Return ``data`` with one value exchanged, in the canonical form where it has one."""
    from registry.digest import canonical_json

    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    holder, place, inside = None, None, document
    while isinstance(inside, dict | list) and inside and (holder is None or random.random() < 0.8):
        places = list(inside) if isinstance(inside, dict) else range(len(inside))
        holder, place = inside, random.choice(places)
        inside = holder[place]
    if holder is not None:
        holder[place] = random.choice(VALUES)
    try:
        return canonical_json(document)
    except ValueError:
        return json.dumps(document).encode()


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["registry"]):
        import registry.artifact.manifest  # noqa: F401

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        if seed % 3:
            return with_other_value(data, Random(seed))[:most]
        changed: bytes = atheris.Mutate(data, most)
        return changed

    atheris.Setup(sys.argv, lambda data: check(data) and None, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
