"""What a long search has measured so far, in a file beside its result, until the result is there.

- The file says which run it is of: base, kind, options, data, seed, dtype, versions. A run that is
  any different does not go on from it.
- It is written whole after every measurement: a killed run loses the one it was in.
- A run that ends takes it away. A run that ends with nothing found leaves it: it is the evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.digest import canonical_json, digest_json, parse_json
from registry.errors import DigestMismatchError, HostError, UsageError
from registry.plainfile import read_plain
from registry.wholefile import write_file
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA = "safelatch/unfinished/v1"
_LIMIT = 64 << 20


class Unkept:
    """Notes that nobody keeps."""

    def recall(self, key: str) -> Any | None:  # noqa: ARG002 -- the contract's parameter
        """Return ``None``: nothing was kept."""
        return None

    def keep(self, key: str, value: Any) -> None:
        """Do nothing."""


class Unfinished:
    """The notes of one run, in one file that is there while the run is not finished."""

    def __init__(self, out: Path, run: Mapping[str, Any]) -> None:
        """Take up what an interrupted run of the same kind left beside ``out``.

        Args:
            out: Where the result will be.
            run: What the run is of, JSON values.

        Raises:
            UsageError: what is there is of another run.
            DigestMismatchError: what is there was edited.
            UnsafeFormatError, HostError: what is there cannot be read.
        """
        self.path = out.absolute().with_name(f"{out.name}.unfinished")
        self._run = dict(run)
        self._notes: dict[str, Any] = {}
        self.taken_up = 0
        if self.path.exists():
            self._notes = self._read()
            self.taken_up = len(self._notes)

    def recall(self, key: str) -> Any | None:
        """Return what was kept under ``key``."""
        return self._notes.get(key)

    def keep(self, key: str, value: Any) -> None:
        """Keep ``value`` on the disk.

        Raises:
            HostError: the file cannot be written.
        """
        self._notes[key] = value
        document = {"schema": SCHEMA, "run": self._run, "notes": self._notes}
        document["digest"] = digest_json(self._notes)
        try:
            write_file(self.path, canonical_json(document))
        except OSError as error:
            raise HostError(
                f"{self.path}: expected to write down what was measured, {error.strerror}.",
                hint="Make room there, or name another place with --out.",
            ) from error

    def finish(self) -> None:
        """Take the file away: the result is there."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        repair = f"Remove it to begin anew: {self.path}; or name another place with --out."
        data = read_plain(self.path, limit=_LIMIT, hint=repair)
        document = parse_json(data, what=self.path.name, limit=_LIMIT, hint=repair)
        held = document if isinstance(document, dict) else {}
        run, notes = held.get("run"), held.get("notes")
        if held.get("schema") != SCHEMA or not isinstance(run, dict) or not isinstance(notes, dict):
            raise UsageError(
                f"{self.path.name}: expected the notes of an unfinished run, got something else.",
                hint=repair,
            )
        if held.get("digest") != (got := digest_json(notes)):
            raise DigestMismatchError(
                f"{self.path.name}: expected notes of digest {held.get('digest')!r:.120}, got "
                f"{got}: somebody edited them.",
                hint=repair,
            )
        if canonical_json(run) != canonical_json(self._run):
            names = sorted({*run, *self._run})
            differing = [
                f"{name}: expected {self._run.get(name)!r:.120}, got {run.get(name)!r:.120}"
                for name in names
                if run.get(name) != self._run.get(name)
            ]
            raise UsageError(
                f"{self.path.name}: expected the notes of this run, got those of another one:"
                f"{listed(differing)}",
                hint=repair,
            )
        return notes
