"""The two long members of ``tokenizer.json``, digested from its bytes without parsing them.

A vocabulary of 150,000 tokens and its merges are nearly all of the file, and making objects of
them takes longer than hashing a small model. Here they stay bytes. Rules:

- Taken is only what the ``tokenizers`` library itself writes: indented, a row a line, no escape but
  of a quote or a backslash. This is checked of every byte taken; anything else is left to the
  strict parser, which gives the same digest, or refuses the file in its own words.
- What is taken leaves its digest in its place, and the rest is parsed strictly. Where that digest
  is then the member of ``model``, and nowhere else, what was taken was that member.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from registry.digest import Digest, digest_bytes, parse_json
from registry.errors import UnsafeFormatError

_ESCAPE = re.compile(rb'\\["\\]')
_INDENT = re.compile(rb'\{\n( +)"')
_ROW, _COLUMN = b"\n", b"\x1f"  # no string holds them raw, and both sort before all that it holds
_QUOTE, _BACKSLASH = b"\xfe", b"\xff"  # stand for their escapes; no UTF-8 text holds them
_NOT_CONTROL = bytes(range(0x20, 0x100))
_MOST_DIGITS = 15  # such an integer is one to every reader


class _Form(NamedTuple):
    """How the rows of a member are written: between strings, never inside one."""

    member: str
    opening: bytes
    row_break: bytes
    column_break: bytes
    closing: bytes


def parse_without_rows(data: bytes, *, what: str, limit: int) -> Any | None:
    """Return the document with its long members replaced by their digests, ``None`` if it has none.

    A digest is that of the canonical JSON of the rows: [token, id] sorted by token, or [left,
    right] of each merge in order.
    """
    found: dict[str, Digest] = {}
    indent = _INDENT.match(data)
    for form in _forms(indent[1]) if indent else ():
        start = data.find(form.opening) if form.member not in found else -1
        begin = start + len(form.opening)
        end = data.find(form.closing, begin) if start >= 0 else -1
        rows = _rows(data[begin:end], form) if end >= 0 else None
        text = None if rows is None else _TEXT[form.member](rows)
        if text is not None:
            found[form.member] = digest = digest_bytes(text)
            short = f'"{form.member}": "{digest}"'
            data = data[:start] + short.encode() + data[end + len(form.closing) :]
    if not found:
        return None
    try:
        document = parse_json(data, what=what, limit=limit)
    except UnsafeFormatError:
        return None  # the strict parser says why, of the whole file
    model = document.get("model") if isinstance(document, dict) else None
    for member, digest in found.items():
        stood = isinstance(model, dict) and model.get(member) == digest
        if not stood or data.count(digest.encode()) != 1:
            return None
    return document


def _forms(indent: bytes) -> tuple[_Form, ...]:
    two, three, four = (b"\n" + indent * depth for depth in (2, 3, 4))
    left, right = three + b"[" + four + b'"', b'"' + three + b"]"
    vocab, merges, end = b'"vocab": {', b'"merges": [', two + b"]"
    return (
        _Form("vocab", vocab + three + b'"', b"," + three + b'"', b'": ', two + b"}"),
        _Form("merges", merges + left, right + b"," + left, b'",' + four + b'"', right + end),
        _Form("merges", merges + three + b'"', b'",' + three + b'"', b" ", b'"' + end),
    )


def _rows(body: bytes, form: _Form) -> bytes | None:
    """Return the rows with one byte between rows and one between columns, ``None`` if irregular.

    Every quote and every control character of ``body`` is then known to be in a break, and every
    backslash in one of the two escapes.
    """
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if _COLUMN in body:
        return None
    text = body.replace(form.row_break, _ROW)
    breaks = (len(body) - len(text)) // (len(form.row_break) - 1)
    text = _ESCAPE.sub(_short_escape, text)
    text = text.replace(form.column_break, _COLUMN)
    controls = text.translate(None, _NOT_CONTROL)
    if b"\\" in text or b'"' in text or controls != (_COLUMN + _ROW) * breaks + _COLUMN:
        return None
    return text


def _short_escape(match: re.Match[bytes]) -> bytes:
    return _QUOTE if match.group() == b'\\"' else _BACKSLASH


def _vocabulary(rows: bytes) -> bytes | None:
    cells = rows.replace(_ROW, _COLUMN).split(_COLUMN)
    names, numbers = cells[::2], cells[1::2]
    apart = _COLUMN + (_ROW + _COLUMN).join(numbers) + _ROW
    if (
        not apart.translate(None, _COLUMN + _ROW).isdigit()
        or _COLUMN + _ROW in apart
        or max(map(len, numbers)) > _MOST_DIGITS
        or apart.count(_COLUMN + b"0") != apart.count(_COLUMN + b"0" + _ROW)  # a zero in front
        or len(set(names)) != len(names)
    ):
        return None
    plain = rows.replace(_QUOTE, b'"').replace(_BACKSLASH, b"\\")
    text = _ROW.join(sorted(plain.split(_ROW)))  # UTF-8 sorts as its code points do
    text = text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'[["' + text.replace(_COLUMN, b'",').replace(_ROW, b'],["') + b"]]"


def _merges(rows: bytes) -> bytes:
    text = rows.replace(_COLUMN, b'","').replace(_ROW, b'"],["')
    return b'[["' + text.replace(_QUOTE, b'\\"').replace(_BACKSLASH, b"\\\\") + b'"]]'


_TEXT = {"vocab": _vocabulary, "merges": _merges}
