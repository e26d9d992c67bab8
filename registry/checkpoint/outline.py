"""What a checkpoint is by its headers alone, wherever its files are: nothing about its weights.

The rules are those of ``reader``: the same files are the checkpoint, and headers and index must
agree. They are given here as names and parsed headers, so that no file needs to be on this disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.checkpoint._layout import (
    DOWNLOAD,
    INDEX,
    INDEX_LIMIT,
    ONE_FILE,
    contradictions,
    parse_index,
)
from registry.checkpoint.architecture import model_names, sites_for
from registry.checkpoint.config import computation_fields
from registry.checkpoint.geometry import read_geometry
from registry.errors import CheckpointNotFoundError, UnsafeFormatError
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from registry.checkpoint.geometry import Geometry
    from registry.tensorfile import Header


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """Which files of a listing are the checkpoint.

    Attributes:
        names: The safetensors files, sorted.
        weight_map: Tensor name to file name, from the index; ``None`` without an index.
    """

    names: tuple[str, ...]
    weight_map: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class Outline:
    """Names, shapes and config of a checkpoint whose weights were not read.

    Attributes:
        shapes: Tensor name, as the whole model gives it, to shape; without an output head that the
            config ties to the embedding.
        geometry: Counts and widths.
        config: The fields that change the computation, normalised.
    """

    shapes: dict[str, tuple[int, ...]]
    geometry: Geometry
    config: dict[str, Any]


def choose_weight_files(
    listing: Collection[str], read: Callable[[str, int], bytes], *, what: str
) -> WeightFiles:
    """Return which files of ``listing`` are the checkpoint.

    Args:
        listing: Names of all files; those in folders of their own never count.
        read: Returns the bytes of one of them, of which there may be this many.
        what: How to call the place in an error.

    Raises:
        CheckpointNotFoundError: there is none, or not all of it.
        UnsafeFormatError: the listing is ambiguous, or the index breaks a rule.
    """
    here = {name for name in listing if "/" not in name}
    if INDEX in here and ONE_FILE not in here:
        weight_map = parse_index(read(INDEX, INDEX_LIMIT))
        names = tuple(sorted(set(weight_map.values())))
        absent = [name for name in names if name not in here]
        if absent:
            raise CheckpointNotFoundError(
                f"expected the shards that the index names in {what}, found no file for "
                f"{len(absent)} of {len(names)}:{listed(absent)}",
                hint="Name a revision that has them: --revision REVISION",
            )
        return WeightFiles(names, weight_map)
    found = sorted(here & {ONE_FILE, INDEX}) or sorted(
        name for name in here if name.endswith(".safetensors") and not name.startswith("adapter_")
    )
    if len(found) > 1:
        raise UnsafeFormatError(
            f"expected one checkpoint in {what}, got {len(found)}: {', '.join(found[:8])}.",
            hint=f"Keep the one that is meant in a folder of its own. {DOWNLOAD}",
        )
    if not found:
        raise CheckpointNotFoundError(
            f"expected {ONE_FILE} or {INDEX} in {what}, found neither.",
            hint="Name a repository with safetensors weights; others are never opened.",
        )
    return WeightFiles((found[0],), None)


def read_outline(
    headers: Mapping[str, Header],
    weight_map: Mapping[str, str] | None,
    config: Mapping[str, Any],
    *,
    what: str,
) -> Outline:
    """Return the outline of a checkpoint.

    Args:
        headers: File name to header, of every file of the checkpoint.
        weight_map: From the index; ``None`` without one.
        config: The parsed ``config.json``.
        what: How to call the place in an error.

    Raises:
        UnsafeFormatError: the files contradict each other, or the config breaks a rule.
        UnsupportedArchitectureError: there is no row for the family.
        GeometryError: config and shapes disagree.
    """
    findings = contradictions(headers, weight_map)
    if findings:
        raise UnsafeFormatError(
            f"{what}: expected files that agree, got {len(findings)} contradictions:"
            f"{listed(findings)}",
            hint="Ask its publisher, or name another revision: --revision REVISION",
        )
    stored = {entry.name: entry.shape for header in headers.values() for entry in header.entries}
    names = model_names(stored, config.get("model_type"))
    shapes = {name: stored[old] for name, old in names.items()}
    geometry = read_geometry(shapes, config)
    fields = computation_fields(config, geometry)
    if fields["tie_word_embeddings"]:
        shapes.pop(sites_for(config.get("model_type")).head, None)
    return Outline(shapes, geometry, fields)
