"""Shipped presets are valid for each family that they claim, have reasons, and fit into the memory that they name."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from dreambooth.memory.forecast import ModelSize
from dreambooth.models.registry import FAMILIES
from dreambooth.models.sd.sd1 import SD1
from dreambooth.models.sd.sdxl import SDXL
from dreambooth.presets.changes import apply, changes, choices_for
from dreambooth.presets.shipped import card_size, card_sizes, configurations, part, shipped_presets
from dreambooth.runs.consistency import conflicts, refused_settings
from dreambooth.runs.memory_need import estimate
from dreambooth.runs.presets import for_object, for_person
from dreambooth.settings import SETTINGS, Settings


def _starts(family):
    return Settings(), Settings(**family.defaults), Settings(offload_fraction=0.5, min_snr_gamma=3, use_ema=True)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_presets_are_valid_for_each_family_that_they_claim_and_say_why(family):
    claiming = [preset for preset in shipped_presets() if not preset.families or family.model_type in preset.families]
    for preset, start in itertools.product(claiming, _starts(family)):
        settings = apply(preset, family, start)
        own = [key for key, value in dataclasses.asdict(settings).items() if value != getattr(start, key)]
        assert own == [key for key in SETTINGS if key in {change.key for change in changes(preset, family, start)}]
        assert not changes(preset, family, settings), "applied twice, it changes nothing more"
        assert not conflicts(settings, torch.device("cpu"))
        touched = choices_for(preset, family, start)
        refused = refused_settings(family, settings)
        assert not [line for line in refused if line.partition(" ")[0] in touched]
        assert settings.use_lora and all(choice.reason.endswith(".") for choice in touched.values())


def test_a_recipe_is_that_of_a_new_model_of_the_family():
    for family in FAMILIES:
        recipe = part("recipe").choices(family.model_type)
        for key in family.defaults.keys() & recipe.keys():
            assert recipe[key].value == family.defaults[key], (family.title, key)


def test_every_family_has_a_preset_for_every_card_but_the_one_that_is_too_large():
    missing = [
        (size, family.model_type)
        for size in card_sizes()
        for family in FAMILIES
        for preset in shipped_presets()
        if preset.name == f"person-{size}gb" and family.model_type not in preset.families
    ]
    assert missing == [(8, "flux2_klein_9b")]


@pytest.mark.parametrize("family", [SD1, SDXL], ids=lambda family: family.model_type)
def test_a_preset_fits_into_the_memory_that_it_names(family):
    """By the formula, which is measured for these families. Those of the others are planned: see BENCHMARKS.md."""
    denoiser, text_encoders, side = family.usual_size
    size = ModelSize(denoiser, text_encoders, family.size_estimate(denoiser))
    for preset in shipped_presets():
        if preset.gpu_memory:
            settings = dataclasses.replace(apply(preset, family, Settings()), resolution=side)
            needed = estimate(settings, "bf16", size, class_images=True, prompts_vary=False).needed
            assert needed < (preset.gpu_memory - 0.4) * 2**30, (preset.name, needed / 2**30)


def test_a_card_counts_as_the_size_that_its_name_says():
    gb = 2**30
    assert [card_size(int(n * gb)) for n in (7.6, 8, 11.6, 15.7, 23.6, 79, 5.9)] == [8, 8, 12, 16, 24, 24, 0]
    assert {choice.reason for config in configurations().values() for choice in config.settings.values()}


def test_wizards_use_the_preset_and_leave_the_choice_between_lora_and_full_training():
    full, lora = for_person(SD1, True, Settings()).changes, for_person(SD1, True, Settings(use_lora=True)).changes
    assert full == {"train_unet": True, "num_train_epochs": 150, "stop_text_encoder": 0.75, "prior_loss_weight": 0.75}
    assert lora.keys() > full.keys() and lora["lora_unet_rank"] == 16 and "use_lora" not in lora
    assert "prior_loss_weight" not in for_object(SD1, False, Settings()).changes
