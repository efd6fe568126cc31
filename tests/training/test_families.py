"""Every family trains, in adapters and in full, with its own target, conditioning and masks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dreambooth import actions
from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.modules import load_family, load_modules
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.dataset.pixels import load_rgb
from dreambooth.dataset.plan import Batch, Example
from dreambooth.files import read_json
from dreambooth.images.buckets import Crop
from dreambooth.models.conditioning import Conditioning
from dreambooth.models.process import DDPM
from dreambooth.models.sd.unet_denoiser import UNetDenoiser, time_ids
from dreambooth.runs.preflight import preflight
from dreambooth.settings import Concept, CreateOptions, Folders, ModelFolder, Settings
from dreambooth.training import inpainting
from dreambooth.training.inpainting import InpaintingInputs, random_mask
from dreambooth.training.inputs import image_size
from dreambooth.training.noise import generator_for
from dreambooth.training.objective import diffusion_losses
from tests import mini_models
from tests.mini_models import make

KINDS = {
    "SD1 inpainting": ("v1x", {"inpainting": True}),
    "SD2 768": ("v2x", {}),
    "SD2 512": ("v2x-512", {}),
    "SD2 inpainting": ("v2x-512", {"inpainting": True}),
    "SDXL": ("SDXL", {}),
    "SDXL v": ("SDXL", {"v_pred": True, "ztsnr": True}),
    "SDXL inpainting": ("SDXL", {"inpainting": True}),
}


@pytest.fixture
def create(tmp_path):
    """A model of a kind, created from its mini file."""

    def create(kind: str) -> ModelFolder:
        model_type, marks = KINDS[kind]
        return mini_models.create(Folders(tmp_path / "models"), "m", model_type, **marks)

    return create


@pytest.fixture
def concept(tmp_path) -> Concept:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (70, 64 + 8 * i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"a zwx toy {i}.png")
    Image.new("L", (64, 70), 255).save(folder / "a zwx toy 0_mask.png")
    return Concept(instance_data_dir=str(folder), n_save_sample=1, save_infer_steps=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use_lora", [True, False], ids=["LoRA", "full"])
def test_trains_previews_and_exports(create, concept, kind, use_lora):
    model = create(kind)
    family, before = load_family(model.working), load_modules(model.working)
    settings = {
        "use_lora": use_lora, "resolution": 64, "bucket_step": 8, "max_train_steps": 3, "train_batch_size": 2,
        "lora_learning_rate": 1e-2, "lora_txt_learning_rate": 1e-2, "learning_rate": 1e-4, "txt_learning_rate": 1e-4,
    }  # fmt: skip
    result = actions.train(model, actions.configure(model, settings, [concept]))
    assert len(list(model.samples.glob("*.png"))) == 1
    (made,) = result.files
    if use_lora:
        weights = read_lora(made).weights
        expected = {"v1x": {"lora_te"}, "SDXL": {"lora_te1", "lora_te2"}}.get(family.model_type, {"lora_te"})
        assert {name.split("_text_model")[0] for name in weights if "_te" in name} == expected
        blocks = "lora_unet_input_blocks_" if family.model_type == "SDXL" else "lora_unet_down_blocks_"
        assert any(name.startswith(blocks) for name in weights)
        with open_tensors(made) as file:
            assert file.metadata["ss_base_model_version"] == family.base_model_version
            assert file.metadata["modelspec.architecture"].endswith("/lora")
        return
    after = load_modules(model.working)
    for part in (family.denoiser.name, *(c.name for c in family.text_encoders)):
        old, new = dict(before.parts[part].named_parameters()), dict(after.parts[part].named_parameters())
        assert any(not torch.equal(old[name], new[name]) for name in old), f"{part} was not trained"
    found = actions.generate_checkpoint(model)[1]
    assert found.ok and found.n_changed > 100


@pytest.mark.parametrize(
    ("kind", "target"), [("SD2 768", "v"), ("SDXL v", "v"), ("SDXL", "eps"), ("SD2 512", "eps")]
)  # fmt: skip
def test_a_unet_that_is_exact_for_its_target_has_no_loss(create, kind, target):
    """A UNet that is given the latents predicts exactly; with the other target, its loss is large."""
    schedule = DDPM(read_json(create(kind).working / "scheduler" / "scheduler_config.json"))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    exact = {kind: _loss(_ExactUnet(latents, schedule, kind), schedule, latents) for kind in ("v", "eps")}
    other = exact["eps" if target == "v" else "v"]
    assert exact[target] < 1e-4 and other > 0.3


class _ExactUnet(torch.nn.Module):
    """Predicts the velocity or the noise of its input exactly, since it is given the latents."""

    def __init__(self, latents: torch.Tensor, schedule: DDPM, prediction: str) -> None:
        super().__init__()
        self.latents, self.schedule, self.prediction = latents, schedule, prediction
        self.dtype_of = torch.nn.Parameter(torch.zeros(1))

    def forward(self, noisy, t, encoder_hidden_states, return_dict, added_cond_kwargs=None):
        alpha = self.schedule.add_noise(torch.ones(1, 1, 1, 1), torch.zeros(1), t)
        sigma = self.schedule.add_noise(torch.zeros(1, 1, 1, 1), torch.ones(1), t)
        noise = (noisy - alpha * self.latents) / sigma
        return (alpha * noise - sigma * self.latents if self.prediction == "v" else noise,)


def _loss(unet, schedule, latents) -> float:
    crop = Crop(resized_w=64, resized_h=64, left=0, top=0, width=64, height=64)
    example = Example(Path("x.png"), "a", "x", 0, False, "", (64, 64), crop)
    store = SimpleNamespace(batch=lambda examples, generator: latents)
    prompts = SimpleNamespace(batch=lambda captions: Conditioning({"states": torch.zeros(1, 77, 8)}))
    losses = [
        diffusion_losses(
            UNetDenoiser(unet), schedule, store, prompts, None, Batch((example,), ()), generator_for(0, step),
            Settings(), prior_weight=1.0,
        ).total.item()
        for step in range(20)
    ]  # fmt: skip
    return sum(losses) / len(losses)


def test_zero_terminal_snr_leaves_no_signal_at_the_last_timestep(create):
    from diffusers import DDIMScheduler

    config = read_json(create("SDXL v").working / "scheduler" / "scheduler_config.json")
    ours = DDPM(config)
    assert ours.add_noise(torch.ones(1, 1, 1, 1), torch.zeros(1), torch.tensor([999])).abs().max() < 1e-6
    theirs = DDIMScheduler.from_config(config)
    x, noise, t = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8), torch.tensor([0, 300, 900, 999])
    torch.testing.assert_close(ours.add_noise(x, noise, t), theirs.add_noise(x, noise, t), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.target(x, noise, t), theirs.get_velocity(x, noise, t), rtol=1e-4, atol=1e-5)


def test_what_a_checkpoint_predicts_is_marked_for_other_programs(tmp_path, concept):
    """If the source lacks the marker, and if training changed the prediction type."""
    folders = Folders(tmp_path / "models")
    source = make(tmp_path / "source.safetensors", "SDXL", declare_prediction=False)
    actions.create(folders, "m", source, CreateOptions(prediction_type="v_prediction"))
    model = ModelFolder(folders, "m")
    settings = {"resolution": 64, "bucket_step": 8, "max_train_steps": 1, "zero_terminal_snr": True}
    (made,) = actions.train(model, actions.configure(model, settings, [concept])).files
    with open_tensors(made) as file, open_tensors(source) as before:
        assert set(file) - set(before) == {"v_pred", "ztsnr"}
    assert actions.create(folders, "again", made).info.prediction_type == "v_prediction"


def test_sizes_are_those_of_the_image_and_its_crop():
    crop = Crop(resized_w=100, resized_h=60, left=18, top=0, width=64, height=60)
    example = Example(Path("x.png"), "a", "x", 0, False, "", (200, 120), crop)
    assert time_ids([image_size(example)]).tolist() == [[120, 200, 0, 18, 60, 64]]


def test_masks_come_from_files_or_at_random(create, concept, monkeypatch):
    model = create("SD1 inpainting")
    plan = preflight(model, actions.configure(model, {"resolution": 64, "bucket_step": 8}, [concept])).plan
    assert [example.mask is not None for example in plan.examples] == [True, False, False]
    modules = load_modules(model.working, denoiser=False, text_encoder=False)
    decoded = []
    monkeypatch.setattr(inpainting, "load_rgb", lambda example: decoded.append(example) or load_rgb(example))
    inputs = InpaintingInputs(lambda: modules.vae, modules.latent_codec, torch.device("cpu"))
    with_mask = plan.examples[:1]
    extra_channels, again = (inputs.extra_channels(with_mask, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(again, extra_channels) and len(decoded) == 1
    width, height = with_mask[0].bucket
    assert extra_channels.shape == (1, 5, height // 8, width // 8) and (extra_channels[:, 0] == 1).all()
    masks = [random_mask(64, 48, generator_for(seed)) for seed in range(200)]
    fraction = torch.tensor([mask.mean() for mask in masks])
    assert all(mask.shape == (1, 48, 64) and ((mask == 0) | (mask == 1)).all() for mask in masks)
    assert 0.15 < (fraction == 1).float().mean() < 0.4 and ((fraction > 0) & (fraction < 1)).float().mean() > 0.5
    assert torch.equal(random_mask(64, 48, generator_for(3)), masks[3])
