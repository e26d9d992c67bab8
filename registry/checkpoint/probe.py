"""A short vector of a record that ranks records of one geometry by nearness, without reading them.

A record takes megabytes, its probe takes 1,024 bytes: a registry finds the few bases that are worth
judging among thousands. A probe is no evidence; ``lineage`` judges what it found.

The rule is frozen, version 1. Another one needs a revision of the database that clears the column:

- 256 values, little-endian float32, one after the other.
- Value ``i`` of 256 is of decoder layer ``i * layers // 256`` and of weight ``i`` modulo their
  number: query, key, value, attention output, MLP output, each tensor once. Of several experts it
  is the first. A fine-tune that leaves all of them as they were is as near as its base.
- Within the tensor it is sample ``s % n`` of the ``n`` flat samples of its sketch, where ``s`` is
  output ``i`` of splitmix64 from seed 0: positions depend on names and shapes alone.
- Of a complex number it is the real part. What float32 cannot hold is rounded, or infinite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.sketch import extent, splitmix64
from registry.checkpoint.values import item_size, to_float64

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from registry.checkpoint.record import BaseRecord
    from registry.checkpoint.sites import Sites

COUNT: Final = 256
SIZE: Final = 4 * COUNT
"""Bytes of a probe."""


def probe(record: BaseRecord) -> bytes | None:
    """Return the probe of a record; ``None`` where a weight it is taken from is not there.

    Raises:
        UnsupportedArchitectureError: there is no row for the family.
    """
    import numpy as np

    entries = {entry.name: entry for entry in record.entries}
    outputs = splitmix64(0, COUNT)
    values = np.empty(COUNT)
    for slot, name in enumerate(_names(sites_for(record.geometry.family), record.geometry.layers)):
        entry = entries.get(name)
        count = 0 if entry is None else extent(entry.shape).flat
        if entry is None or not count:
            return None
        size = item_size(entry.dtype)
        start = int(outputs[slot] % np.uint64(count)) * size
        bits = record.samples[name][start : start + size]
        values[slot] = to_float64(bits, entry.dtype)[0]
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype("<f4").tobytes()


def distances(child: bytes, bases: Sequence[bytes]) -> NDArray[np.float64]:
    """Return the relative distance of a checkpoint to each base, estimated from their probes.

    Args:
        child: Probe of the checkpoint.
        bases: Probes of the bases.

    Returns:
        ``||child - base|| / ||base||`` for each base, in its order, dimensionless; infinite where a
        value that differs is not finite, or where a base of zeros differs.
    """
    import numpy as np

    theirs = np.frombuffer(child, dtype="<f4")
    ours = np.frombuffer(b"".join(bases), dtype="<f4").reshape(len(bases), COUNT)
    differs = ours.view("<u4") != theirs.view("<u4")
    change = np.zeros(ours.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        np.subtract(theirs, ours, dtype=np.float64, where=differs, out=change)
        squares = np.einsum("ij,ij->i", change, change)
        size = np.einsum("ij,ij->i", ours, ours, dtype=np.float64)
    found = np.full(len(bases), np.inf)
    known = np.isfinite(squares) & np.isfinite(size) & (size > 0)
    found[known] = np.sqrt(squares[known] / size[known])
    found[squares == 0.0] = 0.0
    return found


def _names(sites: Sites, layers: int) -> list[str]:
    roles = (sites.query, sites.key, sites.value, sites.attn_out, sites.mlp_out)
    modules = list(dict.fromkeys(role.format(index=0) for role in roles))
    return [
        f"{sites.layer_prefix(slot * layers // COUNT)}.{modules[slot % len(modules)]}.weight"
        for slot in range(COUNT)
    ]
