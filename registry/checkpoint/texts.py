"""What turns text into tokens and turns into text: digests of tokenizer and chat template.

Rules:

- ``tokenizer.json`` counts by what it does: call-time settings (``truncation``, ``padding``), its
  ``version``, members of the model that only spell out a default, and the two spellings of BPE
  merges make no difference.
- Without it the raw bytes count: ``tokenizer.model``, or ``vocab.json`` with ``merges.txt``.
- A chat template is its text, wherever it is stored; ``chat_template.jinja`` wins, as in
  transformers.
- Nothing is rendered or executed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from registry.checkpoint._layout import DOWNLOAD
from registry.checkpoint._tokenizer_rows import parse_without_rows
from registry.digest import Digest, canonical_json, digest_bytes, digest_json, parse_json
from registry.errors import UnsafeFormatError
from registry.plainfile import read_plain

if TYPE_CHECKING:
    from pathlib import Path

_TOKENIZER_LIMIT = 64 << 20  # vocabularies of 262,000 tokens take about 33 MB
_CONFIG_LIMIT = 16 << 20
_CALL_TIME = ("truncation", "padding", "version")
_DEFAULT_NAME = "default"


def tokenizer_digest(folder: Path) -> Digest | None:
    """Return the digest of the tokenizer in ``folder``, ``None`` when there is none.

    Raises:
        UnsafeFormatError: ``tokenizer.json`` is not strict JSON, or not an object.
    """
    data = _read(folder / "tokenizer.json", _TOKENIZER_LIMIT)
    if data is not None:
        return _tokenizer_json(data)
    data = _read(folder / "tokenizer.model", _TOKENIZER_LIMIT)
    if data is not None:
        return digest_bytes(data)
    vocabulary = _read(folder / "vocab.json", _TOKENIZER_LIMIT)
    merges = _read(folder / "merges.txt", _TOKENIZER_LIMIT)
    if vocabulary is None or merges is None:
        return None
    parts = {"merges.txt": digest_bytes(merges), "vocab.json": digest_bytes(vocabulary)}
    return digest_json(parts)


def chat_template_digest(folder: Path) -> Digest | None:
    """Return the digest of the chat template in ``folder``, ``None`` when there is none.

    One template is its UTF-8 text; several are the canonical JSON of name to text.

    Raises:
        UnsafeFormatError: ``tokenizer_config.json`` is not strict JSON, or its template is neither
            text nor a list of named texts.
    """
    templates = _templates(folder)
    if not templates:
        return None
    if set(templates) == {_DEFAULT_NAME}:
        return digest_bytes(templates[_DEFAULT_NAME].encode("utf-8"))
    return digest_bytes(_canonical(templates, "chat_template"))


def _read(path: Path, limit: int) -> bytes | None:
    try:
        return read_plain(path, limit=limit, hint=DOWNLOAD)
    except FileNotFoundError:
        return None


def _tokenizer_json(data: bytes) -> Digest:
    document = parse_without_rows(data, what="tokenizer.json", limit=_TOKENIZER_LIMIT)
    if document is None:
        document = parse_json(data, what="tokenizer.json", limit=_TOKENIZER_LIMIT, hint=DOWNLOAD)
    if not isinstance(document, dict):
        raise UnsafeFormatError("tokenizer.json: expected a JSON object.", hint=DOWNLOAD)
    kept = {name: value for name, value in document.items() if name not in _CALL_TIME}
    model = kept.get("model")
    if isinstance(model, dict):
        model = {
            name: item for name, item in model.items() if item is not None and item is not False
        }
        if isinstance(model.get("merges"), list):
            model["merges"] = _packed([_pair(merge) for merge in model["merges"]])
        if isinstance(model.get("vocab"), dict):
            model["vocab"] = _packed(sorted(model["vocab"].items()))
        kept["model"] = model
    return digest_bytes(_canonical(kept, "tokenizer.json"))


def _pair(merge: Any) -> Any:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    return parts if isinstance(parts, list) and len(parts) == 2 else merge


def _packed(rows: list[Any]) -> Digest:
    """Return the digest of long rows of text and integers, where the C encoder writes JCS too."""
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    return digest_bytes(text.encode("utf-8"))


def _canonical(value: Any, what: str) -> bytes:
    try:
        return canonical_json(value)
    except ValueError as error:
        raise UnsafeFormatError(f"{what}: {error}.", hint=DOWNLOAD) from error


def _templates(folder: Path) -> dict[str, str]:
    data = _read(folder / "chat_template.jinja", _CONFIG_LIMIT)
    if data is not None:
        templates = {_DEFAULT_NAME: _text(data, "chat_template.jinja")}
        for path in sorted(folder.glob("additional_chat_templates/*.jinja")):
            templates[path.stem] = _text(_read(path, _CONFIG_LIMIT) or b"", path.name)
        return templates
    data = _read(folder / "tokenizer_config.json", _CONFIG_LIMIT)
    if data is None:
        return {}
    document = parse_json(data, what="tokenizer_config.json", limit=_CONFIG_LIMIT, hint=DOWNLOAD)
    stated = document.get("chat_template") if isinstance(document, dict) else None
    if stated is None:
        return {}
    if isinstance(stated, str):
        return {_DEFAULT_NAME: stated}
    if isinstance(stated, dict):
        stated = [{"name": name, "template": text} for name, text in stated.items()]
    if not isinstance(stated, list) or not all(_is_named(item) for item in stated):
        raise UnsafeFormatError(
            "tokenizer_config.json: expected chat_template to be text or a list of named texts.",
            hint=DOWNLOAD,
        )
    templates = {item["name"]: item["template"] for item in stated}
    if len(templates) != len(stated):
        raise UnsafeFormatError(
            f"tokenizer_config.json: expected {len(stated)} chat templates of different names, got "
            f"{len(templates)} names.",
            hint=DOWNLOAD,
        )
    return templates


def _is_named(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("name"), str)
        and isinstance(item.get("template"), str)
    )


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnsafeFormatError(
            f"{what}: expected UTF-8 text, {error.reason}.", hint=DOWNLOAD
        ) from error
