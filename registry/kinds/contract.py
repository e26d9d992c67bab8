"""What every kind must offer: the six verbs' functions, and what their results must say.

A kind's modules are checked against these protocols by a test, so a further kind knows what is
missing before anything else does. ``calibrate`` (with ``Budget``) is optional in ``extract``: a
kind without a strength leaves it out, has ``alpha`` ``None`` everywhere, and refuses any other.
``measurable`` and ``measure`` are optional in ``verify``: whether what the artifact found in its
base still holds in a fine-tune; a kind that found nothing that could change leaves them out.
``present`` is optional in ``body``: what a card shows of an artifact, see ``PresentVerb``; a kind
without it is shown by its title and its paper.
``read_foreign`` and ``parse_foreign`` are optional in ``extract``, and there where the kind's row
names suffixes it ``imports``: see ``ForeignVerb``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from registry.artifact.bundle import Bundle
    from registry.artifact.manifest import Manifest
    from registry.artifact.presentation import Presentation
    from registry.checkpoint.architecture import Sites
    from registry.checkpoint.geometry import Geometry
    from registry.checkpoint.reader import Checkpoint
    from registry.measure.prompts import Pair, PromptSet


class Body(Protocol):
    """A checked body."""

    def to_manifest(self) -> dict[str, Any]:
        """Return the ``body`` member of the manifest."""

    def to_tensors(self) -> dict[str, Any]:
        """Return the tensors of the bundle, NumPy arrays."""

    def describe(self) -> dict[str, Any]:
        """Return what people ask about it."""

    def require_ready(self) -> None:
        """Raise ``ConfirmationRequiredError`` if it cannot be applied yet, with the repair."""


class Extraction(Protocol):
    """What ``extract`` made: a body, what was measured meanwhile, and the data it was made from."""

    body: Body
    receipt: dict[str, Any]
    data: list[dict[str, Any]]


class Application(Protocol):
    """What ``apply`` did."""

    alpha: float | None


class Evidence(Protocol):
    """What ``verify`` read back."""

    def to_dict(self) -> dict[str, Any]:
        """Return it for the event log."""


class Inspection(Protocol):
    """What ``inspect`` found in a checkpoint's bytes."""

    stored: bool
    """Whether the bytes carry the artifact."""
    loader_keeps: bool
    """Whether the stock loader of this family reads what is stored."""
    tensors: tuple[str, ...]
    """Tensors in the bytes that are the artifact."""
    explains: tuple[str, ...]
    """Config fields that differ from the base's because the artifact is stored."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""


class BodyVerb(Protocol):
    """``body.py``: nothing but Python and NumPy."""

    def parse(self, bundle: Bundle) -> Body:
        """Return the checked body, or raise with every violated rule."""


class PresentVerb(Protocol):
    """The optional part of ``body.py``: what people are shown, as plain values."""

    def present(self, body: Any, manifest: Manifest) -> Presentation:
        """Return it; the manifest's receipts may have any form."""


class ExtractVerb(Protocol):
    """``extract.py``: the base in memory."""

    def extract(
        self,
        model: Any,
        tokenizer: Any,
        pairs: PromptSet[Pair],
        *,
        seed: int,
        options: Mapping[str, int | float],
        progress: Callable[[str, int, int], None] | None,
    ) -> Extraction:
        """Make an artifact from a base."""


class Foreign(Protocol):
    """What a file that somebody else made says, before it is bound to a base."""

    def describe(self) -> dict[str, Any]:
        """Return what people ask about it; follows from the tensors."""

    def to_tensors(self) -> dict[str, Any]:
        """Return its tensors, NumPy arrays."""

    def bind(self, geometry: Geometry) -> Body:
        """Return the body of a draft for a base of this geometry, or raise ``GeometryError``."""


class ForeignVerb(Protocol):
    """The optional part of ``extract.py``: no torch, and nothing of the file is run."""

    FOREIGN_FORMAT: str
    """What is read, in one line."""

    def read_foreign(self, data: bytes, *, what: str) -> Foreign:
        """Return what the file of these bytes says; ``what`` is its name in errors."""

    def parse_foreign(self, tensors: Mapping[str, Any]) -> Foreign:
        """Return the same from the tensors that ``Foreign.to_tensors`` gave."""


class GuardVerb(Protocol):
    """``guard.py``: a model that is trained."""

    def guard(self, model: Any, body: Any) -> Any:
        """Keep what must be kept while training."""


class ApplyVerb(Protocol):
    """``apply.py``: a live model, all or nothing."""

    def apply(
        self, model: Any, body: Any, *, owner: str, alpha: float | None, allow_unsafe: bool
    ) -> Application:
        """Apply under the identity ``owner``; an error leaves the model as it was."""

    def undo(self, model: Any, application: Any) -> None:
        """Give every tensor back, bit for bit."""


class VerifyVerb(Protocol):
    """``verify.py``: a live model, read back."""

    def precondition(
        self, model: Any, open_tokenizer: Callable[[], Any], body: Any
    ) -> dict[str, Any] | None:
        """Check on the bare model what must hold before applying; ``None`` when nothing must."""

    def verify(self, model: Any, body: Any, application: Any) -> Evidence:
        """Return evidence that the application is on the model now, or raise."""


class InspectVerb(Protocol):
    """``inspect.py``: a checkpoint's bytes, without torch."""

    def inspect(self, checkpoint: Checkpoint, body: Any, sites: Sites) -> Inspection:
        """Look for the artifact."""


CONTRACT: dict[str, type[Any]] = {
    "body": BodyVerb,
    "extract": ExtractVerb,
    "guard": GuardVerb,
    "apply": ApplyVerb,
    "verify": VerifyVerb,
    "inspect": InspectVerb,
}
"""Verb to what its module must offer."""
