"""Names and shapes of the published models: each tensor is mapped to the modules, and each module has its tensors.

The tables were read off the original implementations' modules, not off any converter. Files here have the full size's
header and a hole for data, so nothing large is read or written.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dreambooth.checkpoints.extraction_plan import plan_extraction
from dreambooth.checkpoints.manifest import UNMAPPED
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.recognition import recognize_family
from dreambooth.errors import UserError
from dreambooth.models.recognition import component_configs
from dreambooth.tensor_files import TensorSpec, TensorWriter

N_SCHEDULES = 12  # betas and what follows from them, in the file of each model before SDXL


class Published(NamedTuple):
    n_tensors: int
    n_rest: int  # tensors that the modules don't have
    parameters: dict[str, int]  # as counted by those who published them, or by their own modules
    configs: dict[str, dict[str, Any]]  # as published in their diffusers folders


_UNET_1 = {"block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": 8, "cross_attention_dim": 768}
_TEXT_1 = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "quick_gelu"}
PUBLISHED = {
    "sd15": Published(
        1143,
        N_SCHEDULES + 1,  # position ids
        {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
        {"unet": {**_UNET_1, "in_channels": 4}, "text_encoder": _TEXT_1, "vae": {"scaling_factor": 0.18215}},
    ),
    "sd15-inpainting": Published(
        1831,
        N_SCHEDULES + 1 + 2,  # the two counters of the EMA
        {"unet": 859_535_364, "vae": 83_653_863, "text_encoder": 123_060_480, "ema_unet": 859_535_364},
        {"unet": {**_UNET_1, "in_channels": 9}, "text_encoder": _TEXT_1, "vae": {"scaling_factor": 0.18215}},
    ),
    "sd21-768-v": Published(
        1240,
        N_SCHEDULES + 12 + 2,  # the last text layer; text projection and logit scale
        {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
        {
            "unet": {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True,
                     "upcast_attention": True, "sample_size": 96},
            "text_encoder": {"hidden_size": 1024, "num_hidden_layers": 23, "num_attention_heads": 16,
                             "intermediate_size": 4096, "hidden_act": "gelu"},
            "vae": {"scaling_factor": 0.18215, "sample_size": 768},
        },
    ),
    "sdxl-base": Published(
        2516,
        3,  # sigmas, position ids, logit scale
        {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
        {
            "unet": {"attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10],
                     "cross_attention_dim": 2048, "use_linear_projection": True, "addition_embed_type": "text_time",
                     "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
                     "block_out_channels": [320, 640, 1280], "sample_size": 128,
                     "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
                     "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]},
            "text_encoder": _TEXT_1,
            "text_encoder_2": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20,
                               "intermediate_size": 5120, "hidden_act": "gelu", "projection_dim": 1280},
            "vae": {"scaling_factor": 0.13025, "force_upcast": True, "sample_size": 1024},
        },
    ),
}  # fmt: skip


@pytest.fixture
def hollow(tmp_path: Path):
    """A file with the tensors of a table, all zeros."""

    path = tmp_path / "hollow.safetensors"

    def make(table: dict[str, TensorSpec]) -> Path:
        writer = TensorWriter(path, table)
        writer._file.close()
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size + sum(spec.n_bytes for spec in table.values()))
        return path

    yield make
    path.unlink()  # not every file system can leave a hole


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_is_mapped_to_a_module(name, hollow, key_tables):
    expected = PUBLISHED[name]
    with open_tensors(hollow(key_tables(name))) as file:
        # Given, since SD2's two variants differ only in values, which are missing here.
        family, _ = recognize_family(file, prediction="v_prediction" if "-v" in name else "epsilon")
        configs = component_configs(family, file)
        copies = plan_extraction(file, family, configs, extract_ema=True, dtype=None)
        assert len(copies) == len(file.keys()) == expected.n_tensors
    assert sum(copy.component == UNMAPPED for copy in copies) == expected.n_rest
    counts = {component: 0 for component in expected.parameters}
    for copy in copies:
        if copy.component != UNMAPPED:
            counts[copy.component] += sum(math.prod(spec.shape) for spec in copy.specs)
    assert counts == expected.parameters
    for component, config in expected.configs.items():
        assert {key: configs[component][key] for key in config} == config


UNET_AND_VAE = ("model.diffusion_model.", "first_stage_model.")
MIXED = [
    ("sd15", "sd21-768-v", "width 768, its text encoder has width 1024: it mixes model families"),
    ("sd21-768-v", "sd15", "Stable Diffusion 2.x .* without text encoder|mixes model families|of an unknown family"),
    ("sd15", "sdxl-base", "not a complete Stable Diffusion XL checkpoint .*mixes model families"),
    ("sd21-768-v", "sdxl-base", "not a complete Stable Diffusion XL checkpoint .*mixes model families"),
    ("sdxl-base", "sd15", "XL checkpoint without text encoder 1 .* and text encoder 2"),
    ("sdxl-base", "sd21-768-v", "XL checkpoint without text encoder 1 .* and text encoder 2"),
]


@pytest.mark.parametrize(("of", "text_of", "expected"), MIXED)
def test_parts_of_different_families_are_refused(of, text_of, expected, hollow, key_tables):
    table = {key: spec for key, spec in key_tables(of).items() if key.startswith(UNET_AND_VAE)}
    texts = ("cond_stage_model.", "conditioner.")
    table |= {key: spec for key, spec in key_tables(text_of).items() if key.startswith(texts)}
    with open_tensors(hollow(table)) as file, pytest.raises(UserError, match=expected) as refusal:
        component_configs(recognize_family(file)[0], file)
    assert str(file.path) in str(refusal.value) and "\n" not in str(refusal.value)
