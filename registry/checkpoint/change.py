"""What was done to a base: the kind of change, with the numbers it rests on.

Told from two sketches. Tests go from the particular to the general, in this order, and each asks
for something that the others do not leave:

- ``identical``: the weights digests are equal.
- ``vocabulary-extended``: embeddings grew and their first rows, and all else, are the base's.
- ``cast``: every sample is the base's, rounded to another dtype.
- ``abliterated``: what writes to the residual stream changed mostly in one direction of it, shared
  by all layers or by the matrices of each (``ranks.direction_of``).
- ``quantised-int8``, ``-nf4``, ``-4bit``, ``-gguf``: most runs of neighbours hold a quantiser's
  levels that the base's do not (``levels``).
- ``sparse-edit``: few weights changed, by more than two steps of their dtype; or at most three
  matrices did.
- ``merged-lora``: in most of the changed matrices the change has a low rank, and beside it nothing
  but rounding.
- ``merge``: the change is a combination of the changes of other models that are known.
- ``fine-tune``: what is left within the distance bound: many weights changed, in many directions. A
  merge with a model that is not known here looks the same.
- ``unrelated``: beyond the bound, and the layers are not correlated with the base's.
- ``unknown``: nothing above can be told, or it is related and too far for a fine-tune.

An edit that no sample meets shows in the digests alone: the tensors are named, and the kind is
``sparse-edit``. Whoever knows the positions can hide from samples, never from digests.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.checkpoint import _signs
from registry.checkpoint._signs import short
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.lineage import judge
from registry.checkpoint.pairs import common_rows, pairs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from registry.checkpoint._signs import ChangeKind, Figures, Sign
    from registry.checkpoint.lineage import Lineage
    from registry.checkpoint.pairs import TensorPair
    from registry.checkpoint.record import BaseRecord


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to a base.

    Attributes:
        kind: In one word.
        figures: The numbers it rests on, as ``docs/lineage.md`` names them; ``ruled_out`` has those
            of the tests that did not hold, by kind.
        changed: Tensors of both with other bits or another shape, sorted.
        layers: Decoder layers with a changed tensor, ascending.
        added_tokens: Rows that the input embedding gained; negative when it lost some.
    """

    kind: ChangeKind
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
    kind, figures = _kind(base, child, found, others, added=added)
    layers = sorted({layer for name in changed if (layer := sites.layer_of(name)) is not None})
    return Change(kind, figures, changed, tuple(layers), added)


def explain(
    child: BaseRecord, relatives: Sequence[tuple[str, BaseRecord, Lineage]]
) -> tuple[int, Change]:
    """Return which of several relatives explains ``child`` best, and what was done to it.

    That is the nearest, unless it leaves a plain fine-tune and another one makes it a merge.

    Args:
        child: Record of the checkpoint under test.
        relatives: Name, record and lineage of models it may descend from, the nearest first; at
            least one.
    """
    named = [(name, record) for name, record, _ in relatives]

    def change(index: int) -> Change:
        _, record, lineage = relatives[index]
        others = named[:index] + named[index + 1 :]
        return classify(record, child, lineage=lineage, others=others)

    nearest = change(0)
    if nearest.kind == "fine-tune":
        for index in range(1, len(relatives)):
            other = change(index)
            if other.kind == "merge":
                return index, other
    return 0, nearest


def _kind(
    base: BaseRecord,
    child: BaseRecord,
    lineage: Lineage,
    others: Sequence[tuple[str, BaseRecord]],
    *,
    added: int,
) -> tuple[ChangeKind, Figures]:
    correlation = {"correlation": short(lineage.correlation)}
    if lineage.relation in {"unrelated", "other-structure"}:
        return ("unrelated" if lineage.relation == "unrelated" else "unknown"), correlation
    everything = pairs(base, child)
    changed = [pair for pair in everything if not pair.is_same]
    moved = [pair for pair in changed if pair.change.any()]
    unseen = _unseen(base, child, {pair.name for pair in everything})
    if not moved and not unseen and all(p.base.dtype != p.child.dtype for p in changed):
        return _copied(base, child, lineage, Counter(map(_cast, changed)), added=added)
    figures = _signs.spread(everything, moved)
    ruled_out: Figures = {}
    for name, (kind, seen) in _asked(base, child, moved, others, figures, unread=len(unseen)):
        if kind is not None:
            return kind, figures | seen | {"ruled_out": ruled_out}
        if seen:
            ruled_out[name] = seen
    figures["ruled_out"] = ruled_out
    if lineage.is_descendant and moved:
        return "fine-tune", figures
    return "unknown", figures | correlation  # too far for a fine-tune, or nothing to reckon with


def _unseen(base: BaseRecord, child: BaseRecord, seen: AbstractSet[str]) -> list[str]:
    """Return the changed tensors of one shape of which no values were compared."""
    sites = sites_for(base.geometry.family)
    theirs = {entry.name: entry for entry in child.entries}
    return [
        entry.name
        for entry in base.entries
        if entry.name in theirs
        and entry.name not in seen
        and entry.shape == theirs[entry.name].shape
        and entry.digest != theirs[entry.name].digest
        and not entry.name.endswith(sites.recomputed)
    ]


def _asked(
    base: BaseRecord,
    child: BaseRecord,
    moved: Sequence[TensorPair],
    others: Sequence[tuple[str, BaseRecord]],
    spread: Figures,
    *,
    unread: int,
) -> Iterator[tuple[str, Sign]]:
    """Yield what each test says, under its name, from the particular to the general."""
    yield "abliterated", _signs.abliterated(moved, base.geometry.hidden_size)
    yield "quantised", _signs.quantised(moved)
    yield "sparse-edit", _signs.sparse(spread, unread)
    yield "merged-lora", _signs.merged_lora(moved)
    yield "merge", _signs.merge(base, child, moved, others)


def _copied(
    base: BaseRecord, child: BaseRecord, lineage: Lineage, casts: Counter[str], *, added: int
) -> tuple[ChangeKind, Figures]:
    """Return the kind where every sample of what both have in one shape is the base's."""
    figures = {"cast": casts.most_common(1)[0][0]} if casts else {}
    sites = sites_for(base.geometry.family)
    others = (*lineage.missing, *lineage.unexpected)
    if any(not name.endswith(sites.recomputed) for name in others):
        return "unknown", figures
    if lineage.reshaped:
        kept = all(_prefix_share(base, child, name) == 1.0 for name in lineage.reshaped)
        return ("vocabulary-extended" if kept and added > 0 else "unknown"), figures
    return ("cast" if casts else "unknown"), figures


def _cast(pair: TensorPair) -> str:
    return f"{pair.base.dtype} to {pair.child.dtype}"


def _prefix_share(base: BaseRecord, child: BaseRecord, name: str) -> float | None:
    import numpy as np

    rows = common_rows(base, child, name)
    return None if rows is None else float(np.mean(rows[0] == rows[1]))
