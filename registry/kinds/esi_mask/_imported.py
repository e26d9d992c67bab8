"""The authors' masks: a pickle of lists of flat indices by parameter, and what a base makes of it.

Source: the code published with arXiv 2604.08297, which writes such a pickle beside its ``.pt``
files. Those number the parameters by their place in a list that leaves out whatever had no
gradient, so a mixture's ids mean other matrices where it is read; only the names can be trusted.

- k is a share of *all* parameters there, embeddings and norms too: that rule is recorded, not ours.
- A parameter that holds several matrices is taken apart: a fused qkv, and the experts of a layer
  as transformers 5 has them live, as well as each under the name in the files.
- The answer of the reader is checked value by value, and all findings are told at once.
- Indices are arrays of four bytes each, read a parameter at a time; nothing holds them as objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.artifact.index_pickles import index_lists
from registry.artifact.unbound import IMPORT_AGAIN
from registry.checkpoint.architecture import sites_for
from registry.checkpoint.values import item_size
from registry.digest import canonical_json, parse_json
from registry.errors import GeometryError, SchemaViolationError
from registry.kinds.esi_mask._gap8 import index_dtype
from registry.kinds.esi_mask._matrices import matrices
from registry.kinds.esi_mask._packed import pack
from registry.kinds.esi_mask._rules import IMPORTED_RULE
from registry.kinds.esi_mask._sources import named_parts
from registry.kinds.esi_mask._values import gather_values
from registry.kinds.esi_mask.body import MASK, MaskBody
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from registry.artifact.foreign_file import ForeignFile
    from registry.checkpoint.record import BaseRecord
    from registry.kinds.contract import BaseTensors
    from registry.kinds.esi_mask._matrices import Matrix

_NOTHING = "expected at least one index, got none"
FORMAT = "a pickle of a dict from the names of parameters to lists of flat indices"
_MOST_FINDINGS = 1000
_NAMES_LIMIT = 32 << 20
_OTHER_BASE = (
    "Name the base that the file was made from: safelatch import FILE --base BASE --out DIR"
)
_OTHER_RULE = (
    "Ask whoever made it to leave these parameters out (the authors' code keeps Mixtral's "
    "routers), or make a mask by the rule here: safelatch extract esi-mask BASE --out DIR"
)
_MADE_AGAIN = (
    "Ask whoever made it for one without padding, each index once; or make a mask here: "
    "safelatch extract esi-mask BASE --out DIR"
)


@dataclass(frozen=True, slots=True)
class ImportedMask:
    """Which weights somebody else selected, by the names of their parameters.

    Attributes:
        indices: Sorted flat indices into each parameter that has some, uint32 or, beyond 2**32
            weights, int64; sorted by name.
    """

    indices: Mapping[str, np.ndarray]

    @property
    def selected(self) -> int:
        """How many weights are selected."""
        return sum(array.size for array in self.indices.values())

    def describe(self) -> dict[str, Any]:
        """Return what people ask about it."""
        names = list(self.indices)
        return {
            "form": MASK,
            "rule": IMPORTED_RULE,
            "selected": f"{self.selected:,} weights",
            "parameters": len(names),
            "first": names[0],
            "last": names[-1],
        }

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return the tensors: names uint8 (canonical JSON), counts int64, indices as here."""
        import numpy as np

        return {
            "names": np.frombuffer(canonical_json(list(self.indices)), dtype=np.uint8),
            "counts": np.array([a.size for a in self.indices.values()], dtype=np.int64),
            "indices": np.concatenate(list(self.indices.values())),
        }

    def bind_weights(self, record: BaseRecord, base: BaseTensors) -> MaskBody:
        """Return the mask of this base; ``base`` gives the weights, whose digests it holds.

        Raises:
            GeometryError: the base has no such parameters or indices; with every finding.
            UnsupportedArchitectureError: the base has no candidates.
            CheckpointNotFoundError, EvidenceError: its weights cannot be read.
        """
        import numpy as np

        sites = sites_for(record.geometry.family)
        candidates = matrices(record.entries, sites, record.geometry)
        numels = {matrix.name: matrix.numel for matrix in candidates}
        mask = pack(self._by_matrix(record, candidates), numels, what="the imported mask")
        held: tuple[str, np.ndarray] = ("", np.empty(0, dtype=np.uint8))

        def read(matrix: Matrix, indices: np.ndarray) -> bytes:
            nonlocal held
            if not indices.size:
                return b""
            if held[0] != matrix.tensor:
                bits = np.frombuffer(base.read(matrix.tensor), f"<u{item_size(matrix.dtype)}")
                held = (matrix.tensor, bits)
            chosen: bytes = held[1][matrix.in_tensor(indices)].tobytes()
            return chosen

        _, digests = gather_values(candidates, mask, read)
        return MaskBody(
            matrices=candidates,
            mask=mask,
            rho=self.selected / record.numel,
            family=sites.family,
            score=None,
            digests=digests,
            rule=IMPORTED_RULE,
        )

    def _by_matrix(
        self, record: BaseRecord, candidates: tuple[Matrix, ...]
    ) -> dict[str, np.ndarray]:
        """Return the sorted indices into each matrix."""
        import numpy as np

        sites = sites_for(record.geometry.family)
        known = named_parts(candidates, sites)
        others = {entry.name for entry in record.entries}
        others |= {sites.place_of(name).name for name in others}
        lacking: list[str] = []
        excluded: list[str] = []
        found: dict[str, np.ndarray] = {}
        for name, indices in self.indices.items():
            shown = f"{name!r:.120}"
            parts = known.get(name)
            if parts is None and name in others:
                excluded.append(
                    f"{shown}: expected a matrix that a mask is of, the base has it as an "
                    "embedding, a norm, a bias or a router"
                )
                continue
            if parts is None:
                lacking.append(
                    f"{shown}: expected a parameter of the base, it has none of this name"
                )
                continue
            size = sum(part.matrix.numel for part in parts)
            if int(indices[-1]) >= size:
                over = int(np.count_nonzero(indices >= size))
                lacking.append(
                    f"{shown}: expected indices below {size:,}, got {over:,} others up to "
                    f"{int(indices[-1]):,}"
                )
                continue
            for part in parts:
                inside = part.inside(indices)
                if not inside.size:
                    continue
                if part.matrix.name in found:
                    excluded.append(
                        f"{shown}: expected each matrix once, got {part.matrix.name} again under "
                        "another name"
                    )
                found[part.matrix.name] = inside.astype(index_dtype(part.matrix.numel))
        if findings := sorted([*lacking, *excluded]):
            raise GeometryError(
                "expected a base that has the parameters of this mask, "
                f"{len(findings)} rule(s) are broken:{listed(findings[:_MOST_FINDINGS])}",
                hint=_OTHER_BASE if lacking else _OTHER_RULE,
            )
        return found


