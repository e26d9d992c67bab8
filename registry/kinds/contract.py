"""What every kind must offer: the six verbs' functions, and what their results must say.

A kind's modules are checked against these protocols by a test, so a further kind knows what is
missing before anything else does. ``calibrate`` (with ``Budget``) is optional in ``extract``: a
kind without a strength leaves it out, has ``alpha`` ``None`` everywhere, and refuses any other.
``measurable`` and ``measure`` are optional in ``verify``: whether what the artifact found in its
base still holds in a fine-tune; a kind that found nothing that could change leaves them out.
``present`` is optional in ``body``: what a card shows of an artifact, see ``PresentVerb``; a kind
without it is shown by its title and its paper.
``read_foreign`` and ``parse_foreign`` are optional in ``extract``, and there where the kind's row
names suffixes it ``imports``: see ``foreign``. ``PUBLISHED``, a mapping from name to
``Bindable``, is there where the row names what is ``published``; no two kinds share a name.
``content`` is optional in a body: the digest of what it puts on a model, where the digest of its
tensors does not say that; what has the same content is on a model once.
``describe`` is optional in what ``inspect`` found: what people are shown of it by name, where its
JSON form is more than they want; values are plain, or rows of a table.
Optional are also ``require_base`` in ``extract`` (``RequireBaseVerb``), ``training_config`` in
``guard`` (``TrainingConfigVerb``), ``inspect_adapter`` and ``patches`` in ``inspect``
(``InspectAdapterVerb``, ``PatchesVerb``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from registry.artifact.bundle import Bundle
    from registry.artifact.manifest import Manifest
    from registry.artifact.presentation import Presentation
    from registry.checkpoint.architecture import Sites
    from registry.checkpoint.geometry import Geometry
    from registry.checkpoint.reader import Checkpoint
    from registry.checkpoint.record import BaseRecord
    from registry.measure.prompts import PromptSet


class Notes(Protocol):
    """What an interrupted ``extract`` need not measure again."""

    def recall(self, key: str) -> Any | None:
        """Return what was kept under ``key``, JSON values; ``None`` if nothing was."""

    def keep(self, key: str, value: Any) -> None:
        """Keep ``value``, JSON values, before anything else is measured."""

    def recall_tensors(self, key: str) -> tuple[Any, Mapping[str, np.ndarray]] | None:
        """Return the value and the arrays that were kept under ``key``; ``None`` if none were."""

    def keep_tensors(self, key: str, value: Any, tensors: Mapping[str, np.ndarray]) -> None:
        """Keep arrays that may be as large as the model, with a value, in place of those before.

        Raises:
            HostError: there is no room for both; those before are there still.
        """


class BaseTensors(Protocol):
    """The weights of an artifact's base, where they are at hand."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a tensor, of the digest that the base record states.

        Raises:
            CheckpointNotFoundError: the base is not at hand.
            EvidenceError: what is there is another model.
        """


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
        data: PromptSet[Any],
        *,
        seed: int,
        options: Mapping[str, Any],
        notes: Notes,
        progress: Callable[[str, int, int], None] | None,
    ) -> Extraction:
        """Make an artifact from a base; ``data`` is of the set that the kind's row names."""


class RequireBaseVerb(Protocol):
    """The optional part of ``extract.py``: what the base must be like in memory, bit by bit."""

    def require_base(self, model: Any, record: BaseRecord) -> None:
        """Raise if ``model`` does not hold the base as its files do."""


class GuardReport(Protocol):
    """What a guard keeps, what is trained, and what that saves; its ``str`` is for people."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""


class ModelGuard(Protocol):
    """What ``guard`` put on a model. Who asks again shares it, or is refused (``GuardError``)."""

    mode: str | None
    """What is kept and what is trained, where the kind has a choice."""
    has_vectors: bool
    """Whether it trains vectors of its own: ``parameters``, ``clip``, ``exchange`` and ``delta``
    are there."""
    is_shared: bool
    """Whether it was asked for again, and more than one caller has it."""

    def attach(self, optimizer: Any) -> None:
        """Watch ``optimizer``, or raise ``GuardError`` if it could change what is kept."""

    def verify(self) -> Evidence:
        """Return evidence that what is kept is bit for bit what it was, or raise."""

    def report(self) -> GuardReport:
        """Return what is kept and what is trained now."""

    def release(self) -> None:
        """Give the model back as it was found."""

    def is_on(self, model: Any) -> bool:
        """Return whether this guard is on ``model``, or on what it wraps, now."""


class GuardVerb(Protocol):
    """``guard.py``: a model that is trained."""

    def guard(self, model: Any, body: Any, *, mode: str | None) -> ModelGuard:
        """Keep what must be kept while training; ``mode`` ``None`` is the kind's default."""


class TrainingConfigVerb(Protocol):
    """The optional part of ``guard.py``: the same for other tools, as text; no torch."""

    def training_config(self, body: Any, geometry: Geometry, engine: str, *, artifact: str) -> str:
        """Return what goes into the config of ``engine`` so that it keeps what must be kept."""


class ApplyVerb(Protocol):
    """``apply.py``: a live model, all or nothing."""

    def apply(
        self,
        model: Any,
        body: Any,
        *,
        base: BaseTensors | None,
        owner: str,
        alpha: float | None,
        allow_unsafe: bool,
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


class InspectAdapterVerb(Protocol):
    """The optional part of ``inspect.py``: what an adapter leaves of the artifact in its base."""

    def inspect_adapter(self, record: BaseRecord, body: Any, sites: Sites) -> Inspection:
        """Look for the artifact in the base with the adapter merged into it."""


class PatchesVerb(Protocol):
    """The optional part of ``inspect.py``: what would make a checkpoint's bytes carry the artifact.

    The inspection of such a kind has ``kept``: whether the bytes carry it as far as their dtype can
    hold it.
    """

    def patches(
        self, checkpoint: Checkpoint, body: Any, sites: Sites, base: BaseTensors | None
    ) -> Mapping[str, Callable[[], tuple[Any, Any]]]:
        """Return, by stored tensor, what gives sorted flat places and the bits that go there."""

    def inspect_beside(
        self, checkpoint: Checkpoint, body: Any, sites: Sites, base: BaseTensors
    ) -> Inspection:
        """Look for the artifact, and compare with the base's weights where that tells more.

        What is ``stored`` is the same without them.
        """


CONTRACT: dict[str, type[Any]] = {
    "body": BodyVerb,
    "extract": ExtractVerb,
    "guard": GuardVerb,
    "apply": ApplyVerb,
    "verify": VerifyVerb,
    "inspect": InspectVerb,
}
"""Verb to what its module must offer."""
