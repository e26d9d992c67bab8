"""The policy file: what a load requires beyond what an artifact's publisher says.

- All rules that are about a base hold together. A base that no rule is about is asked for nothing;
  a rule about ``*`` is about the unknown base too.
- An exception has an owner, a reason and an end. It waives violations of the policy and nothing
  else: what is revoked, changed, negated or signed by nobody who is trusted is refused elsewhere.
- What is waived is handed on with its exception, so that it leaves an event.
- A policy that asks for nothing, or for what cannot be, is refused when it is read.
- Written by hand, so not canonical; its digest is that of the canonical form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from registry import moment
from registry.artifact._policy_findings import findings_of
from registry.artifact._policy_rules import Code, facts_of, shown
from registry.artifact.schema import require_schema, validate
from registry.artifact.scope import covers
from registry.digest import Digest, digest_json, parse_json
from registry.errors import NotFoundError, PolicyError, SchemaViolationError
from registry.plainfile import read_plain
from registry.wording import listed, printable

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

SCHEMA = "safelatch/policy/v1"
POLICY_LIMIT = 1 << 20
"""Most bytes of a policy file."""
REPAIR = (
    "Repair the policy file. The smallest one: "
    '{"schema": "safelatch/policy/v1", "rules": [{"bases": ["*"], "min_evidence": 3}]}'
)
"""Hint of every error about a policy file that cannot be used."""
_MEET = (
    "Use artifacts that meet it (safelatch list), or have the policy's owner add an exception "
    "with an end."
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A verified artifact of a load, as far as a policy asks about it.

    Attributes:
        label: How to call it in a message.
        kind: Its kind.
        version: PEP 440, or ``None`` for a draft.
        signers: Ids of the keys whose signatures were verified; a name alone is none.
        alpha: Strength at which it is applied (dimensionless), ``None`` for a kind without one.
        evidence_level: Of the checkpoint's lineage to the artifact's base, 0 to 4.
        distance: Of the checkpoint to the base, dimensionless; ``None`` if it was not measured.
    """

    label: str
    kind: str
    version: str | None
    signers: tuple[str, ...]
    alpha: float | None
    evidence_level: int
    distance: float | None


@dataclass(frozen=True, slots=True)
class Load:
    """A load to be judged.

    Attributes:
        base_names: All names of the base, its weights digest among them; none if it is unknown.
        model_names: The checkpoint's weights digest and its locator.
        artifacts: Every artifact that is applied.
    """

    base_names: tuple[str, ...]
    model_names: tuple[str, ...]
    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True, slots=True)
