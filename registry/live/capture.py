"""Reading and shifting what flows into modules, by hooks that are always removed.

Every context manager registers all its hooks or none, and removes them in reverse order.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn


@contextmanager
def captured_inputs(modules: Sequence[nn.Module]) -> Iterator[list[Tensor | None]]:
    """Yield a list that holds each module's latest input, [batch, tokens, in_features]."""
    seen: list[Tensor | None] = [None] * len(modules)

    def reader(index: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[index] = args[0].detach()

        return hook

    with ExitStack() as stack:
        for index, module in enumerate(modules):
            stack.callback(module.register_forward_pre_hook(reader(index)).remove)
        yield seen


@contextmanager
def captured_calls(modules: Sequence[nn.Module]) -> Iterator[list[tuple[Tensor, Tensor] | None]]:
    """Yield a list that holds each module's latest (input, output)."""
    seen: list[tuple[Tensor, Tensor] | None] = [None] * len(modules)

    def reader(index: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen[index] = (args[0].detach(), output.detach())

        return hook

    with ExitStack() as stack:
        for index, module in enumerate(modules):
            stack.callback(module.register_forward_hook(reader(index)).remove)
        yield seen


@contextmanager
def shifted_inputs(shifts: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Add a vector [in_features] to every token of each module's input: the hook form."""

    def adder(shift: Tensor) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...]:
            moved = args[0] + shift.to(device=args[0].device, dtype=args[0].dtype)
            return (moved, *args[1:])

        return hook

    with ExitStack() as stack:
        for module, shift in shifts.items():
            stack.callback(module.register_forward_pre_hook(adder(shift)).remove)
        yield
