"""The official ``.safelock`` files: what one says, and what it needs of the base it is bound to.

Source: the files published with SafetyLock (arXiv 2410.10343). One is a dict from
``model.layers.L.self_attn.head_out`` to a list of (head, direction fp16 [head_dim], sigma fp16),
and nothing else: no model, no strength, no template, no data.

- Their sign is ours: ``alpha * sigma * theta`` is *added*, toward safe answers.
- Values are kept exactly: every fp16 number is an fp32 number. The order is the file's.
- The reader's answer is checked here value by value, and all findings are told at once.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.artifact.foreign_file import GET_AGAIN
from registry.artifact.pickles import unpickle_zip
from registry.artifact.unbound import IMPORT_AGAIN
from registry.errors import GeometryError, SchemaViolationError
from registry.kinds.safety_lock.body import IMPORTED, UNIT_TOLERANCE, LockBody
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from registry.artifact.foreign_file import ForeignFile
    from registry.checkpoint.geometry import Geometry

FORMAT = "safelock: a torch.save zip of a dict of lists of (head, direction, sigma)"
MOST_HEADS = 4096
MOST_HEAD_DIM = 4096
_LAYER = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,3})\.self_attn\.head_out")
_EVERY_LAYER = "model.layers.L.self_attn.head_out"
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_ITEM_BYTES = {"i8": 8, "f2": 2}
_MOST_FINDINGS = 1000


@dataclass(frozen=True, slots=True)
class ImportedLock:
    """Heads, directions and scales of a lock that somebody else made.

    Attributes:
        heads: (layer, head) pairs in the file's order, K of them.
        directions: Unit vectors toward safe answers, fp32 [K, head_dim].
        sigma: Scales, fp32 [K].
    """

    heads: tuple[tuple[int, int], ...]
    directions: np.ndarray
    sigma: np.ndarray

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return int(self.directions.shape[1])

    def describe(self) -> dict[str, Any]:
        """Return what people ask about it; figures to six digits."""
        import numpy as np

        norms = np.linalg.norm(self.directions.astype(np.float64), axis=1)
        sigma = self.sigma.astype(np.float64)
        layers = sorted({layer for layer, _ in self.heads})
        return {
            "sign": "toward-refusal",
            "heads": [f"{layer}:{head}" for layer, head in self.heads],
            "head_count": len(self.heads),
            "layers": "; ".join(self._of_layer(layer) for layer in layers),
            "head_dim": self.head_dim,
            "sigma_min": _six(sigma.min()),
            "sigma_median": _six(np.median(sigma)),
            "sigma_max": _six(sigma.max()),
            "norm_min": _six(norms.min()),
            "norm_max": _six(norms.max()),
        }

    def _of_layer(self, layer: int) -> str:
        heads = sorted(head for where, head in self.heads if where == layer)
        return f"{layer}:{','.join(map(str, heads))}"

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return the tensors: heads i32 [K,2], directions and sigma fp32."""
        import numpy as np

        heads = np.array(self.heads, dtype=np.int32).reshape(-1, 2)
        return {"heads": heads, "directions": self.directions, "sigma": self.sigma}

    def bind(self, geometry: Geometry) -> LockBody:
        """Return the body of an uncalibrated lock for a base of this geometry.

        Raises:
            GeometryError: the base has no such heads; every finding with both values.
        """
        findings = []
        if self.head_dim != geometry.head_dim:
            findings.append(f"head_dim: expected {self.head_dim}, got {geometry.head_dim}")
        for what, index, got in (("layers", 0, geometry.layers), ("heads", 1, geometry.heads)):
            most = max(self.heads, key=lambda head, at=index: head[at])  # type: ignore[misc]
            if most[index] >= got:
                findings.append(
                    f"{what}: expected at least {most[index] + 1} for head {most[0]}:{most[1]}, "
                    f"got {got}"
                )
        if findings:
            raise GeometryError(
                "expected a base that has the heads of this lock, got another geometry:"
                f"{listed(findings)}",
                hint="Name the base that the file was made from: "
                "safelatch import FILE --base BASE --out DIR",
            )
        return LockBody(
            heads=self.heads,
            directions=self.directions,
            sigma=self.sigma,
            head_dim=self.head_dim,
            alpha=None,
            alpha_range=None,
            answer_tokens=None,
            probe={"method": IMPORTED},
        )


def read_foreign(file: ForeignFile) -> ImportedLock:
    """Return what a ``.safelock`` file says; see ``read_safelock``."""
    return read_safelock(file.whole(), what=file.name)


def read_safelock(data: bytes, *, what: str) -> ImportedLock:
    """Return what the ``.safelock`` file of these bytes says; nothing of it is run.

    Raises:
        UnsafeFormatError: it is no such file, or one that could run code.
        SchemaViolationError: its values break rules; with every finding.
        HostError: no process with limits can be had here.
    """
    import numpy as np

    heads: list[tuple[int, int]] = []
    directions: list[np.ndarray] = []
    sigmas: list[float] = []
    findings: list[str] = []
    for place, layer, row in _rows(unpickle_zip(data, "safelock", what=what), findings):
        head, direction, sigma = (_array(value) for value in row)
        wanted = (
            ("head", head, "<i8", 0), ("direction", direction, "<f2", 1), ("sigma", sigma, "<f2", 0)
        )  # fmt: skip
        wrong = [
            f"{place}: {name}: expected {_NAMES[dtype]} in {_DIMENSIONS[dimensions]}, "
            f"got {_described(array)}"
            for name, array, dtype, dimensions in wanted
            if array is None or array.dtype.str != dtype or array.ndim != dimensions
        ]
        findings += wrong
        if wrong or head is None or direction is None or sigma is None:
            continue
        if not 0 <= int(head) < 10_000:
            findings.append(f"{place}: expected a head from 0 to 9999, got {int(head)}")
            continue
        heads.append((layer, int(head)))
        directions.append(direction.astype(np.float32))
        sigmas.append(float(sigma))
    widths = Counter(len(direction) for direction in directions)
    if len(widths) > 1:
        findings.append(f"expected directions of one length, got {sorted(widths)}")
    if not heads and not findings:
        findings.append("expected at least one head, got none")
    if not findings:
        lock = ImportedLock(tuple(heads), np.stack(directions), np.array(sigmas, dtype=np.float32))
        findings = _value_findings(lock)
    if findings:
        raise SchemaViolationError(
            f"{what}: expected the values of a lock, {len(findings)} rule(s) are broken; nothing "
            "of it was executed.",
            findings[:_MOST_FINDINGS],
            hint=GET_AGAIN,
        )
    return lock


