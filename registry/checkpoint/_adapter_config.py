"""What an ``adapter_config.json`` says about the weights of a LoRA, read as PEFT reads it.

- The fields that change the weights are ``r``, ``lora_alpha``, their two patterns, ``use_rslora``,
  and what says which modules are touched. A pattern is looked up as PEFT does: the first of the
  file that matches the end of the module's name wins.
- Everything else that changes the weights (another method, a variant, an initialisation that edits
  the base) is refused; so is a field that is not known here and is set.
- A pattern is a name, with or without ``^``, ``$`` and escaped dots. Regular expressions of others
  are never run: one can take longer than anybody waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

from registry.checkpoint._module_names import LONGEST_NAME, NamePattern, ends_in
from registry.digest import parse_json
from registry.errors import CompatibilityError, SchemaViolationError
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CONFIG = "adapter_config.json"
CONFIG_LIMIT = 1 << 20
MOST_RANK = 4096
"""Largest rank that is read; what larger ones change is no low rank."""
MERGE = (
    "Merge it with PEFT and name the merged model: "
    "AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload().save_pretrained(OUT)"
)
"""Hint of every error about an adapter that is not judged as it is."""
SAVE_AGAIN = (
    "Save the adapter again with PEFT, or get it again: hf download NS/NAME --local-dir DIR"
)
"""Hint of every error about an adapter whose files contradict each other."""

_MOST_PATTERNS = 1024
_PLAIN_INIT = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
"""Initialisations after which the stored factors are the whole change; others edit the base."""
_NOT_LINEAR = frozenset({"embed_tokens", "lm_head", "wte"})
"""Ends of names that PEFT leaves out of ``all-linear``: embeddings, and the output head."""
_READ = frozenset({
    "alpha_pattern", "bias", "exclude_modules", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "lora_alpha", "lora_bias", "modules_to_save", "peft_type", "r",
    "rank_pattern", "target_modules", "use_rslora",
})  # fmt: skip
_WITHOUT_EFFECT = frozenset({
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying",
    "eva_config", "fan_in_fan_out", "inference_mode", "lora_dropout", "lora_ga_config",
    "loftq_config", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "task_type",
})  # fmt: skip
"""Fields that change no weight. PEFT sets ``fan_in_fan_out`` by the module that it finds, and what
configures an initialisation does nothing without it."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """The settings of a LoRA that change weights.

    Attributes:
        rank: Of modules that no pattern names.
        alpha: The same.
        ranks: Patterns with their rank, in the order of the file.
        alphas: Patterns with their alpha, in the order of the file.
        is_rank_stabilised: Whether the scale is alpha / sqrt(rank), not alpha / rank.
        bias: ``none``, ``all`` or ``lora_only``: which biases of the base are replaced.
        has_lora_bias: Whether B has a bias of its own.
        targets: Ends of the names of modules that have factors; ``None`` for all linear ones.
        excluded: Ends of the names of those that have none.
        layers: Layers that have factors; ``None`` for all.
        layer_lists: Names of the lists in which layers are counted; empty for any.
        saved: Ends of the names of modules that are replaced as a whole.
        is_random: Whether a loader fills factors that the file does not have at random.
    """

    rank: int
    alpha: float
    ranks: tuple[tuple[NamePattern, int], ...]
    alphas: tuple[tuple[NamePattern, float], ...]
    is_rank_stabilised: bool
    bias: str
    has_lora_bias: bool
    targets: frozenset[str] | None
    excluded: frozenset[str]
    layers: frozenset[int] | None
    layer_lists: frozenset[str]
    saved: tuple[str, ...]
    is_random: bool

    def rank_of(self, module: str) -> int:
        """Return the rank that ``module`` has."""
        return next((rank for key, rank in self.ranks if key.matches(module)), self.rank)

    def scale_of(self, module: str) -> float:
        """Return what B @ A of ``module`` is multiplied by."""
        alpha = next((alpha for key, alpha in self.alphas if key.matches(module)), self.alpha)
        rank = self.rank_of(module)
        return alpha / (sqrt(rank) if self.is_rank_stabilised else rank)

    def is_target(self, module: str) -> bool:
        """Return whether ``module`` has factors, for a loader."""
        if ends_in(module, self.excluded):
            return False
        if any(f".{name}." in f".{module}." for name in self.saved):
            return False
        if self.targets is None:
            return not ends_in(module, _NOT_LINEAR)
        if module in self.targets:
            return True
        if not ends_in(module, self.targets):
            return False
        return self.layers is None or self._layer(module) in self.layers

    def is_replaced(self, module: str) -> bool:
        """Return whether ``module`` or one that holds it is replaced as a whole."""
        holders = (module[:end] for end, letter in enumerate(module) if letter == ".")
        return any(holder.endswith(self.saved) for holder in (*holders, module))

    def _layer(self, module: str) -> int | None:
        """Return the first number that counts modules of a list, as PEFT finds it."""
        parts = module.split(".")
        for index in range(1 if self.layer_lists else 2, len(parts) - 1):
            if not (parts[index].isascii() and parts[index].isdecimal()):
                continue
            if not self.layer_lists or parts[index - 1] in self.layer_lists:
                return int(parts[index])
        return None


def read_settings(data: bytes) -> LoraSettings:
    """Return the settings of the LoRA that ``data``, an ``adapter_config.json``, describes.

    Raises:
        UnsafeFormatError: it is not strict JSON.
        SchemaViolationError: a field has another form than PEFT writes; all are listed.
        CompatibilityError: it is no plain LoRA; every setting that makes it another is listed.
    """
    document = parse_json(data, what=CONFIG, limit=CONFIG_LIMIT, hint=SAVE_AGAIN)
    if not isinstance(document, dict):
        raise SchemaViolationError(
            f"{CONFIG}: expected an object.", ["$: not an object"], hint=SAVE_AGAIN
        )
    _require_plain_lora(document)
    wrong: list[str] = []
    settings = _settings(document, wrong)
    if wrong:
        raise SchemaViolationError(
            f"{CONFIG}: expected the fields of a LoRA, got {len(wrong)} of another form:",
            sorted(wrong),
            hint=SAVE_AGAIN,
        )
    return settings


def _require_plain_lora(document: Mapping[str, Any]) -> None:
    others = []
    if document.get("peft_type") != "LORA":
        others.append(f"peft_type: expected LORA, got {document.get('peft_type')!r:.80}")
    initial = document.get("init_lora_weights")
    if not any(initial is item or (item and initial == item) for item in _PLAIN_INIT):
        others.append(f"init_lora_weights: {initial!r:.80} edits the base when it is loaded")
    others += [
        f"{name:.80}: expected it to be off, got {document[name]!r:.80}"
        for name in sorted(document.keys() - _READ - _WITHOUT_EFFECT)
        if document[name]
    ]
    others += [
        f"{name}: expected names, got a regular expression: {text!r:.80}"
        for name, text in _expressions(document)
    ]
    if others:
        raise CompatibilityError(
            f"{CONFIG}: expected a plain LoRA, got {len(others)} settings of another kind:"
            f"{listed(others)}",
            hint=MERGE,
        )


def _expressions(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each field with a text in it that would have to be run as a regular expression."""
    targets, excluded = document.get("target_modules"), document.get("exclude_modules")
    if isinstance(targets, str) and targets != "all-linear":
        yield "target_modules", targets
    if isinstance(excluded, str) and excluded:
        yield "exclude_modules", excluded
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = document.get(name)
        for key in patterns if isinstance(patterns, dict) else ():
            if not NamePattern.allows(key):
                yield name, key


