"""What is wrong with a policy although it follows its schema, each finding with its path.

A pattern that is about nothing and a version that is none are refused here: at a load they would
be silent, or past repair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry import moment
from registry.artifact._policy_rules import number, parse_version
from registry.artifact.manifest import unprintable
from registry.artifact.scope import require_pattern
from registry.errors import UsageError
from registry.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from registry.artifact.policy import Exemption, Rule

_Bounds = dict[str, tuple[float, int]]
"""Pattern to the tightest bound that a rule sets for it, and that rule's index."""


def findings_of(
    document: Any, rules: tuple[Rule, ...], exceptions: tuple[Exemption, ...]
) -> list[str]:
    """Return a line for each finding, by path; ``document`` has the texts of both, and comments."""
    return [
        *(line for index, rule in enumerate(rules) for line in _of_rule(f"$.rules[{index}]", rule)),
        *_contradictions(rules),
        *(
            line
            for index, exemption in enumerate(exceptions)
            for line in _of_exception(f"$.exceptions[{index}]", exemption)
        ),
        *unprintable(document),
    ]


def _of_rule(path: str, rule: Rule) -> Iterator[str]:
    if rule.asks_nothing:
        yield f"{path}: expected a rule that requires something, got one that requires nothing"
    for index, pattern in enumerate(rule.bases):
        yield from _pattern(f"{path}.bases[{index}]", pattern)
    for index, requirement in enumerate(rule.require):
        if parse_version(requirement.min_version) is None:
            yield (
                f"{path}.require[{index}].min_version: expected a PEP 440 version, got "
                f"{requirement.min_version!r}"
            )
    for index, source in enumerate(rule.sources):
        yield from _refusal(f"{path}.sources[{index}]", Reference.parse, source)
    low, high = rule.alpha_min, rule.alpha_max
    if low is not None and high is not None and low > high:
        yield f"{path}.alpha: expected min of at most max, got {number(low)} and {number(high)}"


def _of_exception(path: str, exemption: Exemption) -> Iterator[str]:
    for index, text in enumerate(exemption.models):
        if text == "*":
            yield (
                f"{path}.models[{index}]: expected models that are named, got '*' for all of "
                'them, which is "mode": "warn"'
            )
        elif "*" in text or text.startswith("blake3:"):
            yield from _pattern(f"{path}.models[{index}]", text)
    if "all" in exemption.waive and len(exemption.waive) > 1:
        yield f"{path}.waive: expected 'all' alone, got {list(exemption.waive)}"
    if not moment.is_stamp(exemption.expires):
        yield f"{path}.expires: expected a moment of the calendar, got {exemption.expires!r}"


def _pattern(path: str, text: str) -> Iterator[str]:
    yield from _refusal(path, require_pattern, text)


def _refusal(path: str, parse: Callable[[str], object], text: str) -> Iterator[str]:
    try:
        parse(text)
    except UsageError as error:
        yield f"{path}: {error.message.removesuffix('.')}"


def _contradictions(rules: Iterable[Rule]) -> Iterator[str]:
    """Yield a line for each pattern under which two rules leave no strength that meets both."""
    least: _Bounds = {}
    most: _Bounds = {}
    patterns: dict[str, None] = {}
    for index, rule in enumerate(rules):
        low, high = rule.alpha_min, rule.alpha_max
        if low is not None and high is not None and low > high:
            continue  # said of the rule itself
        for pattern in rule.bases:
            patterns[pattern] = None
            if low is not None and (pattern not in least or low > least[pattern][0]):
                least[pattern] = (low, index)
            if high is not None and (pattern not in most or high < most[pattern][0]):
                most[pattern] = (high, index)
    said = set()
    for pattern in patterns:
        wider = {pattern, f"{pattern.partition('/')[0]}/*" if "/" in pattern else pattern, "*"}
        lows = [least[each] for each in wider if each in least]
        highs = [most[each] for each in wider if each in most]
        if not lows or not highs:
            continue
        (low, of_low), (high, of_high) = max(lows), min(highs)
        if low > high and (of_low, of_high) not in said:
            said.add((of_low, of_high))
            first, second = sorted((of_low, of_high))
            yield (
                f"$.rules[{second}].alpha: expected a range that meets that of rules[{first}] for "
                f"{pattern!r}, got at least {number(low)} in one and at most {number(high)} in "
                "the other"
            )
