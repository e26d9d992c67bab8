"""Reading and writing checkpoints of the benchmark: weights and config, no tokenizer."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import torch
    from typing_extensions import Self

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


class open_tensors:  # noqa: N801 -- reads like ``open``
    """The tensors of a checkpoint folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> Self:
        from safetensors import safe_open

        for path in sorted(self._folder.glob("*.safetensors")):
            file = self._stack.enter_context(safe_open(path, framework="pt"))
            self._files.update(dict.fromkeys(file.keys(), file))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def keys(self) -> set[str]:
        """Return the names of all tensors."""
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor, unread."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def get(self, name: str) -> torch.Tensor:
        """Return one tensor."""
        return self._files[name].get_tensor(name)


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint; the caller may change them."""
    with open_tensors(folder) as tensors:
        return {name: tensors.get(name).clone() for name in sorted(tensors.keys())}


def write_weights(
    tensors: dict[str, torch.Tensor],
    folder: Path,
    like: Path,
    *,
    dtype: str | None = None,
    shards: int = 1,
) -> None:
    """Write a checkpoint with the config of ``like``.

    Args:
        tensors: Name to values.
        folder: Made if it is not there.
        like: Folder of the model whose config is copied.
        dtype: ``bf16``, ``fp16`` or ``fp32``; as they are by default.
        shards: How many files.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = read_config(like)
    if dtype is not None:
        target = getattr(torch, DTYPES[dtype])
        tensors = {name: tensor.to(target) for name, tensor in tensors.items()}
        config["dtype"] = DTYPES[dtype]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map, names = {}, sorted(tensors)
    for index in range(shards):
        file = f"model-{index + 1:05}-of-{shards:05}.safetensors"
        part = names[index::shards]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    index_text = json.dumps({"metadata": {}, "weight_map": weight_map}, indent=2)
    (folder / "model.safetensors.index.json").write_text(index_text + "\n", encoding="utf-8")


def state_of(model: Any) -> dict[str, torch.Tensor]:
    """Return a live model's weights as its files name them, a tied head left out."""
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    if not model.config.tie_word_embeddings:
        tied = set()
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def matrices(tensors: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of the tensors with at least two axes, sorted."""
    return sorted(name for name, tensor in tensors.items() if tensor.ndim >= 2)


def linears(tensors: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of the matrices of the decoder layers, sorted."""
    return [name for name in matrices(tensors) if ".layers." in name]
