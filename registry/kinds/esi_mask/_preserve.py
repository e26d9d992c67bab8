"""SPA: everything is trained but the selected weights.

Source: Qi et al., SPA: fine-tuning with the inverted mask.

- Their gradients are set to 0 as soon as they are there, so that a norm taken before the step, for
  clipping, is of what is trained.
- That alone leaks: weight decay, momentum from before and fused kernels change weights without a
  gradient. After every step of a watched optimizer the kept values are written back.
- What is kept are the selected values alone, in the dtype of the model, and where they are: at 1 %
  of bf16 weights 6 bytes for each selected one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.errors import GuardError, VerificationError
from registry.kinds.esi_mask._baseline import indices_of, read_baseline, selected_values
from registry.kinds.esi_mask._guard_reports import PRESERVE
from registry.kinds.esi_mask._places import index_bytes, places_of, require_bound
from registry.kinds.esi_mask._selected import look_up, require_shapes, selections
from registry.wording import listed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from registry.kinds.esi_mask._places import Places
    from registry.kinds.esi_mask.body import MaskBody


class Preserving:
    """The selected weights of a model, kept while everything else is trained."""

    mode = PRESERVE

    def __init__(self, model: nn.Module, body: MaskBody) -> None:
        self._model, self._body, self._chosen = model, body, selections(body)
        _, found = look_up(model, self._chosen)
        require_shapes(found, self._chosen)
        self.baseline = read_baseline(found, self._chosen, body)
        self._places: dict[str, Places] = {}
        self._kept: dict[str, Tensor] = {}
        self._hooks: dict[str, Any] = {}

    def bind(self) -> None:
        """Find where the selected weights are now, once: after sharding, before the first step."""
        if self._places:
            return
        _, found = look_up(self._model, self._chosen)
        places, kept = {}, {}
        for selection in self._chosen:
            parameter = found[selection.name]
            flat = indices_of(self._body, selection)
            places[selection.name], here = places_of(selection.name, parameter, flat)
            values = self.baseline.values[selection.name].to(parameter.device)
            kept[selection.name] = values[here]
        self._places, self._kept = places, kept
        self.baseline.values.clear()
        self._watch_gradients()

    def require(self, optimizer: Any) -> None:
        """Refuse an optimizer that does not step this model's own parameters."""
        wrapped, found = look_up(self._model, self._chosen)
        require_bound(self._places, found)
        every = {id(p) for p in (*wrapped.own.values(), *wrapped.brought.values())}
        held = [p for group in optimizer.param_groups for p in group["params"]]
        if not any(id(p) in every for p in held):
            raise GuardError(
                f"expected an optimizer of the model's parameters, got {len(held)} others: what is "
                "computed from them is written into the model after the step, where nothing is put "
                "back.",
                hint="Give the optimizer that was built from model.parameters(). Engines that step "
                "copies (DeepSpeed) cannot be guarded: train, then write a copy with the selected "
                "weights of the base: registry.project(MODEL, ARTIFACT, OUT)",
            )

    def before_step(self, optimizer: Any, *, has_closure: bool) -> None:  # noqa: ARG002 -- as of SET
        """Refuse a step whose end could not be put right."""
        self.require(optimizer)
        self._watch_gradients()

    def after_step(self) -> None:
        """Write the kept values back."""
        for name, here in self._places.items():
            here.put(here.parameter, self._kept[name])

    def verify(self) -> tuple[int, dict[str, str]]:
        """Return how many weights are bit for bit what they were, and digests by matrix.

        Raises:
            VerificationError: with every matrix whose selected weights are not.
        """
        _, found = look_up(self._model, self._chosen)
        bits, findings, count = self.baseline.bits, [], 0
        for selection in self._chosen:
            values = selected_values(found[selection.name], self._body, selection)
            for name, part in selection.by_matrix(values).items():
                count += part.numel()
                if not bits[name].same_as(part):
                    findings.append(f"{name}: expected {bits[name].digest}, it holds other bits")
        if findings:
            raise VerificationError(
                "expected the selected weights bit for bit as when the guard began, those of "
                f"{len(findings)} of {len(bits)} matrices changed:"
                f"{listed(sorted(findings), len(findings))}",
                hint="Attach every optimizer: g.attach(optimizer). To put them back: "
                "registry.protect(model, artifact, base=DIR)",
            )
        return count, {name: bits[name].digest for name in sorted(bits)}

    def figures(self) -> dict[str, int]:
        """Return counts of values and bytes, see ``GuardReport``."""
        wrapped, found = look_up(self._model, self._chosen)
        every = [*dict.fromkeys((*wrapped.own.values(), *wrapped.brought.values()))]
        counts = {selection.name: selection.count for selection in self._chosen}
        trained = sum(p.numel() for p in every if p.requires_grad)
        trained -= sum(counts[name] for name, p in found.items() if p.requires_grad)
        return {
            "trainable": trained,
            "weights": sum(p.numel() for p in every),
            "kept_bytes": sum(
                counts[name] * (p.element_size() + index_bytes(p)) for name, p in found.items()
            ),
            "gradient_bytes": 0,
            "moment_bytes": 0,
        }

    def release(self) -> None:
        """Do nothing: nothing was frozen."""

    def unhook(self) -> None:
        """Let the gradients be what they are."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    def _watch_gradients(self) -> None:
        """Zero gradients of selected weights from now on; those that are there already too."""
        for name, here in self._places.items():
            if name in self._hooks or not here.parameter.requires_grad:
                continue
            parameter: Any = here.parameter
            self._hooks[name] = parameter.register_post_accumulate_grad_hook(
                lambda _, name=name: self._zero(name)
            )
            self._zero(name)

    def _zero(self, name: str) -> None:
        here = self._places[name]
        if here.parameter.grad is not None:
            here.put(here.parameter.grad, 0.0)
