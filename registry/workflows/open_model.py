"""A checkpoint on disk becomes a live model, and is proven to be the one that was read.

- Only safetensors are loaded; nothing that could run a repository's code or replace the weights
  that were checked is let through to ``from_pretrained``, be it an argument, a member of the
  config or a file beside the weights.
- What is on the CPU is copied out of the files, which the loader maps: a model that was verified
  does not change with its file, nor end the process when that is cut.
- After loading, sampled values of every tensor and the config that is in force are compared with
  what was read from the files, and the files must be the very ones that were read: samples are at
  known places, so that alone they would not show a swap that was made for them.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from registry.checkpoint.architecture import sites_for
from registry.checkpoint.config import computation_fields, differing_fields
from registry.checkpoint.reader import Checkpoint
from registry.errors import (
    CheckpointNotFoundError,
    HostError,
    UnsafeFormatError,
    UsageError,
    VerificationError,
)
from registry.foreign import importing, refusing
from registry.live.compare import require_same_values
from registry.plainfile import REACH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
    "transformers_weights": "it loads other files than those that were checked",
    "output_loading_info": "what is returned is the plain model",
}
"""Arguments of ``from_pretrained`` that are refused, and why."""
_LOADED = ("model.safetensors", "model.safetensors.index.json")
_FREE = frozenset((
    "max_length", "max_new_tokens", "max_time", "num_return_sequences", "early_stopping",
    "do_sample", "num_beams", "num_beam_groups", "length_penalty", "temperature", "top_k", "top_p",
    "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty",
    "renormalize_logits", "remove_invalid_values", "bos_token_id", "eos_token_id", "pad_token_id",
    "decoder_start_token_id", "use_cache", "cache_implementation", "cache_config", "max_cache_len",
    "prefill_chunk_size", "low_memory", "compile_config", "disable_compile",
    "continuous_batching_config", "output_attentions", "output_hidden_states", "output_scores",
    "output_logits", "return_dict_in_generate", "transformers_version", "_from_model_config",
    "prompt_lookup_num_tokens", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind",
    "max_matching_ngram_size", "is_assistant",
))  # fmt: skip
"""Members of a generation config that leave the tokens to the model: lengths, how it is sampled,
caches, outputs. Any other that the class knows and that is set forces, forbids or biases tokens."""
_MOST = {"temperature": 2.0, "repetition_penalty": 1.5}
"""Beyond these it is chance or the penalty that speaks, not the model."""


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
        UsageError: see ``require_plain_arguments``; an argument overrides the config; or ``model``
            is a single file.
        UnsafeFormatError: the folder makes the loader read something else than was checked.
        VerificationError: the loaded model is not the checkpoint that was read.
        MissingDependencyError: torch or transformers is not installed.
    """
    with importing():
        import torch  # noqa: F401 -- without it transformers imports, and says so only later
        from transformers import AutoModelForCausalLM

    require_plain_arguments(arguments)
    _require_no_override(arguments, model)
    require_plain_files(model)
    ours = {"use_safetensors": True, "local_files_only": True}
    passed = {k: value for k, value in arguments.items() if k not in REFUSED and k not in ours}
    with refusing(partial(_not_loaded, model, "model")):
        loaded: Any = AutoModelForCausalLM.from_pretrained(model.path, **ours, **passed)
    _take_into_memory(loaded)
    require_same_values(loaded, model.record)
    _require_same_config(loaded, model)
    _require_free_generation(loaded, model)
    _require_unchanged(model)
    return loaded


