"""What a folder declares about its origin: claims, which nobody has checked.

- Three places count, in this order: ``adapter_config.json`` (``base_model_name_or_path`` and
  ``revision``), the front matter of ``README.md`` (``base_model`` and ``base_model_relation``) and
  ``config.json`` (``_name_or_path``).
- A claim is evidence of level 0: it says where to look first and decides nothing.
- A value that is no text, is longer than 512 characters or holds what cannot be printed is no
  claim. A JSON file that breaks the rules of ``digest`` is refused, as everywhere.
- The front matter is not parsed as YAML. A scalar without a line break, a list in one line and a
  list with a line for each item are understood; anchors, aliases, tags, escapes, block texts, and
  a field that stands there twice are not, and then there is no claim. Nothing is expanded.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from registry.checkpoint._layout import DOWNLOAD
from registry.digest import parse_json
from registry.errors import UnsafeFormatError
from registry.plainfile import open_plain, read_plain, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Source = Literal["adapter_config.json", "README.md", "config.json"]

ADAPTER: Final = "adapter_config.json"
CARD: Final = "README.md"
CONFIG: Final = "config.json"
CLAIM_FILES: dict[Source, int] = {ADAPTER: 1 << 20, CARD: 1 << 20, CONFIG: 16 << 20}
"""The files that claims are read from, with the most bytes of each; of a longer card, the first."""
LONGEST_CLAIM = 512
"""Most characters of a claimed base."""
MOST_CLAIMS = 32
"""Most bases that are listed: a merge of more is no help in finding one."""

_RELATIONS = ("adapter", "finetune", "merge", "quantized")
_FENCE = re.compile(r"---[ \t]*")
_KEY = re.compile(r"(base_model|base_model_relation)[ \t]*:(?:[ \t]+(.*))?")
_ITEM = re.compile(r"( *)-[ \t]+(.*)")
_OTHER_BREAK = re.compile("[\r\x85\u2028\u2029]")  # a line ends there for a reader of YAML 1.1
_COMMENT = re.compile(r"[ \t]*(?:#.*)?")
_BEHIND = r"[ \t]*(?:[ \t]#.*)?"
_QUOTED = r"""'((?:[^'\n]|'')*)'|"([^"\\\n]*)\""""
_PLAIN = r"([A-Za-z0-9_./~](?:[\w.@/+~=-]|:(?=[\w.@/+~=-]))*)"
_SCALAR = re.compile(rf"(?:{_QUOTED}|{_PLAIN}){_BEHIND}", re.ASCII)
_FLOW = re.compile(rf"\[(.*)\]{_BEHIND}", re.ASCII)
_FLOW_ITEM = re.compile(rf"[ \t]*(?:{_QUOTED}|{_PLAIN})[ \t]*(?:,|$)", re.ASCII)
_NO_TEXT = frozenset({"false", "n", "no", "null", "off", "on", "true", "y", "yes"})


@dataclass(frozen=True, slots=True)
class Claim:
    """A base that a folder says it was made from.

    Attributes:
        sources: The files that say so, in the order of this module.
        base: Hub id, path or other text, as it stands there; printable.
        relation: ``adapter``, ``finetune``, ``merge`` or ``quantized``; ``None`` when not said.
        revision: Hub revision of the base; ``None`` when not said.
    """

    sources: tuple[Source, ...]
    base: str
    relation: str | None = None
    revision: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "sources": list(self.sources),
            "base": self.base,
            "relation": self.relation,
            "revision": self.revision,
        }


def read_claims(folder: Path) -> tuple[Claim, ...]:
    """Return what the files of ``folder`` declare about its origin; each base once.

    Raises:
        UnsafeFormatError: a JSON file is not strict JSON or too long, or something that is no
            regular file has the name of one.
        HostError: a file is there and cannot be read.
    """
    files = {}
    for name, limit in CLAIM_FILES.items():
        read = _beginning if name == CARD else partial(read_plain, hint=DOWNLOAD)
        with suppress(FileNotFoundError):
            files[name] = read(folder / name, limit=limit)
    return claims_in(files)


def claims_in(files: Mapping[Source, bytes]) -> tuple[Claim, ...]:
    """Return what files declare, wherever they came from; at most ``MOST_CLAIMS``.

    Args:
        files: File name to bytes; those that are not in ``CLAIM_FILES`` are not looked at.

    Raises:
        UnsafeFormatError: a JSON file is not strict JSON or too long.
    """
    found: dict[str, Claim] = {}
    for claim in (*_adapter(files), *_card(files), *_config(files)):
        same = found.get(claim.base)
        if same is None:
            found[claim.base] = claim
        else:
            found[claim.base] = Claim(
                (*same.sources, *(item for item in claim.sources if item not in same.sources)),
                claim.base,
                same.relation or claim.relation,
                same.revision or claim.revision,
            )
    return tuple(found.values())[:MOST_CLAIMS]


