"""Fuzz the reader of safetensors headers: arbitrary bytes, the library as the other opinion.

Run it with a Python that has atheris, blake3 and safetensors, from the repository's root:

    PYTHONPATH=. python tests/fuzz/fuzz_tensorfile.py -max_total_time=600 WORK \
        tests/fuzz/corpus/tensorfile

New inputs go to the folder ``WORK`` (make it first). A crash is written to a file: name it after
what it shows, put it into the corpus, and ``test_fuzz_corpus.py`` replays it in every run of the
tests.

The property: bytes are refused with ``UnsafeFormatError``, or they are a file whose tensors keep
the rules of ``registry.tensorfile``, checked here again by other means, and which the safetensors
library reads as the same names, dtypes, shapes and bytes.
"""

from __future__ import annotations

import json
import re
import sys
from random import Random

SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "U16": 2, "I16": 2,
    "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip

VALUES = (
    0, 1, 2, 8, -1, True, 1.0, None, 2**31, 2**60, 2**63, 10**30, "U8", "F64", "a", [], [0], [1],
    [0, 0], [0, 1], [0, 8], [8, 16], [2**32, 2**32], {},
    {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
)  # fmt: skip


def check(data: bytes) -> bool:
    """Return whether ``data`` is accepted as a safetensors file; raise if the property is broken."""
    from registry.errors import UnsafeFormatError
    from registry.tensorfile import ARTIFACT_HEADER_LIMIT, header_length, parse_header

    limit = ARTIFACT_HEADER_LIMIT
    try:
        length = header_length(data[:8], file_size=len(data), what="x", limit=limit)
        header = parse_header(data[8 : 8 + length], file_size=len(data), what="x", limit=limit)
    except UnsafeFormatError as error:
        require_readable(str(error))
        return False
    assert header.data_start == 8 + length
    body = data[8 + length :]
    names = [entry.name for entry in header.entries]
    assert names == sorted(set(names))
    assert all(name and name.isprintable() for name in names)
    position = 0
    for entry in sorted(header.entries, key=lambda item: (item.begin, item.end)):
        size = SIZES[entry.dtype]
        for extent in entry.shape:
            size *= extent
        assert (entry.begin, entry.end) == (position, position + size)
        position = entry.end
    assert position == len(body)
    ours = {
        entry.name: (entry.dtype, list(entry.shape), body[entry.begin : entry.end])
        for entry in header.entries
    }
    assert ours == library_reads(data)
    return True


def require_readable(message: str) -> None:
    """Raise unless ``message`` can be shown to somebody: no control characters, not endless."""
    assert all(line.isprintable() for line in message.split("\n"))
    assert len(message) < 10_000


def library_reads(data: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    """Return what the safetensors library finds in ``data``."""
    from safetensors import deserialize

    return {
        name: (found["dtype"], found["shape"], bytes(found["data"]))
        for name, found in deserialize(data)
    }


def with_length(data: bytes) -> bytes:
    """Return ``data`` with a length in front that ends the header at its last closing brace."""
    end = data.rfind(b"}") + 1
    return max(0, end - 8).to_bytes(8, "little") + data[8:]


def with_other_value(data: bytes, random: Random) -> bytes:
    """Return ``data`` with one value of its header exchanged and as many bytes as its ranges end.

    Mutations of bytes rarely leave JSON that can be read; these always do.
    """
    try:
        document, _ = json.JSONDecoder().raw_decode(data[8:].decode("latin-1"))
    except (ValueError, RecursionError):
        return data
    holder, place = None, None
    while isinstance(document if holder is None else holder[place], dict | list):
        inside = document if holder is None else holder[place]
        places = list(inside) if isinstance(inside, dict) else range(len(inside))
        if not places or (holder is not None and random.random() < 0.3):
            break
        holder, place = inside, random.choice(places)
    if holder is not None:
        holder[place] = random.choice(VALUES)
    ends = re.findall(rb'"data_offsets":\[\d+,(\d{1,4})\]', text := packed(document))
    return len(text).to_bytes(8, "little") + text + bytes(max(map(int, ends), default=0))


def packed(document: object) -> bytes:
    """Return ``document`` as JSON without blanks."""
    return json.dumps(document, separators=(",", ":")).encode()


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["registry", "json"]):
        import registry.tensorfile  # noqa: F401

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        if seed % 3 == 0:
            return with_other_value(data, Random(seed))[:most]
        changed = atheris.Mutate(data, most)
        return with_length(changed) if seed % 3 == 1 else changed

    atheris.Setup(sys.argv, lambda data: check(data) and None, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
