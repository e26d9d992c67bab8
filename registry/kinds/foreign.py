"""What a kind must offer that imports what somebody else made; see ``contract``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.artifact.foreign_file import ForeignFile
    from registry.checkpoint.geometry import Geometry
    from registry.checkpoint.record import BaseRecord
    from registry.kinds.contract import BaseTensors, Body


class Bindable(Protocol):
    """What somebody else found, before it is bound to a base."""

    def describe(self) -> dict[str, Any]:
        """Return what people ask about it."""

    def bind(self, geometry: Geometry) -> Body:
        """Return the body of a draft for a base of this geometry, or raise ``GeometryError``."""


@runtime_checkable
class BindableToWeights(Protocol):
    """The same, where the body says something of the weights of its base."""

    def describe(self) -> dict[str, Any]:
        """Return what people ask about it."""

    def bind_weights(self, record: BaseRecord, base: BaseTensors) -> Body:
        """Return the body of a draft for this base, or raise ``GeometryError``."""


class Foreign(Bindable, Protocol):
    """What a file that somebody else made says; ``describe`` follows from the tensors."""

    def to_tensors(self) -> dict[str, Any]:
        """Return its tensors, NumPy arrays."""


class ForeignOfWeights(BindableToWeights, Protocol):
    """The same, of what is bound to weights."""

    def to_tensors(self) -> dict[str, Any]:
        """Return its tensors, NumPy arrays."""


class ForeignVerb(Protocol):
    """The optional part of ``extract.py``: no torch, and nothing of the file is run."""

    FOREIGN_FORMAT: str
    """What is read, in one line."""

    def read_foreign(self, file: ForeignFile) -> Foreign | ForeignOfWeights:
        """Return what the file says, which is read to its end."""

    def parse_foreign(self, tensors: Mapping[str, Any]) -> Foreign | ForeignOfWeights:
        """Return the same from the tensors that ``Foreign.to_tensors`` gave."""
