"""What the Hub makes of a README: the card's data, and the tags that models are found by."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.hub.state import Blob

_FRONT = re.compile(r"\A\ufeff?---\r?\n(.*?)(?:\r?\n)?---\s*?(?:\r?\n|\Z)", re.DOTALL)


def front_matter(text: str) -> dict[str, Any]:
    """Return the YAML at the top of a README; empty where there is none.

    Raises:
        ValueError: it is not YAML, or no mapping.
    """
    import yaml

    found = _FRONT.match(text)
    if found is None:
        return {}
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise ValueError(f"Invalid YAML: {error}") from error
    if not isinstance(data, dict | None):
        raise ValueError("Metadata must be a mapping")  # noqa: TRY004 -- of what was sent
    return data or {}


def card_of(files: dict[str, Blob]) -> dict[str, Any]:
    """Return the card's data of a commit; the Hub shows a repository with a broken one too."""
    readme = files.get("README.md")
    if readme is None:
        return {}
    try:
        return front_matter(readme.data.decode("utf-8", "replace"))
    except ValueError:
        return {}


def base_models(card: dict[str, Any], files: dict[str, Blob]) -> tuple[list[str], str]:
    """Return what a model says it was made from, and how: stated, or guessed as the Hub does."""
    bases = [base for base in _listed(card.get("base_model")) if isinstance(base, str)]
    stated = card.get("base_model_relation")
    if stated in {"finetune", "adapter", "merge", "quantized"}:
        return bases, stated
    if "adapter_config.json" in files:
        return bases, "adapter"
    return bases, "merge" if len(bases) > 1 else "finetune"


def tags_of(files: dict[str, Blob]) -> list[str]:
    """Return the tags of a model, each once."""
    card = card_of(files)
    bases, relation = base_models(card, files)
    tags: list[str] = []
    if library := card.get("library_name"):
        tags.append(library)
    if any(name.endswith(".safetensors") for name in files):
        tags.append("safetensors")
    tags += [tag for tag in _listed(card.get("tags")) if isinstance(tag, str)]
    if pipeline := card.get("pipeline_tag"):
        tags.append(pipeline)
    tags += [f"dataset:{name}" for name in _listed(card.get("datasets"))]
    tags += [str(name) for name in _listed(card.get("language"))]
    tags += [f"base_model:{base}" for base in bases]
    tags += [f"base_model:{relation}:{base}" for base in bases]
    tags += [f"license:{name}" for name in _listed(card.get("license"))]
    return list(dict.fromkeys([*tags, "region:us"]))


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
