"""What a body of an ESI mask must satisfy, beyond its schema: a line for each rule it breaks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from registry.checkpoint.sketch import positions
from registry.checkpoint.values import item_size
from registry.digest import Digest, digest_bytes
from registry.kinds.esi_mask._matrices import RULE, selection_size
from registry.kinds.esi_mask._values import split_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from registry.artifact.manifest import Manifest
    from registry.checkpoint.record import BaseRecord
    from registry.kinds.esi_mask._matrices import Matrix
    from registry.kinds.esi_mask._packed import PackedMask
    from registry.kinds.esi_mask.body import MaskBody

DIGEST_BYTES = 32
IMPORTED_RULE = "imported: the authors' rule, k of all parameters"
"""The rule of a mask that somebody else made: rho is its share of all parameters of the base."""

_ALL_ONES = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000, "F64": 0x7FF0000000000000}
"""Dtype to the bits of its exponent: where all are set, the value is infinite or NaN."""


def digest_of(digests: np.ndarray, row: int) -> Digest:
    """Return row ``row`` of ``digests`` as a digest."""
    return Digest(f"blake3:{bytes(digests[row]).hex()}")


def base_findings(manifest: Manifest, record: BaseRecord) -> list[str]:
    """Return where the record is of another model: its places would be no places in this one."""
    stated, held = dict(manifest.geometry), record.geometry.to_dict()
    findings = [
        f"base record: expected {name} {stated.get(name)}, got {value}"
        for name, value in held.items()
        if stated.get(name) != value
    ]
    if record.weights != manifest.base.weights:
        findings.append(
            f"base record: expected weights {manifest.base.weights}, got {record.weights}"
        )
    return findings


def count_findings(
    document: Mapping[str, Any], candidates: Sequence[Matrix], parameters: int
) -> list[str]:
    """Return what the body says about sizes and the base's record does not.

    Args:
        document: The body.
        candidates: The matrices of the base.
        parameters: How many numbers all tensors of the base have.
    """
    if document["rule"] == IMPORTED_RULE:
        return _imported_findings(document, candidates, parameters)
    weights = sum(matrix.numel for matrix in candidates)
    k = selection_size(document["rho"], candidates)
    pairs = {
        "rule": (RULE, document["rule"]),
        "candidates.matrices": (len(candidates), document["candidates"]["matrices"]),
        "candidates.weights": (weights, document["candidates"]["weights"]),
        "selected": (k, document["selected"]),
    }
    findings = [
        f"{name}: expected {expected!r} as the base has, got {got!r}"
        for name, (expected, got) in pairs.items()
        if expected != got
    ]
    if not k:
        findings.append(f"rho: expected a share of at least one weight, got {document['rho']!r}")
    if document["score"] is None:
        return [*findings, "score: expected what the weights were ranked by, got None"]
    stability, pairs_scored = document["stability"], document["score"]["pairs"]
    if stability is not None and sum(stability["pairs"]) != pairs_scored:
        findings.append(
            f"stability.pairs: expected {pairs_scored} in both halves, got {stability['pairs']}"
        )
    return findings


def _imported_findings(
    document: Mapping[str, Any], candidates: Sequence[Matrix], parameters: int
) -> list[str]:
    """Return the same of a mask that somebody else made, which says nothing of a measurement."""
    weights = sum(matrix.numel for matrix in candidates)
    pairs = {
        "candidates.matrices": (len(candidates), document["candidates"]["matrices"]),
        "candidates.weights": (weights, document["candidates"]["weights"]),
        "rho": (document["selected"] / parameters, document["rho"]),
    }
    pairs |= {name: (None, document[name]) for name in ("score", "stability", "coverage", "mass")}
    return [
        f"{name}: expected {expected!r} of an imported mask, got {got!r:.200}"
        for name, (expected, got) in pairs.items()
        if expected != got
    ]


def tensor_findings(
    document: Mapping[str, Any], tensors: Mapping[str, np.ndarray], candidates: Sequence[Matrix]
) -> list[str]:
    """Return which tensors are missing, of another form, or not expected."""
    forms: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "table": ("uint64", (len(candidates), 3)),
        "frames": ("uint8", (None,)),
        "digests": ("uint8", (len(candidates), DIGEST_BYTES)),
    }
    if document["values"]:
        forms["values"] = ("uint8", (None,))
    if document["form"] == "delta":
        forms["new_values"] = ("uint8", (None,))
    findings = [f"unexpected tensor {name!r:.120}" for name in sorted(set(tensors) - set(forms))]
    for name, (dtype, shape) in forms.items():
        array = tensors.get(name)
        got = "nothing" if array is None else f"{array.dtype.name} {list(array.shape)}"
        fits = array is not None and array.dtype.name == dtype and array.ndim == len(shape)
        if (
            array is None
            or not fits
            or any(
                size not in {None, there} for size, there in zip(shape, array.shape, strict=True)
            )
        ):
            sizes = ", ".join("bytes" if size is None else f"{size}" for size in shape)
            findings.append(f"{name}: expected {dtype} [{sizes}], got {got}")
    return findings


def receipt_findings(
    document: Mapping[str, Any], candidates: Sequence[Matrix], mask: PackedMask
) -> list[str]:
    """Return where the mask is not what the body says, and receipts not what the base has."""
    selected = sum(mask.counts.values())
    findings = []
    if selected != document["selected"]:
        findings.append(f"table: expected {document['selected']:,} selected, got {selected:,}")
    digest = mask.digest()  # every frame is read once here, so that nothing fails half-way later
    if digest != document["mask"]:
        findings.append(f"mask: expected digest {document['mask']}, got {digest}")
    findings += _mass_findings(document["mass"], candidates, mask.counts)
    return findings + _coverage_findings(document["coverage"], candidates)


def value_findings(body: MaskBody) -> list[str]:
    """Return where values are not as many as selected, not those of the digests, or not finite."""
    counts = body.counts
    size = sum(counts[m.name] * item_size(m.dtype) for m in body.matrices)
    nothing = digest_bytes(b"")
    findings = [
        f"digests: {matrix.name}: expected that of no values, got {digest}"
        for row, matrix in enumerate(body.matrices)
        if not counts[matrix.name] and (digest := digest_of(body.digests, row)) != nothing
    ]
    for what, array in (("values", body.values), ("new_values", body.new_values)):
        if array is None:
            continue
        if array.size != size:
            findings.append(f"{what}: expected {size:,} bytes, got {array.size:,}")
            continue
        parts = split_values(array, body.matrices, counts)
        for row, matrix in enumerate(body.matrices):
            raw = parts[matrix.name]
            refused = _not_finite(raw, matrix.dtype)
            if refused:
                findings.append(f"{what}: {matrix.name}: {refused:,} not finite")
            expected, got = digest_of(body.digests, row), digest_bytes(raw.data)
            if what == "values" and counts[matrix.name] and got != expected:
                findings.append(f"values: {matrix.name}: expected digest {expected}, got {got}")
    return findings


def sample_findings(body: MaskBody) -> list[str]:
    """Return where stored values are not those that the base record sampled at the same places.

    Digests of values are the artifact's own word; the samples are part of what the base is.
    """
    import numpy as np

    findings = []
    values = body.base_values()
    for matrix in body.matrices if values else ():
        name, raw = matrix.name, values[matrix.name]
        size = f"<u{item_size(matrix.dtype)}"
        places = matrix.in_tensor(body.indices(name))
        if not places.size:
            continue
        sampled = positions(matrix.tensor, body.entries[matrix.tensor].shape)
        at = np.minimum(places.searchsorted(sampled), places.size - 1)
        met = places[at] == sampled
        ours = np.frombuffer(body.samples[matrix.tensor], size)[met]
        wrong = int(np.count_nonzero(np.frombuffer(raw.tobytes(), size)[at[met]] != ours))
        if wrong:
            findings.append(
                f"values: {name}: expected the base's, got others at {wrong:,} of "
                f"{int(np.count_nonzero(met)):,} places that its record sampled"
            )
    return findings


def _not_finite(raw: np.ndarray, dtype: str) -> int:
    """Return how many values of raw bytes are infinite or NaN."""
    import numpy as np

    bits = np.frombuffer(raw.tobytes(), dtype=f"<u{item_size(dtype)}")
    ones = bits.dtype.type(_ALL_ONES[dtype])
    return int(np.count_nonzero((bits & ones) == ones))


def _mass_findings(
    rows: Sequence[Mapping[str, Any]] | None,
    candidates: Sequence[Matrix],
    counts: Mapping[str, int],
) -> list[str]:
    """Compare the rows with the layers and components of the base, and with the mask's counts."""
    if rows is None:
        return []
    weights: Counter[tuple[int, str]] = Counter()
    selected: Counter[tuple[int, str]] = Counter()
    for matrix in candidates:
        place = (-1 if matrix.layer is None else matrix.layer, matrix.component)
        weights[place] += matrix.numel
        selected[place] += counts[matrix.name]
    places = [(-1 if row["layer"] is None else row["layer"], row["component"]) for row in rows]
    if places != sorted(weights):
        return [f"mass: expected a row for each of {len(weights)} components, in order"]
    findings = []
    for place, row in zip(places, rows, strict=True):
        where = f"mass: {row['component']} of layer {row['layer']}"
        stated, made = (row["weights"], row["selected"]), (weights[place], selected[place])
        if stated != made:
            findings.append(f"{where}: expected weights and selected {made}, got {stated}")
        if row["selected_sum"] > row["sum"]:
            findings.append(
                f"{where}: expected a selected sum of at most {row['sum']!r}, "
                f"got {row['selected_sum']!r}"
            )
    return findings


def _coverage_findings(
    rows: Sequence[Mapping[str, Any]] | None, candidates: Sequence[Matrix]
) -> list[str]:
    """Compare the rows with the experts of the base."""
    experts: dict[int, int] = {}
    for matrix in candidates:
        if matrix.layer is not None and matrix.expert is not None:
            experts[matrix.layer] = max(experts.get(matrix.layer, 0), matrix.expert + 1)
    got = None if rows is None else [(row["layer"], len(row["tokens"])) for row in rows]
    if got is None or got == sorted(experts.items()):
        return []
    return [f"coverage: expected (layer, experts) {sorted(experts.items())}, got {got}"]
