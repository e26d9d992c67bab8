"""One model on the three prompt sets, and two such measurements beside each other.

- A refusal rate never stands alone: over-refusal on plain and on scary-sounding harmless
  prompts, and the likelihood of answers the model gave before, are part of the same value.
- Rates are also kept per form. A lock built from imperatives can lose refusals of questions
  while the total rises, so a comparison counts what each form lost, not the difference alone.
- Two evaluations compare only if they asked the same prompts in the same way; the tests are
  paired, prompt by prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.digest import digest_json
from registry.errors import UsageError
from registry.measure.generate import answers
from registry.measure.scorer import SCORER, is_refusal
from registry.measure.statistics import Rate, bootstrap_mean_difference, mcnemar_exact
from registry.measure.utility import answer_nll, exact_match

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from registry.measure.prompts import Prompt, PromptSet

SETS = ("harmful", "harmless", "scary")


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt set, what the model answered, and which answers refuse.

    Attributes:
        prompts: What was asked.
        answers: The answer to each prompt.
        refused: Whether the scorer takes each answer for a refusal.
    """

    prompts: PromptSet[Prompt]
    answers: tuple[str, ...]
    refused: tuple[bool, ...]

    @property
    def rate(self) -> Rate:
        """Share of refused prompts."""
        return Rate.of(self.refused)

    def by_form(self) -> dict[str, tuple[bool, ...]]:
        """Return the refusals of each form that is in the set, forms in alphabetical order."""
        forms = sorted({row.form for row in self.prompts.rows})
        pairs = list(zip(self.prompts.rows, self.refused, strict=True))
        return {form: tuple(no for row, no in pairs if row.form == form) for form in forms}

    def to_dict(self) -> dict[str, Any]:
        """Return prompts' description, rate, and rate per form, for receipts."""
        return {
            "prompts": self.prompts.describe(),
            "rate": self.rate.to_dict(),
            "forms": {form: Rate.of(seen).to_dict() for form, seen in self.by_form().items()},
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one model did.

    Attributes:
        harmful: Prompts that should be refused.
        harmless: Prompts that should be answered.
        scary: Prompts that sound harmful and should be answered.
        own_answers: The (prompt, answer) pairs whose likelihood was taken.
        nll: Nats per answer token of each of ``own_answers``.
        scorer: Name and version of the scorer.
        max_new_tokens: Most tokens of an answer.
        system: System prompt, or ``None`` for the template's own.
    """

    harmful: Asked
    harmless: Asked
    scary: Asked
    own_answers: tuple[tuple[str, str], ...]
    nll: tuple[float, ...]
    scorer: str
    max_new_tokens: int
    system: str | None

    @property
    def refusal(self) -> Rate:
        """Refusal of harmful prompts."""
        return self.harmful.rate

    @property
    def over_refusal(self) -> Rate:
        """Refusal of plain harmless prompts."""
        return self.harmless.rate

    @property
    def scary_refusal(self) -> Rate:
        """Refusal of harmless prompts that sound harmful."""
        return self.scary.rate

    @property
    def mean_nll(self) -> float | None:
        """Mean over answers of nats per answer token; ``None`` when there was no answer."""
        return sum(self.nll) / len(self.nll) if self.nll else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the texts, for receipts; the texts are there as a digest."""
        return {
            "scorer": self.scorer,
            "max_new_tokens": self.max_new_tokens,
            "system": self.system,
            **{name: getattr(self, name).to_dict() for name in SETS},
            "utility": {
                "mean_nll": self.mean_nll,
                "n": len(self.nll),
                "answers": digest_json(self.own_answers),
            },
        }


def evaluate(
    model: Any,
    tokenizer: Any,
    *,
    harmful: PromptSet[Prompt],
    harmless: PromptSet[Prompt],
    scary: PromptSet[Prompt],
    own_answers: Sequence[tuple[str, str]] | None = None,
    max_new_tokens: int = 40,
    batch_size: int = 16,
    system: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Return how often the model refuses each set, and how likely it finds given answers.

    Args:
        model: A causal language model of transformers, or a PEFT model around one.
        tokenizer: Its fast tokenizer.
        harmful: Prompts that should be refused.
        harmless: Prompts that should be answered.
        scary: Prompts that sound harmful and should be answered.
        own_answers: (prompt, answer) pairs to take the likelihood of: the ``own_answers`` of an
            evaluation of the unprotected model. ``None`` takes the answers that this model
            itself gives to the harmless prompts and that are neither empty nor refusals.
        max_new_tokens: Most tokens of an answer.
        batch_size: Conversations at a time.
        system: System prompt; ``None`` leaves the template's own.
        progress: Called with (done, all) prompts after each batch of answers.

    Raises:
        UsageError: a set is empty, or a number is below 1.
        CompatibilityError: the tokenizer cannot ask or place an answer (``generate``).
        NonFiniteResultError: the model gives an answer no finite likelihood.
    """
    sets = (harmful, harmless, scary)
    for name, prompts in zip(SETS, sets, strict=True):
        if not prompts.rows:
            raise UsageError(f"expected at least one {name} prompt, got none.")
    given = answers(
        model,
        tokenizer,
        [text for prompts in sets for text in prompts.texts],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        system=system,
        progress=progress,
    )
    asked: dict[str, Asked] = {}
    for name, prompts in zip(SETS, sets, strict=True):
        own, given = tuple(given[: len(prompts)]), given[len(prompts) :]
        asked[name] = Asked(prompts, own, tuple(is_refusal(answer) for answer in own))
    kept = _answered(asked["harmless"]) if own_answers is None else tuple(own_answers)
    nll = answer_nll(model, tokenizer, kept, batch_size, system=system)
    return Evaluation(
        harmful=asked["harmful"],
        harmless=asked["harmless"],
        scary=asked["scary"],
        own_answers=kept,
        nll=tuple(nll),
        scorer=SCORER,
        max_new_tokens=max_new_tokens,
        system=system,
    )


def compare(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """Return what changed from one evaluation to another, with paired tests.

    Returns:
        Per set ``before``, ``after``, ``difference``, ``only_before`` (refusals lost),
        ``only_after`` (refusals gained), ``p`` (exact McNemar), and the same per form under
        ``forms``; under ``same_answers`` the share of harmless and scary prompts answered with
        the same text; under ``nll`` the change in nats per token with a 95 % interval, or
        ``None`` when no answer was measured.

    Raises:
        UsageError: they asked other prompts, or asked or scored in another way.
    """
    _require_comparable(before, after)
    result: dict[str, Any] = {}
    for name in SETS:
        one, two = getattr(before, name), getattr(after, name)
        forms = two.by_form()
        result[name] = _paired(one.refused, two.refused) | {
            "forms": {form: _paired(seen, forms[form]) for form, seen in one.by_form().items()}
        }
    same = exact_match(
        before.harmless.answers + before.scary.answers,
        after.harmless.answers + after.scary.answers,
    )
    return result | {"same_answers": same.to_dict(), "nll": _nll_change(before, after)}


def _answered(asked: Asked) -> tuple[tuple[str, str], ...]:
    rows = zip(asked.prompts.texts, asked.answers, asked.refused, strict=True)
    return tuple((prompt, answer) for prompt, answer, refused in rows if answer and not refused)


def _require_comparable(before: Evaluation, after: Evaluation) -> None:
    for what in ("scorer", "max_new_tokens", "system"):
        first, second = getattr(before, what), getattr(after, what)
        if first != second:
            raise UsageError(
                f"expected two evaluations with one {what}, got {first!r}, {second!r}."
            )
    for name in SETS:
        one, two = getattr(before, name).prompts, getattr(after, name).prompts
        if one != two:
            raise UsageError(
                f"expected two evaluations of one {name} set, got {one.describe()} and "
                f"{two.describe()}."
            )
    if before.own_answers != after.own_answers:
        raise UsageError(
            "expected likelihoods of the same answers, got two lists of answers.",
            hint="Measure the second with evaluate(..., own_answers=first.own_answers).",
        )


def _paired(before: Sequence[bool], after: Sequence[bool]) -> dict[str, Any]:
    one, two = Rate.of(before), Rate.of(after)
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    gained = sum(b and not a for a, b in zip(before, after, strict=True))
    return {
        "before": one.to_dict(),
        "after": two.to_dict(),
        "difference": two.value - one.value,
        "only_before": lost,
        "only_after": gained,
        "p": mcnemar_exact(lost, gained),
    }


def _nll_change(before: Evaluation, after: Evaluation) -> dict[str, Any] | None:
    if before.mean_nll is None or after.mean_nll is None:
        return None
    interval = bootstrap_mean_difference(before.nll, after.nll)
    return {
        "before": before.mean_nll,
        "after": after.mean_nll,
        "difference": after.mean_nll - before.mean_nll,
        "low": interval.low,
        "high": interval.high,
        "n": len(before.nll),
    }
