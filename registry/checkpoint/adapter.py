"""A LoRA folder: which modules it changes, and its factors, read as strictly as a checkpoint.

An adapter adds scale * B @ A to weights of a base that it does not hold. Rules:

- ``adapter_config.json`` beside ``adapter_model.safetensors``, as PEFT writes them; a pickle is
  never opened.
- Every tensor of the file is accounted for: a pair of factors of a module that the config names,
  of the rank that the config says; a bias of B; or a tensor that replaces one of the base.
- **Digest**: BLAKE3 over the canonical JSON of each module's scale and the sorted list of [name,
  dtype, shape, BLAKE3 of the tensor's bytes]: two configs that mean the same are one adapter.
- The opening reads bytes for their digest alone. Factors become numbers when they are asked for,
  one module at a time: of an adapter that fits nothing, never.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import TYPE_CHECKING

from registry.checkpoint._adapter_config import (
    CONFIG,
    CONFIG_LIMIT,
    SAVE_AGAIN,
    read_settings,
)
from registry.checkpoint._adapter_tensors import WEIGHTS, account
from registry.checkpoint._layout import INDEX
from registry.checkpoint.reader import Checkpoint
from registry.checkpoint.record import Entry
from registry.checkpoint.sketch import Sampler
from registry.checkpoint.values import to_float64
from registry.digest import Digest, digest_json, digest_pieces
from registry.errors import CheckpointNotFoundError, EvidenceError
from registry.plainfile import SETTLE, expanded, read_plain, unreadable

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from registry.checkpoint._adapter_config import LoraSettings
    from registry.checkpoint.reader import TensorInfo
    from registry.checkpoint.values import Values

_PICKLE = "adapter_model.bin"


@dataclass(frozen=True, slots=True)
class LoraModule:
    """A module whose weight gets scale * B @ A.

    Attributes:
        name: Of the module in the base, without ``.weight``.
        is_embedding: Whether it is a table of rows, not a matrix that inputs are multiplied by.
        rank: Columns of B and rows of A.
        scale: What B @ A is multiplied by.
        out_features: Rows of B.
        in_features: Columns of A; rows of the table of an embedding.
        has_bias: Whether a bias of B is added to the module's.
    """

    name: str
    is_embedding: bool
    rank: int
    scale: float
    out_features: int
    in_features: int
    has_bias: bool

    @property
    def weight(self) -> str:
        """Name of the tensor that it changes."""
        return f"{self.name}.weight"


@dataclass(frozen=True, slots=True)
class Replaced:
    """A tensor that the adapter holds whole, with its sketch."""

    entry: Entry
    sketch: bytes


def is_adapter(folder: Path) -> bool:
    """Return whether ``folder`` holds an adapter, readable or not, and no model's weights."""
    if not (folder / CONFIG).is_file() or (folder / INDEX).exists():
        return False
    return not any(not file.name.startswith("adapter_") for file in folder.glob("*.safetensors"))