class Requirement:
    """A kind that must be there, every artifact of it in this PEP 440 version or a later one."""

    kind: str
    min_version: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What is required of a load of some bases; ``None`` and empty ask for nothing.

    Attributes:
        bases: Patterns as in ``scope``.
        require: Kinds that must be there.
        signers: Key ids, of which each artifact has at least one.
        sources: Remotes to pull from when the registry has nothing for the base.
        min_evidence: Lowest level of evidence, 0 to 4.
        max_distance: Largest distance to the base, dimensionless.
        alpha_min: Smallest strength, dimensionless.
        alpha_max: Largest strength, dimensionless.
    """

    bases: tuple[str, ...]
    require: tuple[Requirement, ...] = ()
    signers: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    min_evidence: int | None = None
    max_distance: float | None = None
    alpha_min: float | None = None
    alpha_max: float | None = None

    def is_about(self, load: Load) -> bool:
        """Return whether the base of ``load`` is one of ``bases``."""
        return "*" in self.bases or any(covers(each, load.base_names) for each in self.bases)

    @property
    def asks_nothing(self) -> bool:
        """Whether every load meets it."""
        bounds = (self.max_distance, self.alpha_min, self.alpha_max)
        asked = self.require or self.signers or self.sources or self.min_evidence
        return not asked and all(bound is None for bound in bounds)


@dataclass(frozen=True, slots=True)
class Exemption:
    """An exception: what is waived for some models, by whom, why, and until when.

    Attributes:
        models: Digests, ``ns/*``, or the exact text by which a model is named.
        waive: Codes, or ``all`` alone.
        owner: Who answers for it.
        reason: Why.
        expires: From this moment on it waives nothing.
    """

    models: tuple[str, ...]
    waive: tuple[Code | Literal["all"], ...]
    owner: str
    reason: str
    expires: str

    def is_about(self, load: Load) -> bool:
        """Return whether the model of ``load`` is one of ``models``."""
        return any(covers(each, load.model_names) for each in self.models)

    def waives(self, code: Code) -> bool:
        """Return whether ``code`` is waived, were the exception not expired."""
        return "all" in self.waive or code in self.waive


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a load does not meet: what it is about, and the fact in one printable line."""

    code: Code
    message: str


@dataclass(frozen=True, slots=True)
class Waived:
    """A violation that an exception lets through."""

    violation: Violation
    exemption: Exemption


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says of a load, whatever its mode; both in the order of the rules."""

    violations: tuple[Violation, ...]
    waived: tuple[Waived, ...]

    def require(self) -> None:
        """Raise ``PolicyError`` with every violation that is not waived, if there is one."""
        if self.violations:
            lines = [f"{each.code}: {each.message}" for each in self.violations]
            raise PolicyError(
                f"expected a load that meets the policy, got {len(lines)} violation(s):"
                f"{listed(lines, len(lines))}",
                hint=_MEET,
            )


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy. Read with ``read_policy``.

    Attributes:
        digest: Of the canonical JSON of the document.
        mode: ``warn`` says that a violation leaves an event and no refusal.
        rules: Those that are about a base hold together.
        exceptions: What is waived.
    """

    digest: Digest
    mode: Literal["enforce", "warn"]
    rules: tuple[Rule, ...]
    exceptions: tuple[Exemption, ...]

    def sources(self, base_names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the remotes that the rules about a base name, each once, in their order."""
        load = Load(base_names, (), ())
        found = [one for rule in self.rules if rule.is_about(load) for one in rule.sources]
        return tuple(dict.fromkeys(found))

    def judge(self, load: Load, now: datetime) -> Verdict:
        """Return every violation of ``load`` at the moment ``now``, waived or not."""
        stamp = moment.stamp(now)
        for_model = [each for each in self.exceptions if each.is_about(load)]
        of_code = {
            code: [each for each in for_model if each.waives(code)] for code in get_args(Code)
        }
        violations, waived = [], []
        for index, rule in enumerate(self.rules, 1):
            for code, fact in facts_of(rule, load) if rule.is_about(load) else ():
                valid = next((each for each in of_code[code] if stamp < each.expires), None)
                message = f"rule {index} ({shown(rule.bases)}): {fact}"
                if of_code[code] and valid is None:
                    last = max(of_code[code], key=lambda each: each.expires)
                    message += f"; the exception of {last.owner} expired on {last.expires}"
                violation = Violation(code, printable(message))
                if valid is None:
                    violations.append(violation)
                else:
                    waived.append(Waived(violation, valid))
        return Verdict(tuple(violations), tuple(waived))


def read_policy(path: Path) -> Policy:
    """Return the policy at ``path``.

    Raises:
        NotFoundError: there is no such file.
        EvidenceError: see ``parse_policy``; or it is no regular file.
        HostError: it cannot be read.
    """
    try:
        data = read_plain(path, limit=POLICY_LIMIT, hint=REPAIR)
    except FileNotFoundError:
        raise NotFoundError(
            f"expected a policy file at {path}, found none.",
            hint=REPAIR.replace("Repair the policy file", "Name the policy file, or write one"),
        ) from None
    return parse_policy(data, what=path.name)


def parse_policy(data: bytes, *, what: str = "policy file") -> Policy:
    """Return the policy that ``data`` writes.

    Raises:
        UnsafeFormatError: not strict JSON, or over 1 MiB.
        UnsupportedSchemaVersionError: of another version than this release reads.
        SchemaViolationError: with every violation.
    """
    document = parse_json(data, what=what, limit=POLICY_LIMIT, hint=REPAIR)
    require_schema(document, SCHEMA, what=what)
    validate(document, "policy.v1", what=what, hint=REPAIR)
    rules = tuple(_rule(each) for each in document["rules"])
    exceptions = tuple(_exemption(each) for each in document.get("exceptions", ()))
    findings = findings_of(document, rules, exceptions)
    if findings:
        raise SchemaViolationError(
            f"{what} breaks {len(findings)} rule(s) of a policy.", findings, hint=REPAIR
        )
    return Policy(digest_json(document), document.get("mode", "enforce"), rules, exceptions)


def _rule(document: dict[str, Any]) -> Rule:
    alpha = document.get("alpha", {})
    return Rule(
        bases=tuple(document["bases"]),
        require=tuple(Requirement(**each) for each in document.get("require", ())),
        signers=tuple(document.get("signers", ())),
        sources=tuple(document.get("sources", ())),
        min_evidence=document.get("min_evidence"),
        max_distance=document.get("max_distance"),
        alpha_min=alpha.get("min"),
        alpha_max=alpha.get("max"),
    )


def _exemption(document: dict[str, Any]) -> Exemption:
    return Exemption(
        models=tuple(document["models"]),
        waive=tuple(document["waive"]),
        owner=document["owner"],
        reason=document["reason"],
        expires=document["expires"],
    )
