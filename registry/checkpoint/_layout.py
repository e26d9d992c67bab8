"""Which files of a folder are the checkpoint, and what to say when there is none."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.digest import parse_json
from registry.errors import CheckpointNotFoundError, UnsafeFormatError
from registry.plainfile import read_plain
from registry.reference import is_repo_id
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from registry.tensorfile import Header

DOWNLOAD = "Get the model's files again: hf download NS/NAME --local-dir DIR"
"""Hint of every error about files of a checkpoint that cannot be used."""
INDEX_LIMIT = 32 << 20
"""Most bytes of an index. A tensor takes about 100 bytes: this is room for 300,000."""
ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_BUNDLE = frozenset({"base.safetensors", "tensors.safetensors"})
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._+-]{0,240}\.safetensors")


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one checkpoint.

    Attributes:
        folder: Where the config and the tokenizer are.
        files: The safetensors files, sorted.
        weight_map: Tensor name to file name, from the index; ``None`` without an index.
        watched: The weight files and the index.
        is_single_file: Whether a file was named and not a folder.
    """

    folder: Path
    files: tuple[Path, ...]
    weight_map: dict[str, str] | None
    watched: tuple[Path, ...]
    is_single_file: bool


def find_layout(path: Path) -> Layout:
    """Return the files of the checkpoint at ``path``.

    Raises:
        CheckpointNotFoundError: there is none; the hint says what is there instead.
        UnsafeFormatError: the folder is ambiguous, or the index breaks a rule.
    """
    if path.is_file():
        if path.suffix != ".safetensors":
            raise CheckpointNotFoundError(
                f"expected a folder or a .safetensors file, got {path}.", hint=_convert_hint()
            )
        return Layout(path.parent, (path,), None, (path,), is_single_file=True)
    if not path.is_dir():
        raise CheckpointNotFoundError(
            f"expected a checkpoint at {path}, found nothing.", hint=_missing_hint(path)
        )
    one, index = path / ONE_FILE, path / INDEX
    for file in (one, index):
        if os.path.lexists(file) and not file.is_file():
            raise UnsafeFormatError(
                f"{file}: expected a file, got a folder, a device or a link that leads nowhere.",
                hint=DOWNLOAD,
            )
    if one.is_file() and index.is_file():
        raise _ambiguous(path, [ONE_FILE, INDEX])
    if index.is_file():
        weight_map = parse_index(read_plain(index, limit=INDEX_LIMIT, hint=DOWNLOAD))
        files = tuple(path / name for name in sorted(set(weight_map.values())))
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise CheckpointNotFoundError(
                f"expected the shards that the index names in {path}, found no file for "
                f"{len(absent)} of {len(files)}:{listed(absent)}",
                hint="Download the rest: hf download NS/NAME --local-dir DIR",
            )
        return Layout(path, files, weight_map, (index, *files), is_single_file=False)
    if not one.is_file():
        one = _only_other(path)
    return Layout(path, (one,), None, (one,), is_single_file=False)


def _only_other(folder: Path) -> Path:
    candidates = sorted(
        file
        for file in folder.glob("*.safetensors")
        if file.is_file() and not file.name.startswith("adapter_")
    )
    if (folder / "manifest.json").is_file() and {file.name for file in candidates} >= _BUNDLE:
        raise CheckpointNotFoundError(
            f"expected a model in {folder}, got a bundle, which is an artifact.",
            hint=f"See what it protects: safelatch show {_typed(folder)}",
        )
    if len(candidates) > 1:
        raise _ambiguous(folder, [file.name for file in candidates])
    if not candidates:
        raise CheckpointNotFoundError(
            f"expected {ONE_FILE} or {INDEX} in {folder}, found neither.",
            hint=_folder_hint(folder),
        )
    return candidates[0]


def _ambiguous(folder: Path, names: list[str]) -> UnsafeFormatError:
    return UnsafeFormatError(
        f"expected one checkpoint in {folder}, got {len(names)}: {', '.join(names[:8])}.",
        hint="Keep the one that is meant in a folder of its own, or name the file.",
    )


def parse_index(data: bytes, *, what: str = INDEX) -> dict[str, str]:
    """Return the weight map of an index: tensor name to file name.

    Raises:
        UnsafeFormatError: it is not strict JSON, or names something else than plain files.
    """
    document = parse_json(data, what=what, limit=INDEX_LIMIT, hint=DOWNLOAD)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UnsafeFormatError(
            f"{what}: expected a weight_map with at least one tensor.", hint=DOWNLOAD
        )
    wrong = [
        f"{name!r:.120}: {file!r:.120}"
        for name, file in weight_map.items()
        if not isinstance(file, str) or not _PLAIN.fullmatch(file) or ".." in file
    ]
    if wrong:
        raise UnsafeFormatError(
            f"{what}: expected the plain name of a .safetensors file beside the index for "
            f"every tensor, got {len(wrong)} others:{listed(wrong)}",
            hint=DOWNLOAD,
        )
    return weight_map


def contradictions(
    headers: Mapping[str, Header], weight_map: Mapping[str, str] | None
) -> list[str]:
    """Return what the headers of a checkpoint's files and its index say against each other.

    Args:
        headers: File name to header, of every file of the checkpoint.
        weight_map: Tensor name to file name, from the index; ``None`` without an index.
    """
    places: dict[str, str] = {}
    findings = []
    for file, header in headers.items():
        for entry in header.entries:
            name = entry.name
            if name in places:
                findings.append(f"{name!r:.120}: in {places[name]} and {file}")
            elif weight_map is not None and weight_map.get(name) != file:
                said = weight_map.get(name, "no file")
                findings.append(f"{name!r:.120}: the index says {said}, it is in {file}")
            places[name] = file
    absent = sorted(set(weight_map or ()) - set(places))
    return findings + [f"{name!r:.120}: in the index, in no file" for name in absent]


def _missing_hint(path: Path) -> str:
    text = path.as_posix()
    if is_repo_id(text):
        return f"If this is a repository on the Hub: hf download {text} --local-dir {path.name}"
    return "Name a folder with model.safetensors and config.json."


def _folder_hint(folder: Path) -> str:
    names = {file.name for file in folder.iterdir()}
    has_pickle = any(name.endswith((".bin", ".pt", ".pth")) for name in names)
    if "adapter_config.json" in names and (
        "adapter_model.safetensors" in names or not has_pickle  # PEFT would load the pickle
    ):
        return (
            "This is an adapter. Merge it with PEFT, save the base's tokenizer to OUT too, and "
            f"name OUT: AutoPeftModelForCausalLM.from_pretrained({str(folder)!r})"
            ".merge_and_unload().save_pretrained('OUT'); "
            "AutoTokenizer.from_pretrained('BASE').save_pretrained('OUT')"
        )
    if has_pickle:
        return _convert_hint()
    if any(name.endswith(".gguf") for name in names):
        return (
            "GGUF files are not read: name the safetensors model that the file was made from, "
            "or get it: hf download NS/NAME --local-dir DIR"
        )
    return "Get the weights: hf download NS/NAME --local-dir DIR"


def _typed(folder: Path) -> str:
    """Return ``folder`` as an argument that is a path and never a name."""
    text = folder.as_posix()
    return text if folder.is_absolute() or text.startswith(".") else f"./{text}"


def _convert_hint() -> str:
    return (
        "Pickled weights are never opened. Most repositories have safetensors too: "
        "hf download NS/NAME --local-dir DIR --include '*.safetensors' '*.json'"
    )
