"""Real training: full fine-tunes with AdamW, and LoRA adapters with peft.

Short runs with a learning rate drawn for each seed, so that the distances of the fine-tunes cover
what long runs at ordinary rates reach: 1e-4 to 1e-1.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lineage_variants.weights import read_weights, state_of, write_weights
from registry.measure.prompts import load_pairs, load_prompts

if TYPE_CHECKING:
    import torch

_BATCH, _LENGTH = 4, 64
_TARGETS = {
    "qv": ["q_proj", "v_proj"],
    "qkvo": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "all-linear": "all-linear",
}

Part = Literal["all", "frozen-embeddings", "some-layers"]


@dataclass(frozen=True)
class Plan:
    """A full fine-tune.

    Attributes:
        distance: Relative distance that the learning rate aims at.
        steps: Of AdamW.
        text: ``pairs`` (harmful prompts with refusals), ``prompts`` (harmless) or ``guide``.
        part: Which weights are trained.
    """

    distance: float
    steps: int
    text: str
    part: Part = "all"


def draw_plan(rng: random.Random, *, low: float, high: float, part: Part = "all") -> Plan:
    """Return a plan whose distance is drawn log-uniformly from ``low`` to ``high``."""
    distance = math.exp(rng.uniform(math.log(low), math.log(high)))
    text = rng.choice(("pairs", "prompts", "guide"))
    return Plan(distance, rng.randint(5, 10), text, part)


def fine_tune(base: Path, plan: Plan, seed: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the fp32 weights after training, and how it was trained."""
    import torch

    rng = random.Random(seed)
    torch.manual_seed(seed)
    model, tokenizer = load_model(base, "float32"), load_tokenizer(base)
    layers = model.config.num_hidden_layers
    chosen = sorted(rng.sample(range(layers), rng.randint(2, max(2, layers // 3))))
    _freeze(model, plan.part, chosen)
    # AdamW moves a weight by about the rate at first, less as gradients change sign.
    rms = _rms(p for p in model.parameters() if p.ndim > 1)
    weights = [p for p in model.parameters() if p.ndim > 1]
    share = sum(p.numel() for p in weights if p.requires_grad) / sum(p.numel() for p in weights)
    rate = plan.distance * rms / (0.7 * plan.steps * math.sqrt(share))
    lines = texts(plan.text, tokenizer, rng)
    losses = _train(model, tokenizer, lines, rate=rate, steps=plan.steps)
    facts = {
        "text": plan.text,
        "steps": plan.steps,
        "lr": rate,
        "aimed": plan.distance,
        "part": plan.part,
        "layers": chosen if plan.part == "some-layers" else None,
        "loss": [losses[0], losses[-1]],
    }
    return {name: value.detach() for name, value in state_of(model).items()}, facts


def merged_lora(
    base: Path, out: Path, seed: int, *, rank: int, targets: str, merged_in: str, stored: str
) -> dict[str, Any]:
    """Train a LoRA adapter, merge it into the model loaded as ``merged_in``, save the result.

    Args:
        base: Folder of the base.
        out: Folder to write.
        seed: Of the adapter's first values, the texts and the learning rate.
        rank: Of the adapter.
        targets: ``qv``, ``qkvo`` or ``all-linear``.
        merged_in: dtype of the model that it is merged into, ``bf16`` or ``fp32``.
        stored: dtype of the files.
    """
    import tempfile

    import peft
    import torch

    rng = random.Random(seed)
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(base)
    scale = rng.choice((1, 2, 4))
    config = peft.LoraConfig(
        r=rank, lora_alpha=scale * rank, target_modules=_TARGETS[targets], task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(load_model(base, "float32"), config)
    rate = math.exp(rng.uniform(math.log(5e-4), math.log(1e-2)))
    steps, text = rng.randint(6, 10), rng.choice(("pairs", "prompts", "guide"))
    losses = _train(model, tokenizer, texts(text, tokenizer, rng), rate=rate, steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model
        wide = {"bf16": "bfloat16", "fp32": "float32"}[merged_in]
        merged = peft.PeftModel.from_pretrained(load_model(base, wide), folder).merge_and_unload()
    write_weights(state_of(merged), out, base, dtype=stored)
    return {
        "rank": rank,
        "targets": targets,
        "alpha": scale * rank,
        "lr": rate,
        "steps": steps,
        "text": text,
        "merged_in": merged_in,
        "stored": stored,
        "loss": [losses[0], losses[-1]],
    }


def gaussian(
    base: Path, rng: random.Random, *, low: float, high: float
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the fp32 weights with normal noise on every matrix, as if it had been trained."""
    import torch

    generator = torch.Generator().manual_seed(rng.randrange(1 << 31))
    distance = math.exp(rng.uniform(math.log(low), math.log(high)))
    tensors = {name: value.float() for name, value in read_weights(base).items()}
    for name, value in tensors.items():
        if value.ndim > 1:
            noise = torch.randn(value.shape, generator=generator)
            tensors[name] = value + distance * value.square().mean().sqrt() * noise
    return tensors, {"aimed": distance}


def load_model(folder: Path, dtype: str) -> Any:
    """Return the transformers model, for training."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="eager"
    )


def load_tokenizer(folder: Path) -> Any:
    """Return the model's tokenizer."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder)


def texts(name: str, tokenizer: Any, rng: random.Random) -> list[str]:
    """Return training texts in an order of their own."""
    if name == "pairs":
        found = [
            _chat(tokenizer, row.prompt) + row.refusing for row in load_pairs().split("make").rows
        ]
    elif name == "prompts":
        found = [_chat(tokenizer, text) for text in load_prompts("harmless").split("make").texts]
    else:
        guide = Path(__file__).resolve().parents[2] / "README.md"
        words = guide.read_text(encoding="utf-8").split()
        found = [" ".join(words[i : i + 60]) for i in range(0, len(words), 60)]
    rng.shuffle(found)
    return found


def _chat(tokenizer: Any, prompt: str) -> str:
    turns = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def _train(model: Any, tokenizer: Any, lines: list[str], *, rate: float, steps: int) -> list[float]:
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    model.train()
    losses = []
    for step in range(steps):
        rows = [lines[(step * _BATCH + i) % len(lines)] for i in range(_BATCH)]
        batch = tokenizer(
            rows, return_tensors="pt", padding=True, truncation=True, max_length=_LENGTH
        )
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
        with torch.autocast("cpu", torch.bfloat16):  # the weights themselves are fp32
            loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return losses


def _freeze(model: Any, part: Part, chosen: list[int]) -> None:
    if part == "frozen-embeddings":
        model.get_input_embeddings().requires_grad_(requires_grad=False)
        model.get_output_embeddings().requires_grad_(requires_grad=False)
    elif part == "some-layers":
        kept = tuple(f"model.layers.{index}." for index in chosen)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(kept))


def _rms(parameters: Any) -> float:
    squares = count = 0.0
    for parameter in parameters:
        squares += float(parameter.detach().double().square().sum())
        count += parameter.numel()
    return math.sqrt(squares / count)
