"""The record that a base with an adapter merged into it would have, without the base's weights.

The sketch holds values of the base at known positions; the change at a position is a product of one
row of B and one column of A. Rules:

- A changed tensor is F32: the base's sampled values plus scale * B @ A, summed in float64. Its
  digest is made of the base's, the adapter's and the name, since its bytes never existed.
- A tensor that the adapter holds whole has the entry and the sketch of what is stored.
- Factors that are all zero leave the entry as it is.
- Merging is judged: on a base that ties its output head to the embedding, factors of the
  embedding change both, as PEFT's ``merge_and_unload`` leaves them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.record import Entry, entries_json
from registry.checkpoint.sites import Place
from registry.checkpoint.sketch import extent, positions
from registry.checkpoint.values import is_float, to_float64
from registry.digest import digest_bytes, digest_json
from registry.errors import GeometryError
from registry.wording import listed

if TYPE_CHECKING:
    from registry.checkpoint.adapter import Adapter, LoraModule
    from registry.checkpoint.record import BaseRecord
    from registry.checkpoint.sites import Sites
    from registry.checkpoint.values import Values

_AT_ONCE = 1 << 22  # products in memory


@dataclass(frozen=True, slots=True)
class Touched:
    """A weight that an adapter changes.

    Attributes:
        weight: Name of the tensor.
        layer: Decoder layer, 0-based; ``None`` outside the layers.
        rank: Of the change, at most.
        norm: Frobenius norm of the change: see ``Adapter.norm``.
        relative: The same against that of the base's weight, which is estimated from its sketch.
    """

    weight: str
    layer: int | None
    rank: int
    norm: float
    relative: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; a number that is not finite is ``null``."""
        document = asdict(self)
        return {
            name: None if isinstance(value, float) and not isfinite(value) else value
            for name, value in document.items()
        }


def misfits(base: BaseRecord, adapter: Adapter) -> list[str]:
    """Return why ``adapter`` is not for ``base``, one line for each tensor; empty when it fits."""
    sites = sites_for(base.geometry.family)
    ours = {entry.name: entry for entry in base.entries}
    wrong = []
    for name, item in adapter.replaced.items():
        wrong += _misfit(name, item.entry.shape, _replaceable(ours, adapter, sites, name), sites)
    for module in adapter.modules:
        current = _current(ours, adapter, module.weight)
        wrong += _misfit(module.weight, _shape(module, sites), current, None)
        is_table = sites.layer_of(module.weight) is None and module.weight != sites.head
        if current is not None and module.is_embedding != is_table:
            wrong.append(f"{module.weight}: factors of a matrix and of an embedding are mixed up")
        if current is not None and not is_float(current.dtype):
            wrong.append(f"{module.weight}: the base holds {current.dtype}, which is no float")
        if module.has_bias:
            name = f"{module.name}.bias"
            wrong += _misfit(name, (module.out_features,), _current(ours, adapter, name), None)
    return sorted(wrong + _made_up(base, adapter, sites))


def _made_up(base: BaseRecord, adapter: Adapter, sites: Sites) -> list[str]:
    """Return a line for each matrix whose factors a loader would draw at random."""
    tables = (sites.embedding, sites.head)
    return [
        f"{entry.name}: its factors are drawn at random at every load, the file has none"
        for entry in base.entries
        if len(entry.shape) == 2
        and (sites.layer_of(entry.name) is not None or entry.name in tables)
        and sites.place_of(entry.name) == Place(entry.name)
        and adapter.is_filled_at_random(entry.name.removesuffix(".weight"))
    ]


def effective_record(base: BaseRecord, adapter: Adapter) -> BaseRecord:
    """Return the record of ``base`` with ``adapter`` merged into it; never to be serialised.

    Raises:
        GeometryError: a tensor that it touches is not in the base, or has another shape there.
        EvidenceError: a file of the adapter was written meanwhile.
    """
    wrong = misfits(base, adapter)
    if wrong:
        raise GeometryError(
            f"expected an adapter for this base ({base.geometry.family}, {base.geometry.layers} "
            f"layers, width {base.geometry.hidden_size}), got {len(wrong)} tensors that do not "
            f"fit:{listed(wrong)}",
            hint="Name the base that it was trained on: see base_model_name_or_path in "
            "adapter_config.json",
        )
    sites = sites_for(base.geometry.family)
    entries = {entry.name: entry for entry in base.entries}
    samples = dict(base.samples)
    for name, item in adapter.replaced.items():
        if name in entries:  # not a head that the base ties to the embedding
            entries[name], samples[name] = item.entry, item.sketch
    for module in adapter.modules:
        if adapter.norm(module) != 0.0:
            change = sampled_change(adapter, module, sites)
            _add(entries, samples, adapter, module.weight, change)
        if module.has_bias:
            _add(entries, samples, adapter, f"{module.name}.bias", _bias(adapter, module))
    adapter.require_unchanged()
    kept = tuple(entries[name] for name in sorted(entries))
    weights = digest_bytes(entries_json(kept))
    return replace(base, weights=weights, entries=kept, samples=samples)


