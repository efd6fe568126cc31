"""Which layers of Stable Diffusion get an adapter, and with which rank."""

from __future__ import annotations

import pytest

from dreambooth import actions
from dreambooth.checkpoints.modules import load_modules
from dreambooth.errors import UserError
from dreambooth.models.adapter_layers import LayerKinds, chosen_layers
from dreambooth.models.sd.sd1 import SD1
from dreambooth.runs.preflight import preflight
from tests.training.conftest import SMALL


def test_presets_choose_among_the_layers_of_transformers_and_leave_convolutions(mini):
    modules = load_modules(mini.working, vae=False)

    def chosen(layers, component="unet", convolutions=False):
        return set(chosen_layers(modules.family, component, modules.parts[component], layers, convolutions))

    default = chosen("default")
    attention = {path for path in default if ".attn1." in path or ".attn2." in path}
    mlp = {path for path in default if ".ff.net." in path}
    projections = {path for path in default if path.endswith((".proj_in", ".proj_out"))}
    assert all((attention, mlp, projections)) and default == attention | mlp | projections
    assert chosen("attention") == attention and chosen("attention+mlp") == attention | mlp
    assert chosen("all-linear") == default
    convolutions = chosen("default", convolutions=True) - default
    assert convolutions and chosen("attention", convolutions=True) == attention | convolutions
    text = chosen("default", "text_encoder")
    assert chosen("attention", "text_encoder") == {path for path in text if ".self_attn." in path} < text
    assert chosen("attention+mlp", "text_encoder") == chosen("all-linear", "text_encoder") == text


def test_a_family_whose_layers_are_not_known_has_no_presets(mini, concept, monkeypatch):
    monkeypatch.setattr(type(SD1), "layer_kinds", LayerKinds())
    config = actions.configure(mini, {**SMALL, "lora_layers": "attention"}, [concept])
    with pytest.raises(UserError, match=r"lora_layers .* of Stable Diffusion 1.* Set it to default"):
        preflight(mini, config)
    assert preflight(mini, actions.configure(mini, {"lora_layers": "default"}, [concept]))


def test_a_run_with_other_layers_is_not_resumed(train, mini, concept):
    train(lora_layers="attention", max_train_steps=1, save_state_after=True)
    with pytest.raises(UserError, match=r"lora_layers .* was trained with 'attention'"):
        preflight(mini, actions.configure(mini, {**SMALL, "lora_layers": "default"}, [concept]), resume="latest")
