"""What a family can't have is refused before a run; its defaults and libraries are respected. Others are unaffected."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import ClassVar

import pytest
import torch
from PIL import Image

from dreambooth import actions
from dreambooth.checkpoints.modules import load_modules
from dreambooth.errors import UserError
from dreambooth.memory.forecast import ModelSize
from dreambooth.models import registry
from dreambooth.models.capabilities import (
    FLOW_MATCHING,
    NO_CLIP,
    NO_TEXT_ENCODER_TRAINING,
    Capabilities,
    Limit,
    limited,
)
from dreambooth.models.libraries import library_problem
from dreambooth.models.sd.sd1 import SD1, StableDiffusion1
from dreambooth.models.sd.sd2 import SD2_768
from dreambooth.models.sd.sdxl import SDXL
from dreambooth.models.sd.stable_diffusion import StableDiffusion
from dreambooth.models.size_estimate import SizeEstimate
from dreambooth.runs import presets
from dreambooth.runs.consistency import refused_settings
from dreambooth.runs.preflight import preflight
from dreambooth.settings import SETTINGS, Concept, Folders, ModelFolder, Settings
from dreambooth.settings.objective import FLOW_ONLY

CPU = torch.device("cpu")


class Limited(StableDiffusion1):
    """Reads the files of Stable Diffusion 1, with the limits of a flow-matching transformer."""

    title = "Limited"
    capabilities = Capabilities({
        **NO_CLIP, **FLOW_MATCHING, **NO_TEXT_ENCODER_TRAINING, **limited("it has no masks", "masked_loss"),
        "use_lora": Limit("it is too large to train whole", (True,)),
    })  # fmt: skip
    defaults: ClassVar = {
        "stop_text_encoder": 0.0, "use_lora": True, "scheduler": "EulerDiscrete", "lora_learning_rate": 3e-4
    }  # fmt: skip


class Needy(StableDiffusion1):
    """Needs a library that doesn't exist yet, and one that isn't installed."""

    title = "Needy"
    required_libraries: ClassVar = {"torch": ">=1000", "no-such-package": ">=1"}


@pytest.fixture
def folders(models_dir):
    return Folders(models_dir)


@pytest.fixture
def concept(tmp_path):
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "a dog.png")
    return Concept(instance_data_dir=str(tmp_path), instance_prompt="a dog")


@pytest.fixture
def family(request, monkeypatch):
    """Takes the place of Stable Diffusion 1."""
    family = request.param()
    monkeypatch.setattr(registry, "FAMILIES", [family, SD2_768, SDXL])
    return family


REFUSED = {
    "clip_skip": (2, "its text encoder has no clip skip. Set it to 1."),
    "max_token_length": (150, "Set it to 75."),
    "min_snr_gamma": (5.0, "it is not defined for flow matching. Set it to 0."),
    "zero_terminal_snr": (True, "Switch it off."),
    "stop_text_encoder": (0.5, "can't have 0.5: its text encoder is too large to train. Set it to 0."),
    "scheduler": ("DDIM", "Choose EulerDiscrete, DPMSolverMultistep or UniPCMultistep."),
    "use_lora": (False, "it is too large to train whole. Switch it on."),
    "masked_loss": (True, "masked_loss (Masked loss): Limited can't have this: it has no masks. Switch it off."),
}


@pytest.mark.parametrize("family", [Limited], indirect=True)
def test_everything_that_a_family_cannot_have_is_refused_at_once(family, mini, concept):
    values = {key: value for key, (value, _) in REFUSED.items()}
    config = dataclasses.replace(mini.load(), settings=Settings(**values), concepts=(concept,))
    with pytest.raises(UserError) as refused:
        preflight(mini, config, CPU)
    assert len(refused.value.problems) == len(REFUSED)
    for key, (_, text) in REFUSED.items():
        (line,) = (
            line for line in refused.value.problems if line.startswith(f"{key} ({SETTINGS[key].label}): Limited")
        )
        assert line.endswith(text)

    allowed = Settings(**{**family.defaults, "weighted_captions": False, "clip_skip": 1})
    checked = preflight(mini, dataclasses.replace(config, settings=allowed), CPU)
    assert not [line for line in checked.warnings if "Limited" in line]
    without_effect = dataclasses.replace(allowed, freeze_clip_normalization=True)
    assert not SETTINGS["freeze_clip_normalization"].applies_to(dataclasses.asdict(without_effect))
    assert refused_settings(family, without_effect) == [], "it has no effect on LoRA training of any family"


def test_stable_diffusion_refuses_what_is_for_flow_matching_alone():
    other = {"resolution_shift": True, "flow_loss_weighting": "cosmap"}
    assert other.keys() == FLOW_ONLY.keys()
    families = [family for family in registry.FAMILIES if isinstance(family, StableDiffusion)]
    for family in families:
        assert set(family.capabilities.limits) == set(FLOW_ONLY)
        assert len(refused_settings(family, Settings(**other))) == len(other)
        assert refused_settings(family, Settings(clip_skip=2, weighted_captions=True, zero_terminal_snr=True)) == []
    assert [family.model_type for family in families if family.capabilities.without_effect] == [
        "v2x", "v2x-512", "SDXL"
    ]  # fmt: skip


def test_a_limit_of_an_unknown_setting_is_an_error():
    with pytest.raises(ValueError, match="no_such_setting"):
        Capabilities(limited("because", "no_such_setting"))


@pytest.mark.parametrize("family", [Limited], indirect=True)
def test_create_writes_the_defaults_of_the_family(family, folders, mini_checkpoint):
    actions.create(folders, "new", mini_checkpoint)
    saved = json.loads((folders.models / "dreambooth" / "new" / "db_config.json").read_text(encoding="utf-8"))
    assert {key: saved[key] for key in family.defaults} == family.defaults
    assert saved["resolution"] == actions.native_resolution(ModelFolder(folders, "new"))


@pytest.mark.parametrize("family", [Needy], indirect=True)
def test_a_family_whose_library_is_missing_says_what_to_install(family, folders, mini, mini_checkpoint, concept):
    text = re.escape(f"Needy needs torch>=1000 ({torch.__version__.partition('+')[0]}") + r".* is installed\) and "
    text += re.escape('no-such-package>=1 (not installed): run pip install "torch>=1000" "no-such-package>=1"')
    with pytest.raises(UserError, match=text):
        actions.create(folders, "new", mini_checkpoint)
    assert not (folders.models / "dreambooth" / "new").exists()
    with pytest.raises(UserError, match=text):
        load_modules(mini.working)
    with pytest.raises(UserError, match=text):
        preflight(mini, dataclasses.replace(mini.load(), concepts=(concept,)), CPU)
    assert registry.unavailable_families() == {"v1x": "torch>=1000 and no-such-package>=1"}
    assert library_problem(SD1) == library_problem(SDXL) == ""


@pytest.mark.parametrize("family", [Limited], indirect=True)
def test_wizards_recommend_only_what_the_family_can_have(family, monkeypatch):
    assert presets.for_person(family, True).changes["stop_text_encoder"] == 0
    assert presets.for_person(SD1, True).changes["stop_text_encoder"] == 0.75
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**15, 10**15))
    monkeypatch.setattr(presets, "resolve_precision", lambda settings, device: "bf16")
    monkeypatch.setattr(presets, "unavailable_reason", lambda name, device: "none")
    size = ModelSize(1000, 100, SizeEstimate())
    by_family = [presets.for_machine(Settings(), torch.device("cuda"), f, size, False).changes for f in (family, SD1)]
    assert [changes["use_lora"] for changes in by_family] == [True, False]
