"""What puts the base's layers back into a model that is trained, by what is wrapped around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.live.wrapped import Wrapped


def how_to_put_back(wrapped: Wrapped) -> str:
    """Return the repair of a model whose layers changed, as code that works on this one.

    ``protect`` writes into plain parameters under their own names. An adapter is kept without the
    weights that it was trained on, so it goes onto the model as it was, and nothing is merged.
    """
    import torch

    if wrapped.adapters:
        holder = wrapped.path.removesuffix(".get_base_model()")
        return (
            "Keep the adapter and put it on the model as it was: "
            f"model{holder}.save_pretrained(DIR); PeftModel.from_pretrained("
            "AutoModelForCausalLM.from_pretrained(MODEL), DIR)"
        )
    there = dict(wrapped.model.named_parameters(remove_duplicate=False))
    if set(there) == set(wrapped.own) and all(
        type(parameter) is torch.nn.Parameter for parameter in there.values()
    ):
        return (
            f"Put the base's layers back: registry.protect(model{wrapped.path}, artifact, base=DIR)"
        )
    own_names = ""
    if any("_orig_mod." in name for name in there):  # torch.compile saves its own step with them
        own_names = (
            ", state_dict={n.replace('_orig_mod.', ''): t for n, t in "
            f"model{wrapped.path}.state_dict().items()}}"
        )
    return (
        "Save it and load it with the base's layers: "
        f"model{wrapped.path}.save_pretrained(DIR{own_names}); "
        "registry.load_protected(DIR, artifacts=[artifact], base=BASE)"
    )
