"""Whose child is a model on the Hub? As much as can be said without downloading it.

Three answers, and none of them says more than was seen:

- ``identical``, level 4: the Hub states the same SHA-256 for every weight file as was measured
  when a base was registered, or the commit is the one it was registered from. No byte of the
  weights or of their headers is read. It rests on the Hub's word: a load reads the bytes again.
- ``same-shapes``, level 2: the headers of the weight files, and ``config.json``, have the names and
  shapes of a registered base. Whether it descends from it only its weights can say.
- ``unknown``, level 0: neither. What the files declare is listed as claims.

A commit that a base was registered from is no evidence against other files: where both are known,
the files decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.claims import ADAPTER, CARD, CLAIM_FILES, CONFIG, claims_in
from registry.checkpoint.config import computation_fields, differing_fields
from registry.checkpoint.geometry import read_geometry
from registry.checkpoint.lineage import is_same_structure
from registry.checkpoint.outline import choose_weight_files, read_outline
from registry.digest import parse_json
from registry.errors import BaseNotFoundError, CheckpointNotFoundError, UnsafeFormatError
from registry.remote.hub import list_model, read_file, read_headers
from registry.workflows.aliases import sha256_set
from registry.workflows.bases import base_record
from registry.workflows.lineage import base_of_claim, claims_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.checkpoint.claims import Claim
    from registry.checkpoint.outline import Outline, WeightFiles
    from registry.remote.hub import HubModel
    from registry.store.catalog import Registry
    from registry.store.values import AliasScheme, Base

Difference = tuple[str, Any, Any]

_FILES = "the Hub states the same SHA-256 for every weight file"
_COMMIT = "the base was registered from this commit"
_SHAPES = "names and shapes agree; weights were not read"
_OTHER = "no registered base has its names and shapes; weights were not read"
_ADAPTER = "an adapter without a model; its weights were not read"


@dataclass(frozen=True, slots=True)
class StatedCandidate:
    """A registered base and what can be said about it without weights.

    Attributes:
        base: The base.
        level: 4 identical, 2 names and shapes agree, 0 they do not.
        config_differences: (field, base's value, the model's value).
        missing: Tensors of the base alone, sorted.
        unexpected: Tensors of the model alone, sorted.
        reshaped: Tensors in both with another shape, sorted.
    """

    base: Base
    level: int
    config_differences: tuple[Difference, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "base": self.base.name,
            "base_weights": self.base.weights,
            "level": self.level,
            "config_differences": [
                {"field": field, "expected": expected, "got": got}
                for field, expected, got in self.config_differences
            ],
            **{name: list(getattr(self, name)) for name in ("missing", "unexpected", "reshaped")},
        }


@dataclass(frozen=True, slots=True)
class RemoteLineage:
    """What a model on the Hub is, of which no weights were read.

    Attributes:
        repo_id: ``namespace/name``.
        commit: 40 hex digits; what is said holds for this commit.
        relation: See the module.
        level: 4, 2 or 0.
        evidence: What the relation rests on, in words.
        sha256_set: Alias of its weight files; ``None`` where the Hub does not state all of it.
        candidates: Every base of its geometry, or the one it is identical to; best first.
        claims: What its files declare, with the registered base it names, if there is one.
        header_bytes: How many bytes of the weight files were read: headers, never tensors.
    """

    repo_id: str
    commit: str
    relation: Literal["identical", "same-shapes", "unknown"]
    level: int
    evidence: str
    sha256_set: str | None
    candidates: tuple[StatedCandidate, ...]
    claims: tuple[tuple[Claim, Base | None], ...]
    header_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: that of a measured ancestry, with nothing measured in it."""
        return {
            "base": self.candidates[0].base.name if self.relation == "identical" else None,
            "claims": claims_document(self.claims),
            "descents": [],
            "metadata": {
                "commit": self.commit,
                "relation": self.relation,
                "level": self.level,
                "evidence": self.evidence,
                "sha256_set": self.sha256_set,
                "candidates": [candidate.to_dict() for candidate in self.candidates],
                "header_bytes": self.header_bytes,
            },
            "adapter": None,
        }


