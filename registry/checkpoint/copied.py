"""A checkpoint's files once more, byte for byte, but for new bits at given places of its tensors.

Headers, the order of tensors and metadata are copied, never made anew, so that nothing but the
tensors' bytes at these places can differ. Files are given in pieces; nothing is written here.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from registry.checkpoint._layout import DOWNLOAD, INDEX
from registry.checkpoint.merged import merged_pieces
from registry.checkpoint.values import item_size
from registry.plainfile import open_plain, read_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy as np

    from registry.checkpoint.adapter import Adapter
    from registry.checkpoint.reader import Checkpoint, TensorInfo
    from registry.checkpoint.sites import Sites

    Patches = Mapping[str, Callable[[], tuple[np.ndarray, np.ndarray]]]

_BESIDE = frozenset({".json", ".jinja", ".md", ".model", ".tiktoken", ".txt"})
"""Suffixes of what is copied with the weights: config, tokenizer, chat templates, texts. Code,
pickles and weights in other formats are left behind."""
_MOST_BESIDE = 256 << 20


class Copy:
    """The files of a copy, in pieces that are read when they are written.

    Args:
        checkpoint: What is copied.
        patches: By tensor, what gives sorted flat places and the bits that go there, as unsigned
            integers of the size of its elements.
        adapter: Factors that are merged into the tensors first.
        sites: The row of the family.

    Attributes:
        names: Of the files.
        is_file: Whether the checkpoint is a single file that was named, not a folder.
        changed: At how many places other bits were put than are copied; complete once all files
            were read to their end.
    """

    def __init__(
        self, checkpoint: Checkpoint, patches: Patches, adapter: Adapter | None, sites: Sites
    ) -> None:
        self._checkpoint, self._patches, self._adapter = checkpoint, patches, adapter
        self._sites = sites
        self._modules = {} if adapter is None else {each.weight: each for each in adapter.modules}
        self.is_file = checkpoint.path.is_file()
        self.changed = 0
        self._beside = list(self._companions())
        self.names = [*self._beside, *(path.name for path in checkpoint.files)]

    def files(self) -> dict[str, Iterable[bytes | memoryview]]:
        """Return every file by name; read to the end in this order, the last one raises on changes.

        Raises:
            EvidenceError: while the last one is read: a file was written meanwhile.
            UnsafeFormatError, HostError: while one is read: see ``Checkpoint.pieces``.
        """
        found: dict[str, Iterable[bytes | memoryview]] = {
            name: self._whole(name) for name in self._beside
        }
        last = self._checkpoint.files[-1]
        for path in self._checkpoint.files:
            found[path.name] = self._pieces(path, is_last=path == last)
        return found

    def _companions(self) -> Iterator[str]:
        folder = self._checkpoint.folder
        for path in sorted([*folder.iterdir(), *folder.glob("additional_chat_templates/*.jinja")]):
            name = path.relative_to(folder).as_posix()
            is_other = name.endswith(".index.json") and (name != INDEX or self.is_file)
            is_other |= name.startswith((".", "adapter_"))
            if path.suffix in _BESIDE and path.is_file() and not is_other:
                yield name

    def _whole(self, name: str) -> Iterator[bytes]:
        path = self._checkpoint.folder / name
        yield read_plain(path, limit=_MOST_BESIDE, hint=DOWNLOAD)

    def _pieces(self, path: Path, *, is_last: bool) -> Iterator[bytes | memoryview]:
        """Yield the bytes of one file of tensors."""
        inside = sorted(
            ((info.offset, name) for name, info in self._checkpoint.tensors.items()
             if info.path == path),
        )  # fmt: skip
        with io.BufferedReader(open_plain(path, hint=DOWNLOAD)) as file:
            yield file.read(inside[0][0]) if inside else file.read()
        for _, name in inside:
            yield from self._tensor(name)
        if is_last:
            self._checkpoint.require_unchanged()
            if self._adapter is not None:
                self._adapter.require_unchanged()

    def _tensor(self, name: str) -> Iterator[bytes | memoryview]:
        info = self._checkpoint.tensors[name]
        module = self._modules.get(name)
        pieces: Iterator[bytes | memoryview] = iter(self._checkpoint.pieces(name))
        if module is not None and self._adapter is not None:
            pieces = merged_pieces(self._checkpoint, self._adapter, module, self._sites)
        patch = self._patches.get(name)
        yield from pieces if patch is None else self._patched(pieces, info, *patch())

    def _patched(
        self,
        pieces: Iterator[bytes | memoryview],
        info: TensorInfo,
        places: np.ndarray,
        bits: np.ndarray,
    ) -> Iterator[memoryview]:
        import numpy as np

        first = low = 0
        for piece in pieces:
            own = np.frombuffer(bytearray(piece), dtype=f"<u{item_size(info.dtype)}")
            high = int(places.searchsorted(first + own.size))
            at = places[low:high] - first
            self.changed += int((own[at] != bits[low:high]).sum())
            own[at] = bits[low:high]
            first, low = first + own.size, high
            yield own.data.cast("B")
