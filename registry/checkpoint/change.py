"""What was done to a base: the kind of change, with the numbers it rests on.

Told from two sketches. Tests go from the particular to the general, and each asks for something
that the others do not leave:

- ``identical``: the weights digests are equal.
- ``cast``: every sample is the base's, rounded to another dtype.
- ``quantised-int8``, ``-nf4``, ``-4bit``, ``-gguf``: most runs of neighbours hold a quantiser's
  levels that the base's do not (``levels``).
- ``abliterated``: what writes to the residual stream changed mostly in one direction of it, shared
  by all layers or by the matrices of each (``ranks.direction_of``).
- ``sparse-edit``: few weights changed, by far more than the dtype's smallest step; or at
  most three matrices did.
- ``merged-lora``: in almost every changed matrix the change has a low rank, and beside it nothing
  but rounding.
- ``merge``: the change is a combination of the changes of other models that are known.
- ``vocabulary-extended``: embeddings grew and their first rows, and all else, are the base's.
- ``fine-tune``: what is left within the distance bound: many weights changed, in many directions. A
  merge with a model that is not known here looks the same.
- ``unrelated``, ``unknown``: beyond the bound; or nothing above can be told.

An edit that no sample meets shows in the digests alone: the tensors are named, and the kind is
``sparse-edit``. Whoever knows the positions can hide from samples, never from digests.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.checkpoint._signs import SIGNS, is_merge, short, spread
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.lineage import judge
from registry.checkpoint.pairs import common_rows, pairs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.checkpoint._signs import Kind
    from registry.checkpoint.lineage import Lineage
    from registry.checkpoint.pairs import Pair
    from registry.checkpoint.record import BaseRecord


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to a base.

    Attributes:
        kind: In one word.
        figures: The numbers it rests on; the names are those of ``docs/lineage.md``.
        changed: Tensors of both with other bits or another shape, sorted.
        layers: Decoder layers with a changed tensor, ascending.
        added_tokens: Rows that the input embedding gained; negative when it lost some.
    """

    kind: Kind
    figures: Mapping[str, Any] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    added_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "kind": self.kind,
            "figures": dict(self.figures),
            "changed": list(self.changed),
            "layers": list(self.layers),
            "added_tokens": self.added_tokens,
        }


def classify(
    base: BaseRecord,
    child: BaseRecord,
    *,
    lineage: Lineage | None = None,
    others: Sequence[tuple[str, BaseRecord]] = (),
) -> Change:
    """Return what was done to ``base`` to make ``child``.

    Args:
        base: Record of the base.
        child: Record of the checkpoint under test.
        lineage: What ``judge`` said of the two, if it was asked before.
        others: Names and records of other models that may have been merged in.
    """
    found = judge(base, child) if lineage is None else lineage
    if found.relation == "identical":
        return Change("identical")
    sites = sites_for(base.geometry.family)
    theirs = {entry.name: entry for entry in child.entries}
    changed = tuple(
        sorted(
            entry.name
            for entry in base.entries
            if entry.name in theirs
            and (entry.digest, entry.dtype, entry.shape)
            != (theirs[entry.name].digest, theirs[entry.name].dtype, theirs[entry.name].shape)
        )
    )
    shapes = [{e.name: e.shape for e in r.entries}.get(sites.embedding) for r in (base, child)]
    added = 0 if None in shapes else shapes[1][0] - shapes[0][0]  # type: ignore[index]
    kind, figures = _kind(base, child, found, others)
    layers = sorted({layer for name in changed if (layer := sites.layer_of(name)) is not None})
    return Change(kind, figures, changed, tuple(layers), added)


def _kind(
    base: BaseRecord,
    child: BaseRecord,
    lineage: Lineage,
    others: Sequence[tuple[str, BaseRecord]],
) -> tuple[Kind, dict[str, Any]]:
    if lineage.relation in {"unrelated", "other-structure"}:
        figures = {"correlation": short(lineage.correlation)}
        return ("unrelated" if lineage.relation == "unrelated" else "unknown"), figures
    everything = pairs(base, child)
    changed = [pair for pair in everything if not pair.is_same]
    moved = [pair for pair in changed if pair.change.any()]
    if not moved and all(pair.base.dtype != pair.child.dtype for pair in changed):
        return _copied(base, child, lineage, Counter(_cast(pair) for pair in changed))
    figures = spread(everything, moved)
    for sign in SIGNS:
        kind = sign(moved, sites_for(base.geometry.family), figures)
        if kind is not None:
            return kind, figures
    if not lineage.is_descendant:  # too far for a fine-tune, and nothing else shows
        return "unknown", figures | {"correlation": short(lineage.correlation)}
    return ("merge" if is_merge(base, child, moved, others, figures) else "fine-tune"), figures


def _copied(
    base: BaseRecord, child: BaseRecord, lineage: Lineage, casts: Counter[str]
) -> tuple[Kind, dict[str, Any]]:
    """Return the kind where every sample of what both have in one shape is the base's."""
    figures = {"cast": casts.most_common(1)[0][0]} if casts else {}
    grown = [_prefix_share(base, child, name) for name in lineage.reshaped]
    if grown:
        kept = all(share == 1.0 for share in grown)
        return ("vocabulary-extended" if kept else "unknown"), figures
    return ("cast" if casts else "unknown"), figures  # unknown: tensors were added or removed


def _cast(pair: Pair) -> str:
    return f"{pair.base.dtype} to {pair.child.dtype}"


def _prefix_share(base: BaseRecord, child: BaseRecord, name: str) -> float | None:
    import numpy as np

    rows = common_rows(base, child, name)
    return None if rows is None else float(np.mean(rows[0] == rows[1]))