def parse_imported(tensors: Mapping[str, np.ndarray]) -> ImportedLock:
    """Return the lock in the tensors of an unbound import.

    Raises:
        SchemaViolationError: they are not those of a lock; with every finding.
    """
    shapes = {name: (array.dtype.name, array.shape) for name, array in tensors.items()}
    count, width = (*shapes.get("directions", ("", ()))[1], 0, 0)[:2]
    expected = {
        "heads": ("int32", (count, 2)),
        "directions": ("float32", (count, width)),
        "sigma": ("float32", (count,)),
    }
    findings = [
        f"{name}: expected {expected.get(name)}, got {shapes.get(name)}"
        for name in sorted({*expected, *shapes})
        if expected.get(name) != shapes.get(name)
    ]
    if not findings and not (0 < count <= MOST_HEADS and 0 < width <= MOST_HEAD_DIM):
        findings.append(
            f"directions: expected 1 to {MOST_HEADS} of 1 to {MOST_HEAD_DIM} values, "
            f"got {count} of {width}"
        )
    if not findings:
        heads = tuple((int(layer), int(head)) for layer, head in tensors["heads"])
        lock = ImportedLock(heads, tensors["directions"], tensors["sigma"])
        findings = _value_findings(lock)
    if findings:
        raise SchemaViolationError(
            f"expected the tensors of an imported lock, {len(findings)} rule(s) are broken.",
            findings[:_MOST_FINDINGS],
            hint=IMPORT_AGAIN,
        )
    return lock


_NAMES = {"<i8": "int64", "<f2": "float16"}
_DIMENSIONS = ("no dimension", "one dimension")


def _rows(answer: Any, findings: list[str]) -> Iterator[tuple[str, int, list[Any]]]:
    """Yield (place, layer, [head, direction, sigma]) of the answer, in the file's order."""
    for pair in answer if isinstance(answer, list) else [answer]:
        name, rows = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
        found = _LAYER.fullmatch(name) if isinstance(name, str) else None
        if found is None or not isinstance(rows, list) or not rows:
            findings.append(f"{str(name)[:80]!r}: expected {_EVERY_LAYER} with a list of heads")
            continue
        for number, row in enumerate(rows[: MOST_HEADS + 1]):
            place = f"layer {found[1]}, entry {number}"
            if isinstance(row, list) and len(row) == 3:
                yield place, int(found[1]), row
            else:
                findings.append(f"{place}: expected (head, direction, sigma)")


def _array(value: Any) -> np.ndarray | None:
    """Return an array of the answer, ``None`` if it is none of a dtype that is used here."""
    import numpy as np

    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "hex"}:
        return None
    dtype, shape, text = value["dtype"], value["shape"], value["hex"]
    if dtype not in _ITEM_BYTES or not isinstance(text, str) or not _HEX.fullmatch(text):
        return None
    data = np.frombuffer(bytes.fromhex(text), dtype=f"<{dtype}")
    if shape == [] and len(data) == 1:
        return data.reshape(())
    return data if shape == [len(data)] else None


def _described(array: np.ndarray | None) -> str:
    return "another type" if array is None else f"{array.dtype.name} {list(array.shape)}"


def _value_findings(lock: ImportedLock) -> list[str]:
    """Return every rule that the values break, whatever they came in."""
    import numpy as np

    counts = Counter(lock.heads)
    findings = [
        f"head {layer}:{head} appears {times} times"
        for (layer, head), times in sorted(counts.items())
        if times > 1
    ]
    if not 0 < lock.head_dim <= MOST_HEAD_DIM or len(lock.heads) > MOST_HEADS:
        findings.append(
            f"expected at most {MOST_HEADS} directions of 1 to {MOST_HEAD_DIM} values, got "
            f"{len(lock.heads)} of {lock.head_dim}"
        )
    with np.errstate(all="ignore"):
        norms = np.sqrt((lock.directions.astype(np.float64) ** 2).sum(axis=1))
    for (layer, head), norm, sigma in zip(lock.heads, norms, lock.sigma, strict=True):
        where = f"head {layer}:{head}"
        if min(layer, head) < 0:
            findings.append(f"{where}: expected a layer and a head from 0 on")
        if not np.isfinite(norm):
            findings.append(f"{where}: expected a direction of finite values, got NaN or infinity")
        elif abs(norm - 1) > UNIT_TOLERANCE:
            findings.append(f"{where}: expected a direction of length 1, got {norm:.6g}")
        if not (np.isfinite(sigma) and sigma > 0):
            findings.append(f"{where}: expected a finite sigma above 0, got {sigma:g}")
    return findings


def _six(value: Any) -> float:
    return float(f"{float(value):.6g}")