def _settings(document: Mapping[str, Any], wrong: list[str]) -> LoraSettings:
    def flag(name: str) -> bool:
        value = document.get(name)
        if value is not None and not isinstance(value, bool):
            wrong.append(f"$.{name}: expected true or false, got {value!r:.80}")
        return value is True

    def names(name: str) -> tuple[str, ...]:
        value = document.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            wrong.append(f"$.{name}: expected a list of names, got {value!r:.80}")
            return ()
        return tuple(sorted(set(value)))

    bias = document.get("bias", "none")
    if bias not in ("none", "all", "lora_only"):
        wrong.append(f"$.bias: expected none, all or lora_only, got {bias!r:.80}")
    lists = document.get("layers_pattern")
    is_everything = document.get("target_modules") == "all-linear"
    return LoraSettings(
        rank=_rank(document.get("r", 8), "$.r", wrong),
        alpha=_alpha(document.get("lora_alpha", 8), "$.lora_alpha", wrong),
        ranks=_patterns(document, "rank_pattern", _rank, wrong),
        alphas=_patterns(document, "alpha_pattern", _alpha, wrong),
        is_rank_stabilised=flag("use_rslora"),
        bias=str(bias),
        has_lora_bias=flag("lora_bias"),
        targets=None if is_everything else frozenset(names("target_modules")),
        excluded=frozenset(names("exclude_modules")),
        layers=_layers(document.get("layers_to_transform"), wrong),
        layer_lists=frozenset(
            (lists,) if isinstance(lists, str) and lists else names("layers_pattern")
        ),
        saved=names("modules_to_save"),
        is_random=_is_random(document),
    )


def _is_random(document: Mapping[str, Any]) -> bool:
    """Return whether factors that are not loaded change the base: only some begin at B @ A = 0."""
    initial = document.get("init_lora_weights", True)
    exact = (True, "gaussian") if document.get("lora_bias") else (True, "gaussian", "eva", "mica")
    return initial not in exact


def _rank(value: Any, where: str, wrong: list[str]) -> int:
    if type(value) is int and 0 < value <= MOST_RANK:
        return value
    wrong.append(f"{where}: expected a rank of 1 to {MOST_RANK:,}, got {value!r:.80}")
    return 1


def _alpha(value: Any, where: str, wrong: list[str]) -> float:
    if type(value) in (int, float) and isfinite(float(value)):
        return float(value)
    wrong.append(f"{where}: expected a number, got {value!r:.80}")
    return 1.0


def _patterns(
    document: Mapping[str, Any],
    name: str,
    read: Callable[[Any, str, list[str]], Any],
    wrong: list[str],
) -> tuple[tuple[NamePattern, Any], ...]:
    value = document.get(name) or {}
    if not isinstance(value, dict) or len(value) > _MOST_PATTERNS:
        wrong.append(f"$.{name}: expected an object of at most {_MOST_PATTERNS:,} members")
        return ()
    longest = max(map(len, value), default=0)
    if longest > LONGEST_NAME:
        wrong.append(
            f"$.{name}: expected names of at most {LONGEST_NAME} characters, got one of {longest:,}"
        )
        return ()
    return tuple(
        (NamePattern.of(key), read(item, f"$.{name}[{key!r:.80}]", wrong))
        for key, item in value.items()
    )


def _layers(value: Any, wrong: list[str]) -> frozenset[int] | None:
    if value is None or value == []:
        return None
    items = value if isinstance(value, list) else [value]
    if not all(type(item) is int and item >= 0 for item in items):
        wrong.append(f"$.layers_to_transform: expected layers, got {value!r:.80}")
        return None
    return frozenset(items)
