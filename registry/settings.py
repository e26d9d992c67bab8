"""Settings: flags over environment over defaults, read once into one frozen value.

SAFELATCH_HOME     folder of the default registry    (default: the user's data folder)
SAFELATCH_DB       database URL                      (default: sqlite in SAFELATCH_HOME)
SAFELATCH_BLOBS    folder of the stored bundles      (default: beside the SQLite file)
SAFELATCH_CACHE    folder of fingerprints seen before (default: the user's cache folder)
SAFELATCH_RECEIPTS folder of load receipts           (default: the user's state folder)
SAFELATCH_RECEIPT_KEY  private key that signs them   (default: none; they stay unsigned)
SAFELATCH_LINES    folder of signed lines seen       (default: the user's state folder)
SAFELATCH_POLICY   policy file of every load          (default: none)

A leading ``~`` is the home folder in each of them, but not in a URL.
"""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SQLITE = "sqlite:///"
_PLACE = "the path of a SQLite file or the URL of a database"
_NAME_REGISTRY = "Name the registry: --db URL, or export SAFELATCH_DB=URL"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where this process keeps things.

    Attributes:
        db_url: SQLAlchemy URL of the registry.
        blobs: Folder of content-addressed files.
        cache: Folder of fingerprints of files seen before; safe to delete.
    """

    db_url: str
    blobs: Path
    cache: Path

    @classmethod
    def load(cls, db_url: str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the settings of this process.

        Args:
            db_url: The value of ``--db``: a URL, or the path of a SQLite file; ``None`` for
                the environment's or the default.
            environ: Environment to read; the process's own by default.

        Raises:
            UsageError: a database server is named and no folder for blobs is; a text that can be
                no path is named; or no folder is, and the user has no home.
        """
        env = os.environ if environ is None else environ
        try:
            home = _named(env, "SAFELATCH_HOME") or _data_folder(env)
            cache = _named(env, "SAFELATCH_CACHE") or _cache_folder(env)
        except RuntimeError as error:
            raise UsageError(
                "expected a home folder of this user, found none.",
                hint="Name the folders: export SAFELATCH_HOME=/path SAFELATCH_CACHE=/path",
            ) from error
        url = db_url or env.get("SAFELATCH_DB") or f"{_SQLITE}{home / 'registry.db'}"
        if "://" not in url:
            path = _path(url, what=_PLACE, hint=_NAME_REGISTRY)
            url = f"{_SQLITE}{path.absolute()}"
        _require_place(url)
        return cls(db_url=url, blobs=_blob_folder(url, env), cache=cache)

    @property
    def sqlite_path(self) -> Path | None:
        """The SQLite file, or ``None`` when the registry is on a server or in memory."""
        path = self.db_url.removeprefix(_SQLITE)
        if path == self.db_url or not path or path == ":memory:":
            return None
        return Path(path)


def receipt_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of load receipts; asked for only when there is one to write.

    Raises:
        OSError: none is named, and the user has no home.
    """
    return _state(os.environ if environ is None else environ, "SAFELATCH_RECEIPTS", "receipts")


def receipt_key(environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the private key that signs load receipts, if one is named.

    Raises:
        UsageError: what is named can be no path.
    """
    return _named(os.environ if environ is None else environ, "SAFELATCH_RECEIPT_KEY", "key")


def line_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of the signed lines that were seen where no registry remembers them.

    Raises:
        OSError: none is named, and the user has no home.
    """
    return _state(os.environ if environ is None else environ, "SAFELATCH_LINES", "lines")


def policy_file(environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the policy file of this process, if one is named.

    Raises:
        UsageError: what is named can be no path.
    """
    return _named(os.environ if environ is None else environ, "SAFELATCH_POLICY", "file")


def _state(env: Mapping[str, str], variable: str, name: str) -> Path:
    named = env.get(variable)
    try:
        return Path(named).expanduser() if named else _state_folder(env) / name
    except RuntimeError as error:
        place = named or name
        raise FileNotFoundError(errno.ENOENT, "this user has no home folder", place) from error


def _named(env: Mapping[str, str], variable: str, kind: str = "folder") -> Path | None:
    text = env.get(variable)
    if not text:
        return None
    what = f"the path of a {kind} in {variable}"
    return _path(text, what=what, hint=f"Name one: export {variable}=/path")


def _path(text: str, *, what: str, hint: str) -> Path:
    if not _can_be_path(text):
        raise UsageError(f"expected {what}, got {text!r}.", hint=hint)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"expected {what}, got {text!r}: nobody's home.", hint=hint) from error


def _require_place(url: str) -> None:
    """Raise ``UsageError`` if no database can be at ``url``; a password in it is not shown."""
    path = url.removeprefix(_SQLITE)
    if not _can_be_path(url) or (path and not Path(path).name):
        shown = path if path != url else f"{url.partition('://')[0]}://..."
        raise UsageError(f"expected {_PLACE}, got {shown!r}.", hint=_NAME_REGISTRY)


def _can_be_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half a character
        return False


def _blob_folder(url: str, env: Mapping[str, str]) -> Path:
    named = _named(env, "SAFELATCH_BLOBS")
    if named is not None:
        return named
    path = url.removeprefix(_SQLITE)
    if path != url and path and path != ":memory:":
        return Path(path).with_name("blobs")
    raise UsageError(
        f"expected a folder for the blobs of a {url.partition('://')[0]} database, got none.",
        hint="Name one: export SAFELATCH_BLOBS=/path/to/blobs",
    )


def _data_folder(env: Mapping[str, str]) -> Path:
    if sys.platform == "win32":
        return Path(env.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "safelatch"
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support/safelatch"
    return Path(env.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "safelatch"


def _cache_folder(env: Mapping[str, str]) -> Path:
    if sys.platform == "win32":
        return _data_folder(env) / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/safelatch"
    return Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safelatch"


def _state_folder(env: Mapping[str, str]) -> Path:
    if sys.platform in {"win32", "darwin"}:
        return _data_folder(env)
    return Path(env.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "safelatch"
