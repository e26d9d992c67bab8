"""The modules of a live model that an artifact speaks about, and models that have none."""

from __future__ import annotations

import pytest
import torch
from support.locks import tiny_model

from registry.errors import TargetModuleMissingError
from registry.live.sites import attention_outputs, model_geometry


def test_a_model_without_a_config_is_told_how_to_load_it():
    with pytest.raises(TargetModuleMissingError, match="got Linear") as caught:
        model_geometry(torch.nn.Linear(2, 2))
    assert "from_pretrained" in caught.value.hint


def test_a_model_without_the_module_is_told_how_to_load_it():
    model = tiny_model("grouped")
    geometry = model_geometry(model)
    assert len(attention_outputs(model, geometry)) == geometry.layers
    del model.model.layers[1].self_attn.o_proj
    with pytest.raises(TargetModuleMissingError, match=r"layers\.1\.self_attn\.o_proj") as caught:
        attention_outputs(model, geometry)
    assert "from_pretrained" in caught.value.hint
