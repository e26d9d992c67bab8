"""What the steps of the demo share: where, with which seed, how much, and whom to tell."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.measure.evaluate import Evaluation, evaluate
from registry.measure.prompts import load_prompts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from registry.measure.prompts import Prompt, PromptSet, Split
    from registry.settings import Settings

    Say = Callable[[str], None]
    Progress = Callable[[str, int, int], None]

SIZES = {"harmful": 40, "harmless": 40, "scary": 20}
"""Prompts of the report split that are asked without ``--full``."""


@dataclass(slots=True)
class Stage:
    """What the steps of the demo share.

    Attributes:
        out: Folder of the registry and the models.
        settings: Settings of a registry in it.
        seed: Seed of every random choice.
        full: Whether everything is measured on all prompts.
        say: Where lines of the story go.
        progress: Called with (stage, done, all).
        kept: (harmless prompt, the source's own answer), once they were asked.
        started: When the story began, on the monotonic clock.
    """

    out: Path
    settings: Settings
    seed: int
    full: bool
    say: Say
    progress: Progress
    kept: list[tuple[str, str]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def title(self, text: str) -> None:
        """Say where we are, with the seconds since the start."""
        self.say(f"\n[{time.monotonic() - self.started:4.0f} s] {text}")

    def prompts(self, split: Split) -> dict[str, PromptSet[Prompt]]:
        """Return the three prompt sets of a split: all rows with ``--full``, else a prefix."""
        sets = {name: load_prompts(name).split(split) for name in SIZES}
        return sets if self.full else {name: sets[name].first(SIZES[name]) for name in SIZES}

    def measure(self, name: str, model: Any, tokenizer: Any, own: Any = None) -> Evaluation:
        """Measure refusal, over-refusal and utility on the report split."""
        asked = self.prompts("report")
        return evaluate(
            model, tokenizer, harmful=asked["harmful"], harmless=asked["harmless"],
            scary=asked["scary"], own_answers=own,
            max_new_tokens=40 if self.full else 24, batch_size=32,
            progress=lambda done, total: self.progress(f"measuring: {name}", done, total),
        )  # fmt: skip
