"""References: the text that names an artifact.

    name@version                     a version in the registry
    name                             the newest active version of a line
    blake3:<64 hex>                  an artifact by its digest, in the registry
    file:///dir[#name@version]       a bundle folder, or a directory remote that holds several
    hf://ns/repo[@rev][#name@version]   a repository on the Hugging Face Hub

Law: ``str(Reference.parse(text)) == text`` for every text that parses. Parse at the edge;
below it no function takes a reference as text.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

from registry.errors import ReferenceSyntaxError

Scheme = Literal["registry", "digest", "file", "hf"]

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,94}[a-z0-9])?")
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
)
_VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.+!_-]{0,62}[A-Za-z0-9])?")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}")
_DIGEST = re.compile(r"blake3:[0-9a-f]{64}")  # as in registry.digest, which stands beside this
_FORMS = "NAME[@VERSION], blake3:<64 hex>, file:///DIR[#NAME@VERSION] or hf://NS/REPO[@REV]"


def is_name(text: str) -> bool:
    """Return whether ``text`` can name an artifact line.

    Lower-case ASCII alone, so that no two names differ in case or look alike in another script,
    and a file of this name can be made anywhere: no dot at an end, no device of Windows.
    """
    return (
        _NAME.fullmatch(text) is not None
        and ".." not in text
        and text.partition(".")[0] not in _DEVICES
    )


def require_name(text: str) -> str:
    """Return ``text`` if it can name an artifact line.

    Raises:
        ReferenceSyntaxError: it is not 1 to 96 of ``a-z 0-9 . _ -`` between letters or digits, or
            is the name of a device.
    """
    if not is_name(text):
        raise ReferenceSyntaxError(
            f"expected a name of 1 to 96 characters a-z 0-9 . _ - that starts and ends with a "
            f"letter or digit and is no device such as con or nul, got {text[:120]!r}.",
            hint=f"Use, for example: {suggest_name(text)}",
        )
    return text


def skeleton(name: str) -> str:
    """Return what names that people take for one another have in common, as on PyPI.

    ``my-lock``, ``my_lock`` and ``my.lock`` are ``my-lock``.
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def is_repo_id(text: str) -> bool:
    """Return whether ``text`` has the form of a Hub model id, ``namespace/name``."""
    return _REPO.fullmatch(text) is not None and ".." not in text


def suggest_name(text: str) -> str:
    """Return a valid line or base name close to ``text``."""
    cleaned = re.sub(r"\.{2,}", ".", re.sub(r"[^a-z0-9._-]+", "-", text.lower())).strip("._-")
    cut = cleaned[:96].rstrip("._-")
    return cut if is_name(cut) else f"my-{cut}"[:96].rstrip("._-") if cut else "my-lock"


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference.

    Attributes:
        scheme: Where to look: ``registry``, ``digest``, ``file`` or ``hf``.
        location: Directory (POSIX, absolute), ``ns/repo``, digest, or empty for the registry.
        name: Artifact line, or ``None`` where the location alone decides.
        version: Version text as written, or ``None`` for the newest active one.
        revision: Hub revision, or ``None``.
    """

    scheme: Scheme
    location: str = ""
    name: str | None = None
    version: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return the reference that ``text`` names.

        Raises:
            ReferenceSyntaxError: ``text`` has none of the five forms.
        """
        if _DIGEST.fullmatch(text):
            return cls("digest", location=text)
        if text.startswith("file://"):
            return cls._parse_file(text)
        if text.startswith("hf://"):
            return cls._parse_hub(text)
        name, version = _split_version(text, text)
        return cls("registry", name=name, version=version)

    @classmethod
    def parse_or_path(cls, text: str) -> Reference:
        """Like ``parse``, and an existing local folder (``./lock``) is a ``file://`` reference."""
        looks_like_path = text.startswith((".", "/", "~")) or "/" in text or "\\" in text
        if "://" not in text and looks_like_path:
            return cls.of_folder(text)
        return cls.parse(text)

    @classmethod
    def of_folder(cls, path: str | os.PathLike[str]) -> Reference:
        """Return the reference to a local folder, links resolved as far as they lead.

        Raises:
            ReferenceSyntaxError: it is no path (it holds a NUL, or the home of nobody).
        """
        try:
            real = os.path.realpath(Path(path).expanduser())
        except (OSError, RuntimeError, ValueError) as error:
            raise ReferenceSyntaxError(
                f"expected the path of a folder, got {os.fspath(path)[:160]!r}: {error}.",
                hint="Write the path out: /home/NAME/...",
            ) from error
        return cls("file", location=Path(real).as_posix())

    @classmethod
    def _parse_file(cls, text: str) -> Reference:
        path, separator, fragment = text.removeprefix("file://").partition("#")
        decoded = os.fsdecode(unquote_to_bytes(path))
        if not path.startswith("/") or _quoted(decoded) != path or (separator and not fragment):
            raise _syntax(text)
        name, version = _split_version(fragment, text) if fragment else (None, None)
        return cls("file", location=decoded, name=name, version=version)

    @classmethod
    def _parse_hub(cls, text: str) -> Reference:
        rest, separator, fragment = text.removeprefix("hf://").partition("#")
        repo, at, revision = rest.partition("@")
        if not is_repo_id(repo) or (separator and not fragment):
            raise _syntax(text)
        if at and (not _REVISION.fullmatch(revision) or ".." in revision):
            raise _syntax(text)
        name, version = _split_version(fragment, text) if fragment else (None, None)
        return cls("hf", location=repo, name=name, version=version, revision=revision or None)

    def __str__(self) -> str:
        line = "" if self.name is None else self.name + (f"@{self.version}" if self.version else "")
        if self.scheme == "registry":
            return line
        if self.scheme == "digest":
            return self.location
        fragment = f"#{line}" if line else ""
        if self.scheme == "file":
            return f"file://{_quoted(self.location)}{fragment}"
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.location}{revision}{fragment}"


def _quoted(path: str) -> str:
    """Return ``path`` percent-encoded; its bytes need not be text."""
    return quote(os.fsencode(path))


def _split_version(text: str, whole: str) -> tuple[str, str | None]:
    name, at, version = text.partition("@")
    if not is_name(name) or (at and not _VERSION.fullmatch(version)):
        raise _syntax(whole)
    return name, version or None


def _syntax(text: str) -> ReferenceSyntaxError:
    shown = re.sub(r"(?<=//)[^/@]*@", "...@", text)  # what stands there may be a password
    return ReferenceSyntaxError(
        f"expected {_FORMS}, got {shown[:160]!r}.", hint="List what is there: safelatch list"
    )