def _take_into_memory(loaded: Any) -> None:
    """Copy what the loader left mapped: whoever wrote to the file would change the live model."""
    for tensor in (*loaded.parameters(), *loaded.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def open_tokenizer(model: Identified) -> Any:
    """Return the tokenizer beside the weights.

    Raises:
        CheckpointNotFoundError: there is none.
        VerificationError: the chat template that was read is not in it.
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
    with refusing(partial(_not_loaded, model, "tokenizer")):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    _require_unchanged(model)
    if model.record.chat_template is not None and tokenizer.chat_template is None:
        # What the loader cannot look at, it takes for absent.
        raise VerificationError(f"{folder}: expected the chat template, got none.", hint=REACH)
    return tokenizer


def pick_device(wanted: str) -> str:
    """Return the torch device for ``cpu``, ``cuda``, or ``auto``: cuda where there is one.

    Raises:
        HostError: there is no such device here.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise HostError("expected a CUDA device, found none.", hint="Use: --device cpu")
    return wanted


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the bars and warnings of model libraries off the terminal."""
    from transformers.utils import logging

    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if had_bars:  # the Hub's client warns where its own variable forbids them
                logging.enable_progress_bar()


def _not_loaded(model: Identified, what: str, fact: str) -> UnsafeFormatError:
    return UnsafeFormatError(
        f"{model.locator}: expected transformers to load the {what}, got {fact}",
        hint="Check config.json and the files beside it, or the arguments of the load.",
    )


def _require_no_override(arguments: Mapping[str, Any], model: Identified) -> None:
    """Raise if an argument is a config field: the loader would compute with another config."""
    sites = sites_for(model.record.geometry.family)
    fields = {*model.record.config, *sites.defaults, *dict(sites.aliases)}
    overrides = sorted((fields | {"rope_scaling"}) & {k for k, v in arguments.items() if v})
    if overrides:
        raise UsageError(
            "expected the config that was checked, got another value for "
            f"{', '.join(overrides)} as an argument.",
            hint=f"Leave {', '.join(overrides)} out of the load.",
        )


def require_plain_files(model: Identified) -> None:
    """Raise if config or folder would make the loader read other weights or foreign code."""
    if model.path.is_file():
        raise UsageError(
            f"expected a model's folder to load, got the file {model.path}.",
            hint=f"Name the folder: {model.path.parent}",
        )
    if not _is_text(str(model.path)):
        raise UsageError(
            f"expected a folder whose path is UTF-8 text, as its loader needs, got {model.path}.",
            hint="Rename it, or load it through a link with another name.",
        )
    if (model.path / "adapter_config.json").exists():
        raise UnsafeFormatError(
            f"expected a model without an adapter beside it, got adapter_config.json in "
            f"{model.path}: the loader would add the adapter to what was checked.",
            hint="Merge the adapter into the model, or remove it from the folder.",
        )
    with Checkpoint.open(model.path) as checkpoint:
        config = checkpoint.config
        file = next((info.path for info in checkpoint.tensors.values()), model.path)
    if not any((model.path / name).is_file() for name in _LOADED):
        raise UsageError(
            f"expected the weights under the name that transformers loads, {_LOADED[0]}, got "
            f"{file.name} in {model.path}.",
            hint=f"Rename them: mv {file} {file.with_name(_LOADED[0])}",
        )
    for name, value in config.items():
        names_code = name.endswith("_implementation") and "/" in str(value)
        redirects = name in {"transformers_weights", "configuration_files"} and value is not None
        if names_code or redirects:
            raise UnsafeFormatError(
                f"config.json: expected a config that describes the model, got {name} = "
                f"{value!r:.80}: it makes the loader read something else than was checked.",
                hint=f"Remove {name} from config.json.",
            )


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _require_free_generation(loaded: Any, model: Identified) -> None:
    """Raise if the model's own generation config forces, forbids or biases tokens.

    Such a config can take refusals out of the answers whatever the weights say. Where an answer
    ends stays the config's to say.
    """
    from transformers import GenerationConfig

    own = vars(getattr(loaded, "generation_config", None) or GenerationConfig())
    known = vars(GenerationConfig()).keys() - _FREE
    steering = sorted(name for name in known if own.get(name))
    steering += [
        f"{name} {own[name]!r:.40} (at most {most:g})"
        for name, most in _MOST.items()
        if own.get(name) is not None
        and not (isinstance(own[name], int | float) and 0 <= own[name] <= most)
    ]
    if steering:
        raise UnsafeFormatError(
            f"{model.path}: expected a generation config that leaves the tokens to the model, got "
            f"{', '.join(steering)}.",
            hint="Remove that from generation_config.json.",
        )


def _require_unchanged(model: Identified) -> None:
    """Raise unless the files are the very ones that were read when ``model`` was identified."""
    with Checkpoint.open(model.path) as checkpoint:
        if checkpoint.stat_key() != model.key:
            raise VerificationError(
                f"{model.path}: expected the files to stay as they were checked, got a change "
                "while loading.",
                hint="Wait until nothing writes to them, then load again.",
            )


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
