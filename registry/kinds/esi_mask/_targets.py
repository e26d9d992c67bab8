"""What must be at the selected places: the base's values (a mask) or the new ones (a delta).

A body has a digest of them for every matrix, so whether all are there can always be told. How many
are, and what to write, takes the values themselves: a delta has them, a mask may, and otherwise
they are read from the base, where it is at hand, one tensor at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.checkpoint.values import item_size
from registry.digest import digest_bytes
from registry.errors import CheckpointNotFoundError, DigestMismatchError
from registry.kinds.esi_mask.body import DELTA
from registry.wording import REMAKE

if TYPE_CHECKING:
    from registry.digest import Digest
    from registry.kinds.contract import BaseTensors
    from registry.kinds.esi_mask._matrices import Matrix
    from registry.kinds.esi_mask.body import MaskBody


class Targets:
    """What must be at the selected places of each matrix.

    Args:
        body: The mask, read from a bundle.
        base: The base's weights, where they are at hand.
    """

    def __init__(self, body: MaskBody, base: BaseTensors | None) -> None:
        self._body, self._base = body, base
        self._known = body.put_values() if body.form == DELTA else body.base_values()
        self._read: tuple[str, bytes] = ("", b"")  # the last tensor: neighbours ask for it next

    def digest(self, matrix: Matrix) -> Digest:
        """Return the digest of the values, in the base's dtype."""
        if self._body.form == DELTA:
            return digest_bytes(self._known[matrix.name].data)
        return self._body.selected_digest(matrix.name)

    def known(self, matrix: Matrix) -> bytes | None:
        """Return the values where the artifact has them itself, raw bits in the base's dtype."""
        held = self._known.get(matrix.name)
        return None if held is None else held.tobytes()

    def raw(self, matrix: Matrix) -> bytes:
        """Return the values, raw bits in the base's dtype.

        Raises:
            CheckpointNotFoundError: neither the artifact nor a base at hand has them.
            EvidenceError, CompatibilityError: what is at hand is another model.
            DigestMismatchError: the base has others than the artifact says.
        """
        known = self.known(matrix)
        return self._from_base(matrix) if known is None else known

    def _from_base(self, matrix: Matrix) -> bytes:
        import numpy as np

        if self._base is None:
            raise CheckpointNotFoundError(
                f"expected the base's values at the selected places of {matrix.name}, got neither "
                "the base nor an artifact that has them.",
                hint="Say where the base is: base=DIR, or register it: safelatch base add MODEL",
            )
        if self._read[0] != matrix.tensor:
            self._read = ("", b"")  # never two tensors at once
            self._read = (matrix.tensor, self._base.read(matrix.tensor))
        bits = np.frombuffer(self._read[1], dtype=f"<u{item_size(matrix.dtype)}")
        found = bytes(bits[matrix.in_tensor(self._body.indices(matrix.name))].tobytes())
        expected, got = self._body.selected_digest(matrix.name), digest_bytes(found)
        if got != expected:
            raise DigestMismatchError(
                f"{matrix.name}: expected selected values of {expected} in the base, as the "
                f"artifact says, the base has {got}.",
                hint=REMAKE,
            )
        return found


def in_tensor_order(body: MaskBody) -> tuple[Matrix, ...]:
    """Return the matrices with selected weights, those of one stored tensor together."""
    counts = body.counts
    chosen = (matrix for matrix in body.matrices if counts[matrix.name])
    return tuple(sorted(chosen, key=lambda matrix: (matrix.tensor, matrix.name)))