def _beginning(path: Path, *, limit: int) -> bytes:
    with open_plain(path, hint=DOWNLOAD) as file:
        pieces, wanted = [], limit
        try:
            while wanted and (piece := file.read(wanted)):
                pieces.append(piece)
                wanted -= len(piece)
        except OSError as error:
            raise unreadable(path, error, hint=DOWNLOAD) from error
    return b"".join(pieces)


def _adapter(files: Mapping[Source, bytes]) -> Iterator[Claim]:
    document = _document(files, ADAPTER)
    base = _text(document.get("base_model_name_or_path"))
    if base is not None:
        yield Claim((ADAPTER,), base, "adapter", _text(document.get("revision")))


def _card(files: Mapping[Source, bytes]) -> Iterator[Claim]:
    fields = _front_matter(files.get(CARD, b"")[: CLAIM_FILES[CARD]])
    relations = fields.get("base_model_relation") or []
    relation = relations[0] if len(relations) == 1 and relations[0] in _RELATIONS else None
    for text in fields.get("base_model") or []:
        base = _text(text)
        if base is not None:
            yield Claim((CARD,), base, relation)


def _config(files: Mapping[Source, bytes]) -> Iterator[Claim]:
    base = _text(_document(files, CONFIG).get("_name_or_path"))
    if base is not None:
        yield Claim((CONFIG,), base)


def _document(files: Mapping[Source, bytes], name: Source) -> dict[str, Any]:
    if name not in files:
        return {}
    limit = CLAIM_FILES[name]
    document = parse_json(files[name], what=name, limit=limit, hint=DOWNLOAD)
    if not isinstance(document, dict):
        raise UnsafeFormatError(f"{name}: expected a JSON object.", hint=DOWNLOAD)
    return document


def _text(value: Any) -> str | None:
    """Return ``value`` if it can be a claim."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_CLAIM:
        return None
    is_plain = value.isprintable() and value == value.strip() and "\ufffd" not in value
    return value if is_plain else None


def _front_matter(data: bytes) -> dict[str, list[str] | None]:
    """Return the two fields of a card's front matter; ``None`` for one that is not understood."""
    lines = data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").split("\n")
    if not _FENCE.fullmatch(lines[0]):
        return {}
    end = next((n for n, line in enumerate(lines) if n and _FENCE.fullmatch(line)), None)
    if end is None or any(_OTHER_BREAK.search(line) for line in lines[:end]):
        return {}
    lines = lines[1:end]
    fields: dict[str, list[str] | None] = {}
    for number, line in enumerate(lines):
        match = _KEY.fullmatch(line)
        if match is None:
            continue
        is_second = match[1] in fields
        fields[match[1]] = None if is_second else _value(match[2] or "", _below(lines, number + 1))
    return fields


def _below(lines: list[str], start: int) -> list[str]:
    """Return the lines that belong to the field before ``start``, without blanks and comments."""
    found = []
    for line in lines[start:]:
        if _COMMENT.fullmatch(line):
            continue
        if not line.startswith((" ", "\t", "- ", "-\t")) and line != "-":
            break
        found.append(line)
        if len(found) > MOST_CLAIMS:
            break
    return found


def _value(text: str, below: list[str]) -> list[str] | None:
    """Return the texts of a field's value, ``None`` when it is not one of the forms."""
    if _COMMENT.fullmatch(text):
        items = [_ITEM.fullmatch(line) for line in below]
        depths = {None if item is None else item[1] for item in items}
        if len(depths) != 1 or None in depths:
            return None
        return _texts([_SCALAR.fullmatch(item[2]) for item in items if item is not None])
    if below:
        return None
    flow = _FLOW.fullmatch(text)
    if flow is None:
        return _texts([_SCALAR.fullmatch(text)])
    matches: list[re.Match[str] | None] = []
    position, inside = 0, flow[1].strip(" \t")
    while position < len(inside) and len(matches) < MOST_CLAIMS:
        match = _FLOW_ITEM.match(inside, position)
        matches.append(match)
        if match is None:
            break
        position = match.end()
    return _texts(matches)


def _texts(matches: list[re.Match[str] | None]) -> list[str] | None:
    texts = []
    for match in matches:
        if match is None:
            return None
        single, double, plain = match.groups()
        if plain is not None and not _is_text(plain):
            return None
        texts.append(single.replace("''", "'") if single is not None else double or plain or "")
    return texts


def _is_text(plain: str) -> bool:
    """Whether YAML reads the plain scalar as text, and not as a number, a date, or nothing."""
    return "/" in plain or (plain[0].isalpha() and plain.lower() not in _NO_TEXT)
