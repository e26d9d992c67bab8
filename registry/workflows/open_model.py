"""A checkpoint on disk becomes a live model, and is proven to be the one that was read.

- Only safetensors are loaded; nothing that could run a repository's code or replace the weights
  that were checked is let through to ``from_pretrained``.
- After loading, sampled values of every tensor and the config that is in force are compared with
  what was read from the files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.checkpoint.config import computation_fields, differing_fields
from registry.errors import CheckpointNotFoundError, UsageError, VerificationError
from registry.live.compare import require_same_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from registry.workflows.identify import Identified

REFUSED = {
    "trust_remote_code": "it runs the repository's code",
    "state_dict": "it replaces the weights that were checked",
    "gguf_file": "it loads other weights than those that were checked",
    "config": "it replaces the config that was checked",
    "subfolder": "it loads from another place than was checked; name that folder as the model",
    "adapter_kwargs": "it loads an adapter; merge it first",
    "variant": "it loads other files than those that were checked",
}
"""Arguments of ``from_pretrained`` that are refused, and why."""


def require_plain_arguments(arguments: Mapping[str, Any]) -> None:
    """Check arguments meant for ``from_pretrained``.

    Raises:
        UsageError: one of them would load something that was not checked.
    """
    for name, reason in REFUSED.items():
        if arguments.get(name):
            raise UsageError(
                f"expected a load without {name}={arguments[name]!r:.60}: {reason}.",
                hint=f"Leave {name} out.",
            )
    if arguments.get("use_safetensors") is False:
        raise UsageError("expected use_safetensors, pickled weights can run code and are refused.")


def open_model(model: Identified, **arguments: Any) -> PreTrainedModel:
    """Load ``model`` as a causal language model and prove that it is what was identified.

    Args:
        model: What was read and checked.
        **arguments: Passed to ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        UsageError: see ``require_plain_arguments``; or ``model`` is a single file.
        VerificationError: the loaded model is not the checkpoint that was read.
    """
    from transformers import AutoModelForCausalLM

    require_plain_arguments(arguments)
    if model.path.is_file():
        raise UsageError(
            f"expected a model's folder to load, got the file {model.path}.",
            hint=f"Name the folder: {model.path.parent}",
        )
    arguments.pop("use_safetensors", None)
    for name in REFUSED:
        arguments.pop(name, None)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        model.path, use_safetensors=True, local_files_only=True, **arguments
    )
    require_same_values(loaded, model.record)
    _require_same_config(loaded, model)
    return loaded


def open_tokenizer(model: Identified) -> Any:
    """Return the tokenizer beside the weights.

    Raises:
        CheckpointNotFoundError: there is none.
    """
    from transformers import AutoTokenizer

    folder = model.path if model.path.is_dir() else model.path.parent
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if not any((folder / name).is_file() for name in names):
        raise CheckpointNotFoundError(
            f"expected a tokenizer beside the weights ({', '.join(names)}) at {folder}, "
            "found none.",
            hint="Save it there: tokenizer.save_pretrained(FOLDER)",
        )
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _require_same_config(loaded: Any, model: Identified) -> None:
    live = computation_fields(loaded.config.to_dict(), model.record.geometry)
    different = differing_fields(model.record.config, live)
    if different:
        listed = "".join(
            f"\n  {field}: expected {expected!r}, got {got!r}" for field, expected, got in different
        )
        raise VerificationError(
            f"the loaded model computes with another config than was checked:{listed}",
            hint="Leave config overrides out of the load.",
        )
