"""SET: the selected weights alone are trained, as vectors of their own.

Source: Qi et al., SET: fine-tuning with the mask. Done differently here:

- The optimizer gets a vector for each parameter with selected weights, in fp32: their master copy.
  An update that is lost in bf16 is kept there, and gradients are summed in fp32.
- A gradient of the whole parameter is there until its selected values are taken out of it, one
  parameter at a time; then it is dropped. Moments exist for the masters alone, so gradients,
  moments and masters take 16 bytes for each selected weight.
- After every step the masters are written to their places, rounded to the dtype of the model.
  Nothing else can change: no optimizer holds a parameter of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.errors import (
    GuardError,
    UsageError,
    VerificationError,
)
from registry.kinds.esi_mask._baseline import indices_of, read_baseline
from registry.kinds.esi_mask._guard_reports import ENHANCE
from registry.kinds.esi_mask._places import (
    index_bytes,
    is_sharded,
    local,
    places_of,
    require_bound,
    require_own_gradients,
    require_reached,
    require_trainable,
    vector_like,
)
from registry.kinds.esi_mask._selected import look_up, require_shapes, selections
from registry.kinds.esi_mask._unselected import Unselected
from registry.kinds.esi_mask.body import MASK
from registry.live.wrapped import look_under
from registry.wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from registry.kinds.esi_mask._places import Places
    from registry.kinds.esi_mask.body import MaskBody
    from registry.live.wrapped import Wrapped

_SHOWN = 5
_RECIPE = (
    "Build it from the guard's own vectors: "
    "torch.optim.AdamW(g.parameters(), lr=...), then g.attach(optimizer)"
)


class Enhancing:
    """The selected weights of a model, trained while everything else is kept."""

    mode = ENHANCE

    def __init__(self, model: nn.Module, body: MaskBody) -> None:
        if body.form != MASK:
            raise UsageError(
                f"expected an artifact of form {MASK} to train selected weights, got a "
                f"{body.form}: its weights were trained already.",
                hint="Name the mask that it was made with; a delta is applied: "
                "registry.protect(model, artifact)",
            )
        self._model, self._body, self._chosen = model, body, selections(body)
        wrapped, found = look_up(model, self._chosen, adapters=False)
        require_shapes(found, self._chosen)
        self.baseline = read_baseline(found, self._chosen, body)
        self.baseline.values.clear()  # the masters are read from the model, where it is then
        self._rest = Unselected(wrapped, body, self._chosen)
        self._was = {name: p.requires_grad for name, p in wrapped.own.items()}
        self._places: dict[str, Places] = {}
        self._masters: dict[str, nn.Parameter] = {}
        self._hooks: list[Any] = []
        self._reached: set[str] = set()
        held = {id(parameter) for parameter in found.values()}
        for parameter in wrapped.own.values():
            parameter.requires_grad_(id(parameter) in held)
            parameter.grad = None

    def parameters(self) -> list[nn.Parameter]:
        """Return the masters: a vector for each parameter with selected weights, by name."""
        if not self._masters:
            self._bind()
        return list(self._masters.values())

    def bind(self) -> None:
        """Take over what the model holds now, where that is not what its masters round to."""
        self.parameters()
        for name, master in self._masters.items():
            here = self._places[name]
            kept = local(master)
            got = here.take(here.parameter).to(kept.device)
            differs = got != kept.to(got.dtype)
            kept[differs] = got[differs].to(kept.dtype)

    def require(self, optimizer: Any) -> None:
        """Refuse an optimizer that holds anything of the model, or none of the masters."""
        wrapped, found = self._look_up()
        require_bound(self._places, found)
        require_own_gradients(found)
        names = {id(parameter): name for name, parameter in wrapped.own.items()}
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        held |= {id(p) for p, state in optimizer.state.items() if state}
        strange = sorted(names[each] for each in held & set(names))
        if strange:
            raise GuardError(
                f"expected an optimizer of g.parameters() alone, it holds {len(strange)} "
                "parameters of the model: weight decay and momentum would change what is not "
                f"selected:{listed(strange, _SHOWN)}",
                hint=_RECIPE,
            )
        if not held & {id(master) for master in self._masters.values()}:
            raise GuardError(
                f"expected an optimizer of g.parameters(), it holds none of these "
                f"{len(self._masters)} vectors: nothing would be trained.",
                hint=_RECIPE,
            )
        require_trainable(found)

    def exchange(self, optimizer: Any) -> None:
        """Put the masters in place of their parameters, and take over what it keeps of them."""
        self.parameters()
        masters = {id(here.parameter): self._masters[name] for name, here in self._places.items()}
        kept = {p: state for p, state in optimizer.state.items() if state and id(p) in masters}
        if any(not _is_of(masters[id(p)], state) for p, state in kept.items()):
            raise GuardError(
                "expected an optimizer without steps, it has momentum of whole parameters.",
                hint=_RECIPE,
            )
        for group in optimizer.param_groups:
            group["params"] = [masters.get(id(p), p) for p in group["params"]]
        for parameter, state in kept.items():  # of a training that is resumed
            master = masters[id(parameter)]
            optimizer.state[master] = {
                key: value.to(master.dtype) if _is_moment(value) else value
                for key, value in state.items()
            }
            del optimizer.state[parameter]

    def before_step(self, optimizer: Any, *, has_closure: bool) -> None:
        """Refuse a step that would change what is kept, or leave a master as it has always been."""
        self.require(optimizer)
        self._reached |= {n for n, master in self._masters.items() if master.grad is not None}
        if not has_closure:  # it makes the gradients within the step
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            names = {name for name, master in self._masters.items() if id(master) in held}
            require_reached(names, names - self._reached)

    def after_step(self) -> None:
        """Write the masters to their places, rounded to the dtype of the model."""
        for name, here in self._places.items():
            here.put(here.parameter, local(self._masters[name]))

    def clip(self, max_norm: float) -> None:
        """Scale the gradients of the masters so that their norm is at most ``max_norm``."""
        import torch

        torch.nn.utils.clip_grad_norm_(self.parameters(), max_norm)

    def verify(self) -> tuple[int, dict[str, str]]:
        """Return how many weights are bit for bit what they were, and digests by parameter.

        Raises:
            VerificationError: with every parameter in which a weight that is not selected changed,
                or a selected one is not what was trained.
        """
        wrapped, found = self._look_up()
        count = self._rest.require(wrapped)
        self._require_written(found)
        return count, self._rest.digests

    def trained_values(self) -> dict[str, Tensor]:
        """Return the masters' values [count] of each matrix, on the CPU; of all processes."""
        self.parameters()
        values: dict[str, Tensor] = {}
        for selection in self._chosen:
            here, trained = self._places[selection.name], local(self._masters[selection.name])
            if is_sharded(here.parameter):
                whole = here.spread(trained).reshape(-1)
                trained = whole[indices_of(self._body, selection).to(whole.device)]
            values |= selection.by_matrix(trained.cpu())
        return values

    def figures(self) -> dict[str, int]:
        """Return counts of values and bytes, see ``GuardReport``."""
        wrapped, found = self._look_up()
        every = dict(wrapped.named_parameters())
        before = [p for name, p in every.items() if self._was.get(name, p.requires_grad)]
        selected = sum(selection.count for selection in self._chosen)
        whole = sum(p.numel() * p.element_size() for p in before)
        own = sum(
            selection.count * self._master_dtype(found[selection.name]).itemsize
            for selection in self._chosen
        )
        indices = sum(each.count * index_bytes(found[each.name]) for each in self._chosen)
        return {
            "trainable": selected,
            "weights": sum(p.numel() for p in every.values()),
            "kept_bytes": own + indices,
            "gradient_bytes": max(0, whole - own),
            "moment_bytes": max(0, 2 * (whole - own)),
        }

    def release(self) -> None:
        """Give ``requires_grad`` back as it was."""
        own = look_under(self._model).own
        for name, was in self._was.items():
            if name in own:
                own[name].requires_grad_(was)

    def unhook(self) -> None:
        """Leave gradients where they are from now on."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _bind(self) -> None:
        """Make the masters of the parameters that are there now, and take their gradients."""
        import torch

        _, found = self._look_up()
        require_own_gradients(found)
        require_trainable(found)
        places, masters = {}, {}
        for selection in self._chosen:
            name, parameter = selection.name, found[selection.name]
            places[name], _ = places_of(name, parameter, indices_of(self._body, selection))
            values = places[name].take(parameter).to(self._master_dtype(parameter))
            masters[name] = torch.nn.Parameter(vector_like(parameter, values, selection.count))
        self._places, self._masters = places, masters
        for name, here in places.items():
            watched: Any = here.parameter
            hook = watched.register_post_accumulate_grad_hook(self._taking(name))
            self._hooks.append(hook)

    def _taking(self, name: str) -> Callable[[Tensor], None]:
        """Return a hook that adds the selected part of a gradient to the master's, and drops it."""

        def take(parameter: Tensor) -> None:
            master, here = self._masters[name], self._places[name]
            if parameter.grad is None:
                return
            kept = local(master)
            taken = here.take(parameter.grad).to(device=kept.device, dtype=kept.dtype)
            if master.grad is None:
                master.grad = vector_like(parameter, taken, master.numel())
            else:
                local(master.grad).add_(taken)
            parameter.grad = None

        return take

    def _look_up(self) -> tuple[Wrapped, dict[str, nn.Parameter]]:
        return look_up(self._model, self._chosen, adapters=False)

    def _require_written(self, found: dict[str, nn.Parameter]) -> None:
        require_bound(self._places, found)
        findings = []
        for name, here in self._places.items():
            got = here.take(here.parameter)
            kept = local(self._masters[name]).to(device=got.device, dtype=got.dtype)
            different = int((got != kept).sum())
            if different:
                findings.append(f"{name}: {different:,} of {got.numel():,} are not what it trained")
        if findings:
            raise VerificationError(
                "expected the trained values in the model, selected weights of "
                f"{len(findings)} of {len(self._places)} parameters hold others:"
                f"{listed(findings, len(findings))}",
                hint="Attach the optimizer before its first step: g.attach(optimizer)",
            )

    @staticmethod
    def _master_dtype(parameter: Tensor) -> Any:
        import torch

        return torch.promote_types(parameter.dtype, torch.float32)


def _is_moment(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and bool(value.ndim)


def _is_of(master: Tensor, state: dict[str, Any]) -> bool:
    """Return whether what an optimizer keeps is of a vector of this length."""
    return all(v.shape == master.shape for v in state.values() if _is_moment(v))
