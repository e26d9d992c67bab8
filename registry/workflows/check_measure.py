"""Do the directions of an artifact still hold in this fine-tune? The files' verdict, and more.

The files are judged first, as by ``check``; then the model is opened once and measured beside what
the artifact says of its base. What cannot be compared is refused before the model is opened.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from registry.errors import UsageError
from registry.kinds import kind_of, parse_body
from registry.measure.prompts import load_pairs
from registry.workflows.check import Finding, check

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.artifact.bundle import Bundle
    from registry.checkpoint.record import BaseRecord
    from registry.measure.prompts import Pair, PromptSet
    from registry.workflows.check import CheckReport


def check_measured(
    bundle: Bundle,
    record: BaseRecord,
    open_live: Callable[[], tuple[Any, Any]],
    *,
    pairs: PromptSet[Pair] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Judge ``bundle`` against a checkpoint from its record, then from the live model.

    Args:
        bundle: A checked bundle.
        record: The checkpoint's record.
        open_live: Returns the checkpoint as a live model, without the artifact, and its tokenizer;
            called at most once, and not where heads or layers differ: nothing could be measured.
        pairs: The set the artifact was made from; the packaged pairs by default.
        progress: Called with (conversations done, all).

    Returns:
        The report; ``measured`` is ``None`` where nothing was.

    Raises:
        UsageError: artifacts of this kind have nothing to measure.
        EvidenceError: this one says nothing of its base to compare with.
        CompatibilityError: its base was measured on other pairs, or the model cannot be measured.
    """
    verb = kind_of(bundle.manifest.kind).verb("verify")
    if not hasattr(verb, "measure"):
        raise UsageError(f"a {bundle.manifest.kind} has nothing to measure in a model.")
    body = parse_body(bundle)
    rows = verb.measurable(body, load_pairs() if pairs is None else pairs)
    report = check(bundle, record)
    if any(finding.code == "geometry" for finding in report.errors):
        return report
    model, tokenizer = open_live()
    found = verb.measure(model, tokenizer, body, rows, progress=progress)
    findings = [*report.findings, *(Finding(*fault) for fault in found.faults)]
    findings.sort(key=lambda finding: finding.severity != "error")
    return replace(report, findings=tuple(findings), measured=found.document)
