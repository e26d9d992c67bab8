"""The weights of an artifact's base, opened when the first tensor of them is asked for.

They are where the caller says, or where the registry knows files of the base. A place is a locator,
never identity: every tensor must have the digest that the base record in the artifact states.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.record import BaseRecord
from registry.digest import digest_bytes, short
from registry.errors import (
    BaseModelMismatchError,
    BaseNotFoundError,
    CheckpointNotFoundError,
    DigestMismatchError,
)
from registry.workflows.bases import registered_files
from registry.workflows.find import registry_if_any
from registry.workflows.identify import locate

if TYPE_CHECKING:
    import os
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from registry.artifact.bundle import Bundle
    from registry.checkpoint.record import Entry
    from registry.store.catalog import Registry


class BaseTensors:
    """The tensors of the base of ``bundle``; a context manager that closes what it opened.

    Args:
        bundle: Checked; its manifest names the base, and its record states the digests.
        place: Folder or Hub id of the base; by default the files that the registry knows.
        registry: Where those are looked up; the default registry, if there is one.
    """

    def __init__(
        self,
        bundle: Bundle,
        place: str | os.PathLike[str] | None = None,
        registry: Registry | str | None = None,
    ) -> None:
        self._bundle = bundle
        self._place = place
        self._registry = registry
        self._checkpoint: Checkpoint | None = None
        self._entries: dict[str, Entry] = {}
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()
        self._checkpoint = None

    def read(self, name: str) -> bytes:
        """Return the bytes of tensor ``name``, row-major, in the dtype of the base record.

        Raises:
            CheckpointNotFoundError: the base is not at hand.
            BaseModelMismatchError: what is there has no such tensor, of this dtype and shape.
            DigestMismatchError: it has one with other bytes.
            UnsafeFormatError, HubError: the files break a rule, or the Hub did not give them.
        """
        checkpoint = self._checkpoint = self._checkpoint or self._open()
        promised, expected = self._bundle.manifest.base, self._entries[name]
        info = checkpoint.tensors.get(name)
        wanted = f"{expected.dtype} {list(expected.shape)}"
        got = "none" if info is None else f"{info.dtype} {list(info.shape)}"
        if got != wanted:
            raise BaseModelMismatchError(
                f"{checkpoint.path}: expected {name} of {wanted} as in the base {promised.name} "
                f"({short(promised.weights)}), got {got}.",
                hint=self._other_model(),
            )
        data = checkpoint.read(name)
        digest = digest_bytes(data)
        if digest != expected.digest:
            raise DigestMismatchError(
                f"{checkpoint.path}: expected {name} of {expected.digest} as in the base "
                f"{promised.name}, got {digest}.",
                hint=self._other_model(),
            )
        return data

    def _other_model(self) -> str:
        weights = self._bundle.manifest.base_weights
        return (
            f"Name the base itself, whose weights are {weights}. What a folder holds: "
            "safelatch fingerprint DIR"
        )

    def _open(self) -> Checkpoint:
        record = BaseRecord.from_tensors(self._bundle.base_tensors())
        self._entries = {entry.name: entry for entry in record.entries}
        path = base_files(self._bundle, self._place, self._registry)
        return self._opened.enter_context(Checkpoint.open(path))


def base_files(
    bundle: Bundle,
    place: str | os.PathLike[str] | None = None,
    registry: Registry | str | None = None,
) -> Path:
    """Return where files of the base of ``bundle`` are; what they hold is not looked at.

    Args:
        bundle: Its manifest names the base.
        place: Folder or Hub id of the base; by default the files that the registry knows.
        registry: Where those are looked up; the default registry, if there is one.

    Raises:
        CheckpointNotFoundError: the base is not at hand.
        HubError: the Hub did not give it.
    """
    if place is not None:
        return locate(place)[0]
    promised = bundle.manifest.base
    with registry_if_any(registry) as opened:
        try:
            known = None if opened is None else opened.base(promised.weights)
        except BaseNotFoundError:
            known = None
        if known is None:
            raise CheckpointNotFoundError(
                f"expected the weights of the base {promised.name} "
                f"({short(promised.weights)}), got neither base= nor a registry that has it.",
                hint="Say where it is (base=DIR; --base DIR on the command line), or register "
                "it: safelatch base add MODEL",
            )
        locator, revision = registered_files(known)
    return locate(locator, revision)[0]
