"""Read a live model back: are the protected layers the base's?

Every protected tensor is read whole. Where its dtype holds the base's values it must be the base's
bit for bit. In a narrower one its sampled values must be the base's, rounded, and its bits what
they were at apply: there they were compared with the base, where it was at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from registry.errors import VerificationError
from registry.kinds.safety_layers._live import (
    read_live,
    require_same_family,
    unexpected_parameters,
)
from registry.kinds.safety_layers._live_bits import spelled
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from registry.kinds.safety_layers._live_bits import Bits
    from registry.kinds.safety_layers.apply import LayersApplication
    from registry.kinds.safety_layers.body import LayersBody

Level = Literal["digest", "samples"]
REPAIR = "Take it off and apply it again: registry.unprotect(model), then registry.protect(...)"


@dataclass(frozen=True, slots=True)
class LayersEvidence:
    """What was read back.

    Attributes:
        tensors: How many protected tensors, all the base's.
        level: ``digest``: every bit of each is the base's, cast to the model's dtype; ``samples``:
            of some the sampled values alone, as that dtype is narrower than the base's and the base
            was not at hand.
        layers: First and last layer of the range.
        restored: How many of them were put back from the base.
    """

    tensors: int
    level: Level
    layers: tuple[int, int]
    restored: int

    def to_dict(self) -> dict[str, Any]:
        """Return it for the event log."""
        return {
            "tensors": self.tensors,
            "level": self.level,
            "layers": list(self.layers),
            "restored": self.restored,
        }


def precondition(
    model: nn.Module,  # noqa: ARG001 -- the contract's parameters
    open_tokenizer: Callable[[], Any],  # noqa: ARG001
    body: LayersBody,  # noqa: ARG001
) -> None:
    """Return nothing: layers can be put back into whatever a fine-tune made of them."""
    return


def verify(model: nn.Module, body: LayersBody, application: LayersApplication) -> LayersEvidence:
    """Return evidence that the layers of ``model`` are the base's now.

    Raises:
        VerificationError: they are not; every finding is listed.
        GeometryError: the model is of another family or depth.
    """
    require_same_family(model, body)
    findings, level = [], "digest"
    for item in read_live(model, body):
        name = item.entry.name
        if item.fact:
            findings.append(f"{name}: {item.fact}")
        elif item.held is not None and item.is_rounded:
            if name in application.sampled:
                level = "samples"
            fact = _since(item.held, application.bits[name])
            findings += [f"{name}: {fact}"] if fact else []
    findings += [
        f"{name}: expected in the base, it has no such parameter"
        for name in unexpected_parameters(model, body)
    ]
    if findings:
        raise VerificationError(
            "the protected layers of the model are not the base's:" + listed(findings, 40),
            hint=REPAIR,
        )
    return LayersEvidence(
        len(body.protected),
        "digest" if level == "digest" else "samples",
        (body.first, body.last),
        len(application.originals),
    )


def _since(held: Tensor, was: Bits) -> str:
    """Return what became of ``held`` since apply; empty if nothing did."""
    if held.dtype != was.dtype:
        then, now = spelled(was.dtype), spelled(held.dtype)
        return f"expected in {then} as at apply, it was cast to {now} since"
    fact = was.fact(held)
    return fact and f"its bits have changed since apply: {fact}"
