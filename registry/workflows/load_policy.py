"""What a load requires: ``enforce`` or ``warn``, and the policy file that says more.

- ``enforce`` is the default. A policy file that enforces cannot be talked down by an argument: its
  exceptions are the way out, which have an owner and an end.
- Whatever a policy lets pass is handed back, to be written down.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from registry import moment
from registry.artifact.policy import Artifact, Load, Policy, read_policy
from registry.errors import UsageError
from registry.kinds import parse_body
from registry.settings import policy_file

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from registry.artifact.bundle import Bundle
    from registry.artifact.policy import Verdict
    from registry.workflows.check import CheckReport
    from registry.workflows.identify import Identified
    from registry.workflows.journal import LoadJournal
    from registry.workflows.trust import Vouched

Mode = Literal["enforce", "warn"]


@dataclass(frozen=True, slots=True)
class LoadPolicy:
    """What one load requires.

    Attributes:
        mode: ``enforce`` raises, ``warn`` warns.
        file: The policy file, if there is one.
    """

    mode: Mode = "enforce"
    file: Policy | None = None

    def meet(
        self,
        model: Identified,
        base_names: Sequence[str],
        found: Sequence[tuple[Bundle, CheckReport, Vouched | None]],
        written: LoadJournal,
    ) -> None:
        """Check a load of these artifacts, before the model is loaded.

        Args:
            model: What was read.
            base_names: What its base is called here, the weights digest among them.
            found: Each artifact with its verdict, and what trusted keys say of it.
            written: Takes an event of what is let pass.

        Raises:
            PolicyError: with every violation, under ``enforce``.
        """
        verdict = self._judge(model, base_names, [_artifact(*each) for each in found])
        if verdict is None:
            return
        self._note_waived(model, verdict, written)
        if verdict.violations and self.mode == "warn":
            facts = [f"{each.code}: {each.message}" for each in verdict.violations]
            written.event("policy.warn", model, {"policy": self._digest, "violations": facts})
            warnings.warn(
                f"{model.locator} does not meet the policy, which warns only: {'; '.join(facts)}",
                stacklevel=3,
            )
            return
        verdict.require()

    def goes_without(
        self, model: Identified, base_names: Sequence[str], written: LoadJournal
    ) -> bool:
        """Return whether ``model`` may be loaded without any artifact; an exception is noted."""
        if self.mode == "warn":
            return True
        verdict = self._judge(model, base_names, [])
        if verdict is None or verdict.violations or not verdict.waived:
            return False
        self._note_waived(model, verdict, written)
        return True

    @property
    def _digest(self) -> str | None:
        return None if self.file is None else self.file.digest

    def _judge(
        self, model: Identified, base_names: Sequence[str], artifacts: Sequence[Artifact]
    ) -> Verdict | None:
        if self.file is None:
            return None
        # A folder may be called like a repository: only what came from the Hub has such a name.
        name = str(model.path.resolve()) if model.commit is None else model.locator
        names = (str(model.record.weights), name)
        return self.file.judge(Load(tuple(base_names), names, tuple(artifacts)), moment.now())

    def _note_waived(self, model: Identified, verdict: Verdict, written: LoadJournal) -> None:
        for each in verdict.waived:
            exemption = each.exemption
            detail = {
                "policy": self._digest,
                "violation": f"{each.violation.code}: {each.violation.message}",
                "owner": exemption.owner,
                "reason": exemption.reason,
                "expires": exemption.expires,
            }
            written.event("policy.exception", model, detail)


def policy_of(argument: str | os.PathLike[str]) -> LoadPolicy:
    """Return what ``policy=`` asks for.

    Args:
        argument: ``enforce``, ``warn``, or the path of a policy file. The one that
            ``SAFELATCH_POLICY`` names holds for every load, and no other beside it.

    Raises:
        UsageError: it is none of these, ``warn`` against a file that enforces, or another file than
            the one that holds.
        NotFoundError, EvidenceError: the file is not there, or is no policy.
    """
    modes, named = get_args(Mode), policy_file()
    if argument not in modes:
        if isinstance(argument, str) and not argument.endswith(".json"):
            raise UsageError(
                f"expected policy 'enforce', 'warn' or the path of a .json file, got {argument!r}.",
                hint="Leave it out to enforce.",
            )
        file = read_policy(Path(argument).expanduser())
        if named is not None and read_policy(named).digest != file.digest:
            raise UsageError(
                f"expected the policy that SAFELATCH_POLICY names, {named}, got another one, "
                f"{argument}.",
                hint="Leave policy out of the load, or have the policy's owner change that file.",
            )
        return LoadPolicy(file.mode, file)
    if named is None:
        return LoadPolicy("warn" if argument == "warn" else "enforce")
    file = read_policy(named)
    if argument == "warn" and file.mode == "enforce":
        raise UsageError(
            f"expected policy 'enforce', as {named} says, got 'warn'.",
            hint="Have the policy's owner add an exception with an end to it.",
        )
    return LoadPolicy(file.mode, file)


def _artifact(bundle: Bundle, report: CheckReport, vouched: Vouched | None) -> Artifact:
    manifest, body = bundle.manifest, parse_body(bundle)
    strength: Any = getattr(body, "alpha", None)
    return Artifact(
        label=manifest.label,
        kind=manifest.kind,
        version=manifest.version,
        signers=() if vouched is None else vouched.signers,
        alpha=strength,
        evidence_level=report.lineage.level,
        distance=report.lineage.to_dict()["distance"],
    )