def read_foreign(file: ForeignFile) -> ImportedMask:
    """Return what the pickle in this file says; nothing of it is run.

    Raises:
        UnsafeFormatError: it is no such file, or one that could run code.
        SchemaViolationError: its indices break rules; with every finding.
        HostError: it cannot be read, or no process with limits can be had here.
    """
    found: dict[str, np.ndarray] = {}
    findings: list[str] = []
    broken = 0
    for name, raw in index_lists(file):
        if raw.size:
            raw.sort()
            more = _findings(name, raw)
            broken += len(more)
            findings += more[: _MOST_FINDINGS - len(findings)]
            found[name] = _narrow(raw)
    if not found:
        broken, findings = 1, [_NOTHING]
    if findings:
        raise SchemaViolationError(
            f"{file.name}: expected indices of weights, {broken} rule(s) are broken; nothing of "
            "it was executed.",
            sorted(findings),
            hint=_MADE_AGAIN,
        )
    return ImportedMask({name: found[name] for name in sorted(found)})


def parse_imported(tensors: Mapping[str, np.ndarray]) -> ImportedMask:
    """Return the mask in the tensors of an unbound import.

    Raises:
        SchemaViolationError, UnsafeFormatError: they are not those of a mask; with every finding.
    """
    wide = tensors["indices"].dtype.name == "int64" if "indices" in tensors else False
    forms = {"names": "uint8", "counts": "int64", "indices": "int64" if wide else "uint32"}
    got = {name: (array.dtype.name, array.ndim) for name, array in tensors.items()}
    findings = [
        f"{name}: expected {(forms[name], 1) if name in forms else None}, got {got.get(name)}"
        for name in sorted({*forms, *got})
        if name not in forms or got.get(name) != (forms[name], 1)
    ]
    indices: dict[str, np.ndarray] = {}
    if not findings:
        names = parse_json(
            tensors["names"].tobytes(), what="names", limit=_NAMES_LIMIT, hint=IMPORT_AGAIN
        )
        counts, every = tensors["counts"].tolist(), tensors["indices"]
        texts = isinstance(names, list) and all(type(name) is str for name in names)
        if not texts or names != sorted(set(names)) or len(names) != len(counts):
            findings.append(f"names: expected {len(counts):,} different texts in order")
        elif min(counts, default=1) < 1 or sum(counts) != every.size:
            findings.append(f"counts: expected a sum of {every.size:,}, each above 0")
        else:
            begin = 0
            for name, count in zip(names, counts, strict=True):
                indices[name] = every[begin : begin + count]
                findings += _findings(name, indices[name])[: _MOST_FINDINGS - len(findings)]
                begin += count
            if not indices:
                findings.append(_NOTHING)
    if findings:
        raise SchemaViolationError(
            f"expected the tensors of an imported mask, {len(findings)} rule(s) are broken.",
            sorted(findings),
            hint=IMPORT_AGAIN,
        )
    return ImportedMask(indices)


def _narrow(indices: np.ndarray) -> np.ndarray:
    """Return sorted ``indices`` in four bytes each, if the last is below 2**32."""
    import numpy as np

    return indices.astype(np.uint32 if int(indices[-1]) < 1 << 32 else np.int64)


def _findings(name: str, array: np.ndarray) -> list[str]:
    """Return where indices of one parameter are no places of weights, once each and in order."""
    import numpy as np

    shown = f"{name!r:.120}"
    padding = int(np.count_nonzero(array == -1)) if array.dtype.kind == "i" else 0
    places = array[array >= 0] if array.dtype.kind == "i" else array
    negative = array.size - places.size - padding
    again = int(np.count_nonzero(places[1:] == places[:-1]))
    findings = []
    if padding:
        findings.append(
            f"{shown}: expected no padding, got -1 {padding:,} times: fewer weights were found "
            "than were asked for"
        )
    if negative:
        findings.append(
            f"{shown}: expected indices of at least 0, got {negative:,} below -1 down to "
            f"{int(array.min()):,}"
        )
    if again:
        findings.append(f"{shown}: expected each index once, got {again:,} again")
    if (places[1:] < places[:-1]).any():
        findings.append(f"{shown}: expected sorted indices, got others")
    return findings