class Adapter:
    """An open adapter; a context manager.

    Attributes:
        folder: Where it is.
        digest: Its identity.
        modules: What gets factors, sorted by name.
        replaced: What it holds whole, by the name of the base's tensor, sorted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._text = _read_config(folder)
        settings = read_settings(self._text)
        if not (folder / WEIGHTS).is_file():
            raise _no_weights(folder)
        self._checkpoint = Checkpoint.open(folder / WEIGHTS)
        try:
            self._names = {info.name: name for name, info in self._checkpoint.tensors.items()}
            self._settings = settings
            self._tensors = account(self._infos(), settings)
            self._norms: dict[str, float] = {}
            self._digests: dict[str, Digest] = {}
            self.replaced = dict(self._read_replaced())
            self.modules = tuple(self._read_modules(settings))
            self.digest = self._measure()
            self.require_unchanged()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Adapter:
        """Open an adapter and read it once.

        Raises:
            CheckpointNotFoundError: there is no adapter in ``folder``, or it is a pickle.
            UnsafeFormatError: a file breaks its format, or the two contradict each other.
            SchemaViolationError: the config has another form than PEFT writes.
            CompatibilityError: it changes weights in another way than a plain LoRA.
            EvidenceError: a file was written meanwhile.
        """
        try:
            return cls(expanded(folder))
        except OSError as error:
            hint = "Name a folder that can be read."
            raise unreadable(expanded(folder), error, hint=hint) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self._checkpoint.close()

    def factors(self, module: LoraModule) -> tuple[Values, Values]:
        """Return B, [out_features, rank], and A, [rank, in_features], in float64."""
        b, a = (self._values(name) for name in self._pair(module.name))
        return b, a

    def norm(self, module: LoraModule) -> float:
        """Return the Frobenius norm of scale * B @ A; 0 only where that is 0 everywhere.

        Accurate to 1e-6 and better, unless the columns of B cancel each other to below 1e-5 of
        what they are: then it is no less than 1e-8 of that.
        """
        if module.name not in self._norms:
            b, a = self.factors(module)
            self._norms[module.name] = abs(module.scale) * _norm_of_product(b, a)
        return self._norms[module.name]

    def bias(self, module: LoraModule) -> Values:
        """Return the bias of B, not scaled: [out_features]."""
        return self._values(self._tensors.factors[module.name]["bias of B"].name)

    def is_filled_at_random(self, module: str) -> bool:
        """Return whether a loader makes up the factors of ``module``, which the file lacks."""
        known = self._tensors.factors
        return self._settings.is_random and module not in known and self._settings.is_target(module)

    def require_unchanged(self) -> None:
        """Raise ``EvidenceError`` if a file was written or replaced since the opening."""
        self._checkpoint.require_unchanged()
        if _read_config(self.folder) != self._text:
            raise EvidenceError(
                f"{self.folder / CONFIG}: expected it to stay as it was, got a change meanwhile.",
                hint=SETTLE,
            )

    def _infos(self) -> dict[str, TensorInfo]:
        return {info.name: info for info in self._checkpoint.tensors.values()}

    def _pair(self, module: str) -> tuple[str, str]:
        found = self._tensors.factors[module]
        kind = "embedding " if "embedding A" in found else ""
        return found[f"{kind}B"].name, found[f"{kind}A"].name

    def _values(self, stored: str) -> Values:
        info = self._checkpoint.tensors[self._names[stored]]
        raw = self._checkpoint.read(self._names[stored])
        return to_float64(raw, info.dtype).reshape(info.shape)

    def _read_modules(self, settings: LoraSettings) -> Iterator[LoraModule]:
        for name, found in sorted(self._tensors.factors.items()):
            b, a = (self._checkpoint.tensors[self._names[role]] for role in self._pair(name))
            yield LoraModule(
                name=name,
                is_embedding="embedding A" in found,
                rank=a.shape[0],
                scale=settings.scale_of(name),
                out_features=b.shape[0],
                in_features=a.shape[1],
                has_bias="bias of B" in found,
            )

    def _read_replaced(self) -> Iterator[tuple[str, Replaced]]:
        for name, info in sorted(self._tensors.whole.items()):
            sampler = Sampler(name, info.dtype, info.shape)
            digest = digest_pieces(_sampled(self._checkpoint, self._names[info.name], sampler))
            self._digests[info.name] = digest
            yield name, Replaced(Entry(name, info.dtype, info.shape, digest), sampler.bits())

    def _measure(self) -> Digest:
        tensors = [
            [name, info.dtype, list(info.shape), self._digests.get(name) or self._digest_of(name)]
            for name, info in sorted(self._infos().items())
        ]
        scales = {module.name: module.scale for module in self.modules}
        return digest_json({"method": "lora", "scales": scales, "tensors": tensors})

    def _digest_of(self, stored: str) -> Digest:
        return digest_pieces(self._checkpoint.pieces(self._names[stored]))


def _sampled(checkpoint: Checkpoint, name: str, sampler: Sampler) -> Iterator[memoryview]:
    for piece in checkpoint.pieces(name):
        sampler.add(piece)
        yield piece


def _norm_of_product(b: Values, a: Values) -> float:
    """Return the Frobenius norm of B @ A: its square is the sum of (B'B) * (AA').

    Columns and rows are taken at one size, so that no square is 0 or infinite by itself. What
    cancels below the rounding of the sum is that rounding: a change must not vanish by it.
    """
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        (columns, outer), (rows, inner) = _gram(b.T), _gram(a)
        sizes = columns * rows
        largest = float(sizes.max(initial=0.0))
        if not 0.0 < largest < inf:
            return largest
        outer *= inner
        outer *= sizes[:, None] / largest
        outer *= sizes / largest
        rounding = float(np.finfo(np.float64).eps) * float(np.abs(outer).sum())
        return largest * sqrt(max(float(outer.sum()), rounding))


def _gram(rows: Values) -> tuple[Values, Values]:
    """Return the largest magnitude of each row, and the products of the rows divided by it."""
    import numpy as np

    sizes = np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0))
    scaled = rows / np.where(sizes == 0, 1.0, sizes)[:, None]
    return sizes, scaled @ scaled.T


def _read_config(folder: Path) -> bytes:
    try:
        return read_plain(folder / CONFIG, limit=CONFIG_LIMIT, hint=SAVE_AGAIN)
    except FileNotFoundError:
        raise CheckpointNotFoundError(
            f"expected {CONFIG} in {folder}, found none.",
            hint="Name a folder that PEFT's save_pretrained wrote.",
        ) from None


def _no_weights(folder: Path) -> CheckpointNotFoundError:
    if (folder / _PICKLE).exists():
        return CheckpointNotFoundError(
            f"expected {WEIGHTS} in {folder}, found {_PICKLE}, a pickle.",
            hint="Pickled weights are never opened. Where you trust it, save it again with PEFT: "
            "save_pretrained(OUT, safe_serialization=True)",
        )
    return CheckpointNotFoundError(f"expected {WEIGHTS} in {folder}, found none.", hint=SAVE_AGAIN)
