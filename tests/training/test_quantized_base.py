"""LoRAs trained on a quantized base model learn what they learn on the full one, and belong to the original model."""

from __future__ import annotations

import shutil

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.modules import load_component
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.memory.quantized import QuantizedConv2d, QuantizedLinear
from dreambooth.settings import Concept, CreateOptions, Folders, ModelFolder
from dreambooth.training.session import Session
from tests.toy_family import registered, write_files
from tests.training.conftest import short_run

FORMS = {
    "LoHa": {"lora_type": "LoHa", "use_lora_extended": True},
    "LoKr": {"lora_type": "LoKr", "gradient_checkpointing": True},
    "DoRA": {"lora_dora": True, "use_lora_extended": True},
}
# Largest differences to the full model: of one step's loss, of the mean loss, of all trained weights as one vector.
BOUNDS = {"int8": (0.02, 0.006, 0.004), "fp8": (0.1, 0.02, 0.01), "nf4": (0.15, 0.04, 0.03)}


@pytest.fixture
def layers(monkeypatch):
    """The classes of modules in each component, of every run."""
    found: list[dict[str, set[type]]] = []
    load = Session._load_denoiser

    def recorded(self):
        load(self)
        found.append({name: {type(m) for m in part.modules()} for name, part in self.modules.parts.items()})

    monkeypatch.setattr(Session, "_load_denoiser", recorded)
    return found


def _vector(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([weights[key].float().flatten() for key in sorted(weights) if ".lora_down" not in key])


@pytest.mark.parametrize("form", FORMS)
def test_every_adapter_is_trained_on_quantized_layers(train, models_dir, created, layers, form):
    """DoRA reads the weights too: its magnitudes are those of the dequantized ones."""
    settings = {"max_train_steps": 2, "use_dream": True, **FORMS[form]}
    full = train(**settings)
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)
    quantized = train(**settings, base_precision="int8")
    for part in ("unet", "text_encoder"):
        assert QuantizedLinear in layers[1][part] - layers[0][part]
    assert QuantizedConv2d in layers[1]["unet"]
    assert full.losses != quantized.losses == pytest.approx(full.losses, rel=0.01)


@pytest.fixture(scope="module")
def curves(created_embedded, images, tmp_path_factory):
    """Runs of the embedded model by the precision of its frozen weights."""
    concept = Concept(instance_data_dir=str(images / "instance"), instance_token="zwx", class_token="toy")
    runs = {}
    for precision in ("full", *BOUNDS):
        folder = tmp_path_factory.mktemp(precision) / "models"
        shutil.copytree(created_embedded, folder)
        runs[precision] = short_run(
            ModelFolder(Folders(folder), "mini"), concept, samples=0, num_train_epochs=2, base_precision=precision
        )
    return runs


@pytest.mark.parametrize("kind", BOUNDS)
def test_the_loss_curve_and_the_weights_are_those_of_the_full_model(curves, kind):
    full, quantized = curves["full"], curves[kind]
    one, mean, weights = BOUNDS[kind]
    ratios = torch.tensor(quantized.losses, dtype=torch.float64) / torch.tensor(full.losses, dtype=torch.float64) - 1
    assert len(ratios) == 6 and 0 < ratios.abs().max() < one and ratios.mean().abs() < mean
    expected = _vector(full.weights())
    assert (_vector(quantized.weights()) - expected).norm() < weights * expected.norm()


def test_the_lora_is_merged_into_the_original_weights(mini, train):
    before = {name: p.clone() for name, p in load_component(mini.working, "unet").named_parameters()}
    files = {path: path.read_bytes() for path in mini.working.rglob("*") if path.is_file()}
    outcome = train(base_precision="fp8", save_state_after=True)
    (lora,) = outcome.result.files
    assert {path: path.read_bytes() for path in files} == files
    with open_tensors(lora) as file:
        assert file.metadata["ss_fp8_base"] == "True"
    merged, verification = actions.generate_checkpoint(mini, loras=[lora], precision="fp32")
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    adapter = read_lora(lora).weights[name]
    weight = before["mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
    with open_tensors(merged) as file:
        key = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
        assert verification.ok and torch.equal(file.get(key), adapter.apply(weight))


def test_full_training_on_it_is_refused(train):
    refused = train(use_lora=False, base_precision="int8")
    assert refused.error.problems == [
        "base_precision (Base model precision): int8 is for the frozen base model of a LoRA; full training changes "
        "these weights. Choose full, or switch on use_lora."
    ]


def test_a_family_that_the_package_does_not_know(tmp_path, images, layers):
    """Its blocks are quantized without a word of its own, and training learns the same."""
    losses = {}
    with registered():
        files = write_files(tmp_path)
        for kind in ("full", "int8"):
            folders = Folders(tmp_path / kind)
            options = CreateOptions(text_encoder=str(files.text_encoder), vae=str(files.vae))
            actions.create(folders, "toy", files.denoiser, options)
            concept = Concept(instance_data_dir=str(images / "instance"), n_save_sample=1, save_infer_steps=2)
            outcome = short_run(
                ModelFolder(folders, "toy"), concept, base_precision=kind, stop_text_encoder=1.0, save_preview_every=1,
                bucket_step=16, gradient_checkpointing=True,
            )  # fmt: skip
            assert outcome.error is None and outcome.of("preview")
            losses[kind] = outcome.losses
    assert QuantizedLinear in layers[1]["transformer"] & layers[1]["text_encoder"]
    assert losses["full"] != losses["int8"] == pytest.approx(losses["full"], rel=0.01)
