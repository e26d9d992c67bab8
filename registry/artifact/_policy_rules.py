"""What one rule of a policy has against a load: codes and facts, expected first.

- A rule judges every artifact of the load. What it does not name, it does not ask for.
- What is not known is not within bounds: no version, no distance, NaN.
- An artifact without a strength has none to bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from packaging.version import Version

    from registry.artifact.policy import Artifact, Load, Requirement, Rule

Code = Literal[
    "unprotected", "required-kind", "min-version", "signer", "evidence", "distance", "alpha"
]
"""What a violation is about. Revoked, changed, negated, signed by nobody who is trusted: these are
no violations of a policy but refusals of their own, which no exception reaches."""

_SHOWN = 3


def facts_of(rule: Rule, load: Load) -> Iterator[tuple[Code, str]]:
    """Yield everything that ``rule`` has against ``load``, whatever base it is of."""
    if not load.artifacts:
        yield "unprotected", "expected at least one verified artifact, got none"
    for requirement in rule.require:
        yield from _kind(requirement, load.artifacts)
    for artifact in load.artifacts:
        name = artifact.label[:200]
        if rule.signers and not set(rule.signers) & set(artifact.signers):
            yield (
                "signer",
                (
                    f"expected {name} signed by {shown(rule.signers, ' or ')}, got "
                    f"{shown(artifact.signers) or 'no verified signature'}"
                ),
            )
        if rule.min_evidence is not None and not artifact.evidence_level >= rule.min_evidence:
            yield (
                "evidence",
                (
                    f"expected evidence level {rule.min_evidence} or more for {name}, got "
                    f"{artifact.evidence_level}"
                ),
            )
        yield from _distance(rule, artifact, name)
        yield from _alpha(rule, artifact, name)


def _kind(
    requirement: Requirement, artifacts: Sequence[Artifact]
) -> Iterator[tuple[Code, str]]:  # fmt: skip
    kind, least = requirement.kind, parse_version(requirement.min_version)
    of_kind = [artifact for artifact in artifacts if artifact.kind == kind]
    if not of_kind:
        others = sorted({artifact.kind for artifact in artifacts})
        yield "required-kind", f"expected an artifact of kind {kind}, got {shown(others) or 'none'}"
    for artifact in of_kind:
        version = None if artifact.version is None else parse_version(artifact.version)
        if version is None or least is None or version < least:
            got = "no version" if artifact.version is None else f"version {artifact.version[:80]}"
            yield (
                "min-version",
                (
                    f"expected {kind} of version {requirement.min_version} or later, got "
                    f"{artifact.label[:200]} of {got}"
                ),
            )


def _distance(rule: Rule, artifact: Artifact, name: str) -> Iterator[tuple[Code, str]]:
    most, distance = rule.max_distance, artifact.distance
    if most is not None and (distance is None or not 0 <= distance <= most):
        got = "none that was measured" if distance is None else number(distance)
        yield "distance", f"expected a distance of at most {number(most)} for {name}, got {got}"


def _alpha(rule: Rule, artifact: Artifact, name: str) -> Iterator[tuple[Code, str]]:
    alpha, low, high = artifact.alpha, rule.alpha_min, rule.alpha_max
    if alpha is None:
        return
    if not ((low is None or alpha >= low) and (high is None or alpha <= high)):
        ends = [("at least", low), ("at most", high)]
        bounds = " and ".join(f"{word} {number(end)}" for word, end in ends if end is not None)
        yield "alpha", f"expected alpha {bounds} for {name}, got {number(alpha)}"


def parse_version(text: str) -> Version | None:
    """Return the PEP 440 version that ``text`` is, ``None`` if it is none."""
    from packaging.version import Version

    try:
        return Version(text)
    except ValueError:  # also of a number with more digits than Python reads
        return None


def number(value: float) -> str:
    """Return ``value`` in the fewest digits that are read back as the same."""
    return f"{float(value)!r}".removesuffix(".0")


def shown(texts: Iterable[str], separator: str = ", ") -> str:
    """Return the first few of ``texts`` in one line, the others counted."""
    given = list(texts)
    more = [f"{len(given) - _SHOWN} more"] if len(given) > _SHOWN else []
    return separator.join([*(text[:120] for text in given[:_SHOWN]), *more])
