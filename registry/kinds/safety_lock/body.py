"""The body of a safety lock: heads, unit directions, scales, and the strength that was measured.

Rules, all checked together and all reported:
- each direction has unit length and only finite values; each sigma is finite and above 0;
- no head twice; every layer and head exists in the geometry; head_dim is the geometry's;
- a strength is above 0 and in the closed range that was measured inside the budget; ``None``
  until then.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from registry.artifact.schema import require_schema, validate
from registry.errors import (
    ConfirmationRequiredError,
    NonFiniteTensorError,
    SchemaViolationError,
    StrengthRangeError,
)
from registry.kinds.safety_lock._holds import holds_findings, parse_holds
from registry.kinds.safety_lock._presentation import presentation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from registry.artifact.bundle import Bundle
    from registry.artifact.manifest import Manifest
    from registry.artifact.presentation import Presentation
    from registry.kinds.safety_lock._holds import Holds

SCHEMA = "safelatch/safety-lock/v1"
UNIT_TOLERANCE = 1e-3
"""Largest ``| ||theta|| - 1 |`` accepted: directions stored in fp16 round by about 6e-4."""
IMPORTED = "unknown: imported"
"""Method of the probe of a lock that was imported: its file does not say how it was made."""
ANSWER_TOKENS = 5
"""r of the paper: how many last tokens are read where a lock does not say."""


@dataclass(frozen=True, slots=True)
class LockBody:
    """A checked safety lock.

    Attributes:
        heads: Chosen (layer, head) pairs, 0-based query heads, best probe first; K of them. Of an
            imported lock, in the order of its file.
        directions: Unit vectors toward refusal, fp32 [K, head_dim].
        sigma: Standard deviation of the projections on each direction, fp32 [K], in units of
            the activations.
        head_dim: Width of a head in front of the output projection.
        alpha: Strength, dimensionless; ``None`` until calibrated.
        alpha_range: Closed range [0, most] that was measured inside the budget; ``None`` until
            calibrated.
        answer_tokens: r, how many last tokens of each answer were read; ``None`` when imported:
            the file does not say.
        probe: How the heads were chosen, with accuracies per chosen head; ``IMPORTED`` as its
            method, and nothing else, when the file does not say.
        shift_norms: Length of ``W_o @ displacement`` at strength 1 in the base, per touched layer,
            ascending; ``None`` when the base's weights were not at hand.
        holds: What the directions measured in the base again, and the bounds for a fine-tune;
            ``None`` in bundles made before that was measured.
        form: ``constant``: the shift is added at every position.
    """

    heads: tuple[tuple[int, int], ...]
    directions: np.ndarray
    sigma: np.ndarray
    head_dim: int
    alpha: float | None
    alpha_range: tuple[float, float] | None
    answer_tokens: int | None
    probe: Mapping[str, Any]
    shift_norms: tuple[float, ...] | None = None
    holds: Holds | None = None
    form: str = "constant"

    @property
    def is_imported(self) -> bool:
        """Whether somebody else's tool made it, nobody knows from what."""
        return bool(self.probe["method"] == IMPORTED)

    @property
    def answer_window(self) -> int:
        """How many last tokens of an answer to read where it is measured again."""
        return ANSWER_TOKENS if self.answer_tokens is None else self.answer_tokens

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are touched, ascending."""
        return tuple(sorted({layer for layer, _ in self.heads}))

    def of_layer(self, layer: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (head, sigma * theta) of ``layer``, fp32 [head_dim], heads ascending."""
        for index in sorted(range(len(self.heads)), key=lambda i: self.heads[i]):
            if self.heads[index][0] == layer:
                yield self.heads[index][1], self.sigma[index] * self.directions[index]

    def strength(self, alpha: float | None = None, *, allow_unsafe: bool = False) -> float:
        """Return the strength to apply: ``alpha``, or the calibrated one.

        Raises:
            ConfirmationRequiredError: uncalibrated, negative, or outside the measured range,
                and ``allow_unsafe`` is not set.
        """
        chosen = self.alpha if alpha is None else float(alpha)
        if chosen is None:
            raise ConfirmationRequiredError(
                "expected a measured alpha, this lock has none.",
                hint="Measure one: safelatch calibrate DIR, or safelatch calibrate NAME@VERSION "
                "--out DIR",
            )
        low, high = self.alpha_range or (0.0, 0.0)
        if not low <= chosen <= high and not allow_unsafe:
            raise ConfirmationRequiredError(
                f"expected alpha within the measured range [{low:g}, {high:g}], got {chosen:g}. "
                "A negative alpha removes refusals; a large one refuses everything.",
                hint="Take the calibrated alpha, or confirm with allow_unsafe=True.",
            )
        return chosen

    def require_ready(self) -> None:
        """Raise ``ConfirmationRequiredError`` unless a strength was measured."""
        self.strength()

    def calibrated(self, alpha: float, alpha_range: tuple[float, float]) -> LockBody:
        """Return this lock with a measured strength and range."""
        return replace(self, alpha=alpha, alpha_range=alpha_range)

    def to_manifest(self) -> dict[str, Any]:
        """Return the ``body`` member of the manifest."""
        return {
            "schema": SCHEMA,
            "form": self.form,
            "site": "attention-output-input",
            "sign": "toward-refusal",
            "heads": len(self.heads),
            "head_dim": self.head_dim,
            "alpha": self.alpha,
            "alpha_range": None if self.alpha_range is None else list(self.alpha_range),
            "answer_tokens": self.answer_tokens,
            "shift_norms": None if self.shift_norms is None else list(self.shift_norms),
            "probe": dict(self.probe),
            **({} if self.holds is None else {"holds": self.holds.to_document()}),
        }

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return the tensors of the bundle: heads i32 [K,2], directions and sigma fp32."""
        import numpy as np

        return {
            "heads": np.array(self.heads, dtype=np.int32).reshape(-1, 2),
            "directions": np.asarray(self.directions, dtype=np.float32),
            "sigma": np.asarray(self.sigma, dtype=np.float32),
        }

    def describe(self) -> dict[str, Any]:
        """Return what people ask about this lock, for ``show`` and the audit."""
        known = "imported" if self.alpha is not None else "imported, alpha uncalibrated"
        return {
            **({"origin": known} if self.is_imported else {}),
            "form": self.form,
            "heads": [f"{layer}:{head}" for layer, head in self.heads],
            "layers": list(self.layers),
            "alpha": self.alpha,
            "alpha_range": None if self.alpha_range is None else list(self.alpha_range),
            "sigma": [round(float(value), 6) for value in self.sigma],
        }


def parse(bundle: Bundle) -> LockBody:
    """Return the checked body of ``bundle``.

    Raises:
        UnsupportedSchemaVersionError: the body is of another version.
        NonFiniteTensorError: a direction or a scale is NaN or infinite.
        StrengthRangeError: its strength is outside the range it says was measured.
        SchemaViolationError: another rule is broken; each of the three with every violated rule.
    """
    document = dict(bundle.manifest.body)
    require_schema(document, SCHEMA, what="safety-lock body")
    validate(document, "safety_lock.v1", what="safety-lock body")
    tensors = bundle.tensors()
    findings, kind = _shape_findings(tensors, document), SchemaViolationError
    if not findings:
        findings = _value_findings(tensors, bundle.manifest.geometry)
        strength = _strength_findings(document)
        kind = _worst(tensors, strength)
        findings += strength
        findings += holds_findings(document.get("holds"), document["heads"])
        layers = len({int(layer) for layer, _ in tensors["heads"]})
        norms = document["shift_norms"]
        if norms is not None and len(norms) != layers:
            findings.append(
                f"shift_norms: expected one per touched layer, {layers}, got {len(norms)}"
            )
    if findings:
        raise kind(
            f"safety-lock body breaks {len(findings)} rule(s).",
            findings,
            hint="It cannot be used. Make it again: safelatch extract safety-lock BASE --out DIR",
        )
    limits, norms = document["alpha_range"], document["shift_norms"]
    return LockBody(
        heads=tuple((int(layer), int(head)) for layer, head in tensors["heads"]),
        directions=tensors["directions"],
        sigma=tensors["sigma"],
        head_dim=document["head_dim"],
        alpha=document["alpha"],
        alpha_range=None if limits is None else (float(limits[0]), float(limits[1])),
        answer_tokens=document["answer_tokens"],
        probe=document["probe"],
        shift_norms=None if norms is None else tuple(map(float, norms)),
        holds=parse_holds(document.get("holds")),
        form=document["form"],
    )


def present(body: LockBody, manifest: Manifest) -> Presentation:
    """Return what people are shown of ``body`` and of the receipts in its manifest."""
    return presentation(body, manifest)


def _shape_findings(tensors: Mapping[str, np.ndarray], document: dict[str, Any]) -> list[str]:
    count, width = document["heads"], document["head_dim"]
    expected = {
        "heads": ("int32", (count, 2)),
        "directions": ("float32", (count, width)),
        "sigma": ("float32", (count,)),
    }
    findings = [f"unexpected tensor {name!r}" for name in sorted(set(tensors) - set(expected))]
    for name, (dtype, shape) in expected.items():
        array = tensors.get(name)
        got = None if array is None else (array.dtype.name, array.shape)
        if got != (dtype, shape):
            findings.append(f"{name}: expected {dtype} {list(shape)}, got {got}")
    return findings


def _value_findings(tensors: Mapping[str, np.ndarray], geometry: Mapping[str, Any]) -> list[str]:
    import numpy as np

    heads = [(int(layer), int(head)) for layer, head in tensors["heads"]]
    directions, sigma = tensors["directions"], tensors["sigma"]
    repeated = sorted((head, times) for head, times in Counter(heads).items() if times > 1)
    findings = [f"head {layer}:{head} appears {times} times" for (layer, head), times in repeated]
    if directions.shape[1] != geometry["head_dim"]:
        findings.append(
            f"directions: expected head_dim {geometry['head_dim']}, got {directions.shape[1]}"
        )
    with np.errstate(all="ignore"):
        norms = np.sqrt((directions.astype(np.float64) ** 2).sum(axis=1))
    for (layer, head), norm, scale in zip(heads, norms, sigma, strict=True):
        where = f"head {layer}:{head}"
        if not (0 <= layer < geometry["layers"] and 0 <= head < geometry["heads"]):
            findings.append(
                f"{where}: expected layer below {geometry['layers']} and head below "
                f"{geometry['heads']}"
            )
        if not np.isfinite(norm) or abs(norm - 1) > UNIT_TOLERANCE:
            findings.append(f"{where}: expected a direction of length 1, got {norm:g}")
        if not (np.isfinite(scale) and scale > 0):
            findings.append(f"{where}: expected sigma above 0, got {scale:g}")
    return findings


def _worst(tensors: Mapping[str, np.ndarray], strength: list[str]) -> type[SchemaViolationError]:
    """Return the error to raise if there is any finding."""
    import numpy as np

    if not all(np.isfinite(tensors[name]).all() for name in ("directions", "sigma")):
        return NonFiniteTensorError
    return StrengthRangeError if strength else SchemaViolationError


def _strength_findings(document: dict[str, Any]) -> list[str]:
    alpha, limits = document["alpha"], document["alpha_range"]
    if (alpha is None) != (limits is None):
        return [f"expected alpha and alpha_range together, got {alpha} and {limits}"]
    if limits is not None and not limits[0] <= alpha <= limits[1]:
        return [f"expected alpha within {limits}, got {alpha:g}"]
    if alpha == 0:
        return ["expected alpha above 0, got 0: this lock would protect nothing"]
    return []
