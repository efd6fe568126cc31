"""A training adapter changes what is predicted while training, and neither previews nor the result."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.lora import apply_lora
from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.errors import UserError
from dreambooth.jobs import Controls, Events
from dreambooth.runs.preflight import preflight
from dreambooth.training.session import Session
from tests.training.conftest import SMALL

DENOISER = {"use_lora_extended": True, "stop_text_encoder": 0}


@pytest.fixture
def adapter(train, tmp_path: Path) -> Path:
    """Of attention and convolutions."""
    outcome = train(**DENOISER, max_train_steps=2, lora_learning_rate=0.01)
    return Path(shutil.copy(outcome.result.files[-1], tmp_path / "adapter.safetensors"))


def test_it_is_active_in_training_alone(mini, concept, adapter: Path) -> None:
    settings = {**SMALL, "mixed_precision": "no", "lora_unet_rank": 2, "training_adapter": str(adapter)}
    config = actions.configure(mini, settings, [concept])
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 77, 32)

    def predicted(module: Any) -> torch.Tensor:
        states = inputs[2][..., : module.config.cross_attention_dim]
        with torch.no_grad():
            return module(*inputs[:2], states).sample

    plain = load_modules(mini.working, vae=False, text_encoder=False)
    without = predicted(plain.denoiser)
    apply_lora(plain, read_lora(adapter))
    merged = predicted(plain.denoiser)
    with contextlib.closing(Session(preflight(mini, config).context(Controls(), Events()))) as session:
        active = predicted(session.modules.denoiser)
        with session.for_sampling():
            in_previews = predicted(session.modules.denoiser)
        assert torch.equal(predicted(session.modules.denoiser), active)
    assert (merged - without).abs().max() > 0.01
    torch.testing.assert_close(active, merged, atol=1e-5, rtol=1e-5)
    assert torch.equal(in_previews, without), "new adapters begin with an update of zero"


@pytest.mark.parametrize("kind", [{"base_precision": "int8", "gradient_checkpointing": True, "mixed_precision": "bf16"},
                                  {"lora_type": "LoHa", "lora_dora": True}], ids=["quantized", "LoHa"])  # fmt: skip
def test_it_is_not_in_the_result(train, adapter: Path, kind: dict[str, Any]) -> None:
    plain = train(**DENOISER, **kind, max_train_steps=2)
    names = plain.weights().keys()
    trained = train(**DENOISER, **kind, max_train_steps=2, training_adapter=str(adapter))
    assert trained.error is None and trained.weights().keys() == names
    assert trained.losses[0] != plain.losses[0]


def test_files_that_it_can_not_be_are_named_before_the_run(train, mini, concept, adapter: Path, tmp_path: Path) -> None:
    loha = train(**DENOISER, lora_type="LoHa", max_train_steps=1).result.files[-1]
    with_text = train(stop_text_encoder=1, max_train_steps=1).result.files[-1]

    def problem(path: object, **settings: Any) -> str:
        config = actions.configure(mini, {**SMALL, "training_adapter": str(path), **settings}, [concept])
        try:
            preflight(mini, config)
        except UserError as error:
            return str(error)
        return ""

    assert problem(adapter) == problem("nowhere", use_lora=False) == ""
    assert problem("nowhere").startswith("training_adapter: there is no file nowhere")
    for path in (loha, with_text):
        assert f"training_adapter: {path} is not a plain LoRA of the UNet alone." in problem(path)
    vae = next((mini.working / "vae").glob("*.safetensors"))
    assert problem(vae).startswith("training_adapter: ")
