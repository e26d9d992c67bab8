"""Whose child is this? Judged from two records alone.

Rules:

- The distance is the estimate of ``||child - base||_F / ||base||_F`` over the base's matrices, from
  samples at the same positions: each tensor's mean squares weighted by its number of elements, in
  float64. Vectors (norms, biases) are left out: they are a thousandth of the weights and can carry
  most of the squares (82 % in a 0.5B model with query and key biases), so that another model's
  matrices would hide behind them.
- Vectors have a distance of their own: the largest over their roles (all layers' ``o_proj.bias``,
  say, are one role). Beyond the bound a checkpoint is not derived either: a bias or a norm that was
  rewritten can undo what is applied while every matrix stays.
- A sample that is not finite, in a vector too, makes the distance infinite, never small; so does
  a base with no matrix to compare.
- Samples estimate, digests are certain: an edit that no sample meets shows in ``changed`` alone.
- Structure agrees when the geometry does, and every tensor of every decoder layer of the base is
  there in its shape. Additional tensors and embeddings with more or fewer rows are listed, and
  allowed; the rows that both have count like any weights. An output head that only one of the two
  has is not allowed.
- Shapes are no identity: structure that agrees with a distance beyond bounds is ``unrelated``, or
  ``distant`` when the layers' matrices are still correlated with the base's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.config import differing_fields
from registry.checkpoint.pairs import common_rows, flat_bits
from registry.checkpoint.values import to_float64

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.checkpoint.architecture import Sites
    from registry.checkpoint.record import BaseRecord, Entry

Relation = Literal["identical", "derived", "distant", "unrelated", "other-structure"]

MAX_DISTANCE = 0.25
"""Beyond this a checkpoint is not called derived. Measured: a real full fine-tune 0.006, an nf4
copy 0.09, another model of the same architecture 1.41."""
MIN_CORRELATION = 0.5
"""From this on weights are called related, however far. Other models: below 0.01."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """What two records say about each other.

    Attributes:
        relation: The verdict.
        level: Evidence: 4 identical, 3 distance within bounds, 2 names and shapes agree, 1 config
            and tokenizer agree, 0 nothing but a claim.
        distance: Relative, dimensionless; infinite where it cannot be estimated.
        per_layer: The same for the matrices of each decoder layer of the base.
        vectors: Largest relative distance of a role of vectors; infinite when a role that was all
            zero no longer is.
        correlation: Cosine of base and child as vectors, averaged over the layers' matrices by
            their size, -1 to 1; a matrix of which it cannot be estimated counts as 0.
        changed: Tensors in both with another digest.
        missing: Tensors of the base alone, sorted.
        unexpected: Tensors of the child alone, sorted.
        reshaped: Tensors in both with another shape, sorted.
        config_differences: (field, base's value, child's value).
        tokenizer_agrees: ``None`` when either is unknown.
        template_agrees: ``None`` when either is unknown.
    """

    relation: Relation
    level: int
    distance: float
    per_layer: tuple[float, ...]
    vectors: float
    correlation: float
    changed: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    config_differences: tuple[tuple[str, Any, Any], ...]
    tokenizer_agrees: bool | None
    template_agrees: bool | None

    @property
    def is_descendant(self) -> bool:
        """Whether it is the base itself or a fine-tune of it."""
        return self.relation in {"identical", "derived"}

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; an infinite distance is ``null``."""
        document = {field.name: getattr(self, field.name) for field in fields(self)}
        document["distance"] = _finite(self.distance)
        document["vectors"] = _finite(self.vectors)
        document["per_layer"] = [_finite(value) for value in self.per_layer]
        for name in ("missing", "unexpected", "reshaped"):
            document[name] = list(document[name])
        document["config_differences"] = [
            {"field": field, "expected": expected, "got": got}
            for field, expected, got in self.config_differences
        ]
        return document


def judge(base: BaseRecord, child: BaseRecord, *, max_distance: float = MAX_DISTANCE) -> Lineage:
    """Return how ``child`` relates to ``base``.

    Args:
        base: Record of the model that is claimed or tried as the origin.
        child: Record of the checkpoint under test.
        max_distance: Largest distance that is called derived; dimensionless.

    Raises:
        UnsupportedArchitectureError: there is no row for the base's family.
    """
    sites = sites_for(base.geometry.family)
    ours = {entry.name: entry for entry in base.entries}
    theirs = {entry.name: entry for entry in child.entries}
    shared = sorted(ours.keys() & theirs.keys())
    reshaped = tuple(name for name in shared if ours[name].shape != theirs[name].shape)
    missing = tuple(sorted(ours.keys() - theirs.keys()))
    unexpected = tuple(sorted(theirs.keys() - ours.keys()))
    total, per_layer, vectors, correlation = _distances(base, child, sites)
    differences = differing_fields(base.config, child.config)
    tokenizer_agrees = _agree(base.tokenizer, child.tokenizer)
    relation: Relation
    if base.weights == child.weights:
        relation, level = "identical", 4
    elif base.geometry != child.geometry or not is_same_structure(
        sites, missing=missing, unexpected=unexpected, reshaped=reshaped
    ):
        relation, level = "other-structure", int(not differences and tokenizer_agrees is True)
    elif max(total, vectors) <= max_distance:
        relation, level = "derived", 3
    else:
        relation, level = "distant" if correlation >= MIN_CORRELATION else "unrelated", 2
    return Lineage(
        relation=relation,
        level=level,
        distance=total,
        per_layer=per_layer,
        vectors=vectors,
        correlation=correlation,
        changed=sum(ours[name].digest != theirs[name].digest for name in shared),
        missing=missing,
        unexpected=unexpected,
        reshaped=reshaped,
        config_differences=tuple(differences),
        tokenizer_agrees=tokenizer_agrees,
        template_agrees=_agree(base.chat_template, child.chat_template),
    )