def from_metadata(registry: Registry, repo_id: str, revision: str | None = None) -> RemoteLineage:
    """Return whose child the model is, without downloading it.

    Args:
        registry: Where the bases are.
        repo_id: ``namespace/name`` on the Hub.
        revision: Branch, tag or commit; the main branch by default.

    Raises:
        HubError: the Hub does not have it, refuses, cannot be reached, or states nonsense.
        CheckpointNotFoundError: it has no safetensors weights, or no config.
        UnsafeFormatError: an index, a header or a text breaks the rules of its format.
        GeometryError: config and shapes disagree.
        UnsupportedArchitectureError: there is no row for the family.
    """
    model = list_model(repo_id, revision)
    texts = {
        name: read_file(model, name, limit=limit, only_first=name == CARD)
        for name, limit in CLAIM_FILES.items()
        if name in model.files
    }
    claims = tuple(
        (claim, base_of_claim(registry, claim))
        for claim in claims_in(texts)
        if claim.base != repo_id
    )
    try:
        files = choose_weight_files(
            model.files, lambda name, limit: read_file(model, name, limit=limit), what=repo_id
        )
    except CheckpointNotFoundError:
        if ADAPTER not in model.files:
            raise
        return RemoteLineage(
            repo_id, model.commit, "unknown", 0, _ADAPTER, None, (), claims, header_bytes=0
        )
    config = _config(texts.get(CONFIG), repo_id)
    stated = _sha256_set(model, files)
    base, evidence = _identical(registry, model, stated)
    if base is not None and ADAPTER not in model.files:  # loaders add an adapter that lies beside
        found = (_identical_candidate(registry, base, config),)
        return RemoteLineage(
            repo_id, model.commit, "identical", 4, evidence, stated, found, claims, header_bytes=0
        )
    headers = read_headers(model, files.names)
    outline = read_outline(headers, files.weight_map, config, what=repo_id)
    candidates = tuple(
        sorted(
            (_compare(registry, base, outline) for base in registry.bases_like(outline.geometry)),
            key=lambda c: (-c.level, len(c.config_differences), c.base.name),
        )
    )
    is_like = bool(candidates) and candidates[0].level == 2
    return RemoteLineage(
        repo_id,
        model.commit,
        "same-shapes" if is_like else "unknown",
        2 if is_like else 0,
        _SHAPES if is_like else _OTHER,
        stated,
        candidates,
        claims,
        header_bytes=sum(header.data_start for header in headers.values()),
    )


def _config(data: bytes | None, repo_id: str) -> dict[str, Any]:
    if data is None:
        raise CheckpointNotFoundError(
            f"expected config.json beside the weights in {repo_id}, found none.",
            hint="Name a revision that has it: --revision REVISION",
        )
    config = parse_json(data, what=CONFIG, limit=CLAIM_FILES[CONFIG])
    if not isinstance(config, dict):
        raise UnsafeFormatError(
            "config.json: expected a JSON object.",
            hint="Name a revision that has one: --revision REVISION",
        )
    return config


def _sha256_set(model: HubModel, files: WeightFiles) -> str | None:
    digests = [model.files[name].sha256 for name in files.names]
    known = [digest for digest in digests if digest is not None]
    return sha256_set(known) if len(known) == len(digests) else None


def _identical(registry: Registry, model: HubModel, stated: str | None) -> tuple[Base | None, str]:
    """Return the base that has these weight files, and what says so."""
    if stated is not None:
        base = _by_alias(registry, "sha256-set", stated)
        if base is not None:
            return base, _FILES
    base = _by_alias(registry, "hub", f"{model.repo_id}@{model.commit}")
    knows_files = base is not None and any(a.scheme == "sha256-set" for a in base.aliases)
    if stated is not None and knows_files:
        return None, ""
    return base, _COMMIT


def _by_alias(registry: Registry, scheme: AliasScheme, value: str) -> Base | None:
    try:
        base = registry.base(value)
    except BaseNotFoundError:
        return None
    return base if any((a.scheme, a.value) == (scheme, value) for a in base.aliases) else None


def _identical_candidate(
    registry: Registry, base: Base, config: Mapping[str, Any]
) -> StatedCandidate:
    """Return the candidate of a base with the same weights; its config may be another."""
    record = base_record(registry, base)
    shapes = {entry.name: entry.shape for entry in record.entries}
    fields = computation_fields(config, read_geometry(shapes, config))
    return StatedCandidate(base, 4, tuple(differing_fields(record.config, fields)))


def _compare(registry: Registry, base: Base, outline: Outline) -> StatedCandidate:
    record = base_record(registry, base)
    sites = sites_for(base.family)
    ours = {entry.name: entry.shape for entry in record.entries}
    theirs = outline.shapes
    missing = tuple(sorted(ours.keys() - theirs.keys()))
    unexpected = tuple(sorted(theirs.keys() - ours.keys()))
    reshaped = tuple(sorted(n for n in ours.keys() & theirs.keys() if ours[n] != theirs[n]))
    is_same = is_same_structure(sites, missing=missing, unexpected=unexpected, reshaped=reshaped)
    differences = tuple(differing_fields(record.config, outline.config))
    return StatedCandidate(base, 2 if is_same else 0, differences, missing, unexpected, reshaped)
