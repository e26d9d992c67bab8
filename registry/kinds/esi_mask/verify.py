"""Read a live model back: are the selected weights what they must be?

Every selected weight is read. Where the dtype of the model holds the base's values they must be the
base's (a mask) or the new ones (a delta), bit for bit (level ``digest``); in a narrower one they
must be those rounded, which is what they were at apply (level ``rounded``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from registry.errors import VerificationError
from registry.kinds.esi_mask._live import (
    indices_on,
    is_narrower,
    is_same,
    live_matrices,
    require_same_family,
)
from registry.kinds.esi_mask._targets import Targets
from registry.live.bits import digest_of
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from registry.kinds.esi_mask._matrices import Matrix
    from registry.kinds.esi_mask.apply import MaskApplication
    from registry.kinds.esi_mask.body import MaskBody

Level = Literal["digest", "rounded"]
REPAIR = "Take it off and apply it again: registry.unprotect(model), then registry.protect(...)"


@dataclass(frozen=True, slots=True)
class MaskEvidence:
    """What was read back.

    Attributes:
        weights: How many selected weights, all what they must be.
        matrices: In how many matrices.
        level: ``digest``: every bit of each; ``rounded``: some as the model's narrower dtype has
            them.
        form: ``mask`` or ``delta``.
        written: How many of them were other ones before.
        drifted: Matrices of a delta that were not the base's before; ``None`` where not known.
    """

    weights: int
    matrices: int
    level: Level
    form: str
    written: int
    drifted: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return it for the event log."""
        return {
            "weights": self.weights,
            "matrices": self.matrices,
            "level": self.level,
            "form": self.form,
            "written": self.written,
            "drifted": self.drifted,
        }


def precondition(
    model: nn.Module,  # noqa: ARG001 -- the contract's parameters
    open_tokenizer: Callable[[], Any],  # noqa: ARG001
    body: MaskBody,  # noqa: ARG001
) -> None:
    """Return nothing: selected weights can be put into whatever a fine-tune made of them."""
    return


def verify(model: nn.Module, body: MaskBody, application: MaskApplication) -> MaskEvidence:
    """Return evidence that the selected weights of ``model`` are what they must be now.

    Raises:
        VerificationError: they are not; every finding is listed.
        GeometryError: the model is of another family or depth.
    """
    require_same_family(model, body)
    targets = Targets(body, None)
    findings, count = [], 0
    level: Level = "digest"
    for item in live_matrices(model, body):
        count += 1
        name = item.matrix.name
        if item.held is None:
            findings.append(f"{name}: {item.fact}")
            continue
        values = item.held.take(indices_on(body, item.matrix, item.held))
        if is_same(values, item.matrix, targets):
            continue
        level = "rounded"
        fact = _not_rounded(values, item.matrix, application)
        if fact:
            expected = targets.digest(item.matrix)
            findings.append(f"{name}: expected {expected} at {values.numel():,} places, {fact}")
    if findings:
        whose = "the base's" if body.new_values is None else "the delta's"
        raise VerificationError(
            f"the selected weights of the model are not {whose}:" + listed(findings, 40),
            hint=REPAIR,
        )
    return MaskEvidence(
        body.selected, count, level, body.form, application.written, application.drifted
    )


def _not_rounded(values: Tensor, matrix: Matrix, application: MaskApplication) -> str:
    """Return what speaks against these being the values rounded at apply; nothing if they are."""
    if not is_narrower(values, matrix):
        return f"got {digest_of(values)}"
    if digest_of(values) != application.rounded.get(matrix.name):
        return "its bits are not those that apply put there"
    return ""