def is_same_structure(
    sites: Sites, *, missing: Iterable[str], unexpected: Iterable[str], reshaped: Iterable[str]
) -> bool:
    """Return whether tensors that differ leave layers and output head as they were."""
    changed = {*missing, *reshaped}
    in_layers = any(
        sites.layer_of(name) is not None and not name.endswith(sites.recomputed) for name in changed
    )
    return not in_layers and sites.head not in {*missing, *unexpected}


def vector_role(sites: Sites, name: str) -> str:
    """Return what a norm or a bias is, whatever its layer."""
    layer = sites.layer_of(name)
    return name if layer is None else name.replace(str(layer), "*", 1)


def _agree(expected: str | None, got: str | None) -> bool | None:
    return None if expected is None or got is None else expected == got


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _distances(
    base: BaseRecord, child: BaseRecord, sites: Sites
) -> tuple[float, tuple[float, ...], float, float]:
    theirs = {entry.name: entry for entry in child.entries}
    cosines, weights = 0.0, 0
    total, layers = Squares(), [Squares() for _ in range(base.geometry.layers)]
    roles: dict[str, Squares] = {}
    for entry in base.entries:
        other = theirs.get(entry.name)
        if other is None or not entry.numel:
            continue
        if entry.name.endswith(sites.recomputed):  # no weights: a mask of ones would dilute them
            continue
        if other.shape != entry.shape:
            _add_common_rows(base, child, entry, total)
            continue
        change, size, cosine = _compare(base, child, entry, other)
        layer = sites.layer_of(entry.name)
        if len(entry.shape) < 2:
            roles.setdefault(vector_role(sites, entry.name), Squares()).add(
                change * entry.numel, size * entry.numel
            )
            if math.isfinite(change):
                continue
        for squares in (total, *(() if layer is None else (layers[layer],))):
            squares.add(change * entry.numel, size * entry.numel)
        if layer is not None and len(entry.shape) > 1:
            cosines += cosine * entry.numel
            weights += entry.numel
    vectors = max((squares.ratio() for squares in roles.values()), default=0.0)
    distances = tuple(squares.ratio() for squares in layers)
    return total.ratio(), distances, vectors, cosines / weights if weights else 0.0


def _add_common_rows(base: BaseRecord, child: BaseRecord, entry: Entry, total: Squares) -> None:
    """Add what both have of an embedding that gained or lost rows."""
    import numpy as np

    rows = common_rows(base, child, entry.name)
    if rows is None:
        return
    ours, theirs = rows
    with np.errstate(invalid="ignore", over="ignore"):
        change, size = float(np.mean((theirs - ours) ** 2)), float(np.mean(ours**2))
    total.add(change * entry.numel, size * entry.numel)


def _compare(
    base: BaseRecord, child: BaseRecord, ours: Entry, theirs: Entry
) -> tuple[float, float, float]:
    """Return mean squares of the change and of the base's values in one tensor, and the cosine."""
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        values = to_float64(flat_bits(base, ours), ours.dtype)
        size = float(np.mean(values**2))
        if (ours.dtype, ours.digest) == (theirs.dtype, theirs.digest):
            return 0.0, size, 1.0
        everything = to_float64(child.samples[theirs.name], theirs.dtype)
        others = to_float64(flat_bits(child, theirs), theirs.dtype)
        if (
            others.shape != values.shape or not np.isfinite(everything).all()
        ):  # complex against real
            return math.inf, size, 0.0
        scale = math.sqrt(size * float(np.mean(others**2)))
        product = float(np.mean(others * values))
        is_known = 0 < scale < math.inf and math.isfinite(product)
        cosine = product / scale if is_known else 0.0
        return float(np.mean((others - values) ** 2)), size, cosine


@dataclass(slots=True)
class Squares:
    """Sums of squares of a change and of what was changed."""

    change: float = 0.0
    size: float = 0.0
    tensors: int = 0

    def add(self, change: float, size: float) -> None:
        """Add those of one tensor."""
        self.change += change
        self.size += size
        self.tensors += 1

    def ratio(self) -> float:
        """Return the relative distance; infinite where it cannot be estimated."""
        if self.change == 0.0 and self.tensors:
            return 0.0
        if self.size == 0.0 or not (math.isfinite(self.change) and math.isfinite(self.size)):
            return math.inf
        return math.sqrt(self.change / self.size)