def touched(base: BaseRecord, adapter: Adapter) -> tuple[Touched, ...]:
    """Return every weight that factors of ``adapter``, which fits ``base``, change; by name."""
    import numpy as np

    sites = sites_for(base.geometry.family)
    entries = {entry.name: entry for entry in base.entries}
    found = []
    for module in adapter.modules:
        entry = entries[module.weight]
        count = extent(entry.shape).flat
        flat = to_float64(base.samples[entry.name], entry.dtype)[:count]
        size = sqrt(float(np.mean(flat**2)) * entry.numel)
        layer = sites.layer_of(entry.name)
        norm = adapter.norm(module)
        relative = norm / size if size else float("inf")
        found.append(Touched(entry.name, layer, module.rank, norm, relative))
    return tuple(found)


def sampled_change(adapter: Adapter, module: LoraModule, sites: Sites) -> Values:
    """Return scale * B @ A at every position of the sketch of the weight, in its order."""
    import numpy as np

    shape = _shape(module, sites)
    rows, columns = np.divmod(positions(module.weight, shape), shape[1])
    b, a = adapter.factors(module)
    outputs, inputs = (columns, rows) if _is_transposed(module, sites) else (rows, columns)
    change = np.empty(len(rows))
    step = max(1, _AT_ONCE // module.rank)
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            change[part] = np.einsum("nk,kn->n", b[outputs[part]], a[:, inputs[part]])
        return change * module.scale


def _bias(adapter: Adapter, module: LoraModule) -> Values:
    import numpy as np

    where = positions(f"{module.name}.bias", (module.out_features,))
    with np.errstate(invalid="ignore", over="ignore"):
        return adapter.bias(module)[where] * module.scale


def _add(
    entries: dict[str, Entry],
    samples: dict[str, bytes],
    adapter: Adapter,
    name: str,
    change: Values,
) -> None:
    import numpy as np

    entry = entries[name]
    with np.errstate(invalid="ignore", over="ignore"):
        values = to_float64(samples[name], entry.dtype) + change
        bits = values.astype("<f4").tobytes()
    if extent(entry.shape).is_whole:  # a record holds its bytes, and is checked against them
        digest = digest_bytes(bits)
    else:
        digest = digest_json([entry.digest, adapter.digest, name])
    entries[name] = Entry(name, "F32", entry.shape, digest)
    samples[name] = bits


def _is_transposed(module: LoraModule, sites: Sites) -> bool:
    """Whether the weight is stored [inputs, outputs]; an output head never is."""
    return module.is_embedding or (sites.transposed and sites.layer_of(module.weight) is not None)


def _shape(module: LoraModule, sites: Sites) -> tuple[int, int]:
    shape = (module.out_features, module.in_features)
    return (shape[1], shape[0]) if _is_transposed(module, sites) else shape


def _current(ours: dict[str, Entry], adapter: Adapter, name: str) -> Entry | None:
    """Return the entry that factors are added to: the base's, or what the adapter puts there."""
    if name in ours and name in adapter.replaced:
        return adapter.replaced[name].entry
    return ours.get(name)


def _replaceable(ours: dict[str, Entry], adapter: Adapter, sites: Sites, name: str) -> Entry | None:
    """Return what a whole tensor stands for; a tied head stands for the embedding it repeats."""
    if name != sites.head or name in ours:
        return ours.get(name)
    head, embedding = adapter.replaced[name], _current(ours, adapter, sites.embedding)
    return embedding if embedding and embedding.digest == head.entry.digest else None


def _misfit(
    name: str, shape: tuple[int, ...], entry: Entry | None, sites: Sites | None
) -> list[str]:
    """Return a line if the base has no tensor of this name and shape.

    With ``sites`` the first axis of an embedding and of the head may be longer or shorter.
    """
    if entry is None:
        return [f"{name:.160}: expected it in the base, found none"]
    got = entry.shape
    if sites is not None and name in {sites.embedding, sites.head}:
        shape, got = shape[1:], got[1:]
    if shape == got:
        return []
    return [f"{name:.160}: the base has {list(entry.shape)}, the adapter is for {list(shape)}"]
