"""What SET leaves alone: the bits of every weight that is not selected; did one change?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import VerificationError
from registry.kinds.esi_mask._baseline import Bits, indices_of
from registry.live.wrapped import gathered
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from registry.kinds.esi_mask._selected import Selection
    from registry.kinds.esi_mask.body import MaskBody
    from registry.live.wrapped import Wrapped


class Unselected:
    """The bits of every parameter, with its selected weights set to 0.

    Of a sharded model, every rank asks at the same time.
    """

    def __init__(self, wrapped: Wrapped, body: MaskBody, chosen: Sequence[Selection]) -> None:
        self._body, self._chosen = body, chosen
        self._bits = {name: Bits.of(rest) for name, rest in self._read(wrapped)}

    @property
    def digests(self) -> dict[str, str]:
        """Digest of each parameter's bits by name, sorted."""
        return {name: bits.digest for name, bits in sorted(self._bits.items())}

    def require(self, wrapped: Wrapped) -> int:
        """Return how many weights are not selected and bit for bit what they were.

        Raises:
            VerificationError: with every parameter in which one is not, that was added or is gone.
        """
        left, findings, count = dict(self._bits), [], 0
        for name, rest in self._read(wrapped):
            count += rest.numel()
            was = left.pop(name, None)
            if was is None:
                findings.append(f"{name}: expected no such parameter, it was added")
            elif not was.same_as(rest):
                findings.append(f"{name}: expected {was.digest}, it holds other bits")
        findings += [f"{name}: expected {was.digest}, it is gone" for name, was in left.items()]
        if findings:
            raise VerificationError(
                "expected what is not selected bit for bit as when the guard began, "
                f"{len(findings)} of {len(self._bits)} parameters changed outside the mask:"
                f"{listed(sorted(findings), len(findings))}",
                hint="No other optimizer may hold parameters of the model while it is guarded.",
            )
        return count - sum(selection.count for selection in self._chosen)

    def _read(self, wrapped: Wrapped) -> Iterator[tuple[str, Tensor]]:
        """Yield each parameter once, whole, with its selected weights set to 0."""
        chosen: dict[int, list[Selection]] = {}
        for selection in self._chosen:
            chosen.setdefault(id(wrapped.own[selection.name]), []).append(selection)
        for name, parameter in wrapped.named_parameters():
            whole = gathered(parameter.detach())
            for selection in chosen.get(id(parameter), ()):
                whole = whole.contiguous().clone()
                whole.view(-1)[indices_of(self._body, selection).to(whole.device)] = 0
            yield name, whole
