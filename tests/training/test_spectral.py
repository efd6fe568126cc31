"""Spectral norms that are held: against singular values in float64, of toys and of what a run leaves."""

from __future__ import annotations

import pytest
import torch

from dreambooth import actions
from dreambooth.errors import UserError
from dreambooth.training.spectral import SpectralNorms
from tests.training.conftest import SMALL, tensors

FULL = {"use_lora": False, "save_ckpt_after": False, "learning_rate": 1e-4, "txt_learning_rate": 1e-4, "seed": 5}


def norm(weight: torch.Tensor) -> float:
    return torch.linalg.matrix_norm(weight.detach().double().flatten(1), 2).item()


def test_a_step_is_scaled_back_as_singular_values_in_float64_say():
    torch.manual_seed(0)
    modules = torch.nn.ModuleList([torch.nn.Linear(40, 30), torch.nn.Conv2d(6, 5, 3), torch.nn.LayerNorm(8)])
    modules.append(torch.nn.Linear(4, 4).requires_grad_(False))
    empty = torch.nn.Linear(3, 3)
    torch.nn.init.zeros_(empty.weight)
    modules.append(empty)
    linear, conv = modules[0].weight, modules[1].weight
    norms = SpectralNorms([modules])
    assert [id(w) for w in norms.weights] == [id(linear), id(conv)]
    for weight, held in zip(norms.weights, norms.norms, strict=True):
        assert held.item() == pytest.approx(norm(weight), rel=1e-5)
    for _ in range(50):
        before = [w.detach().clone() for w in norms.weights]
        with torch.no_grad():
            for weight in norms.weights:
                weight += 0.001 * torch.randn_like(weight)
        moved = [w.detach().clone() for w in norms.weights]
        norms.hold()
    for weight, old, new, held in zip(norms.weights, before, moved, norms.norms, strict=True):
        assert norm(weight) == pytest.approx(held.item(), rel=1e-3)
        wanted = new.double() * held.item() / norm(new)
        assert (weight - wanted).norm() < 0.05 * (weight - old).norm()


@pytest.mark.parametrize("held", [True, False])
def test_a_run_leaves_plain_weights_of_the_norms_of_before(train, mini, held):
    def weights():
        files = [next((mini.working / part).glob("*.safetensors")) for part in ("unet", "text_encoder")]
        return {f"{path.parent.name}.{key}": t for path in files for key, t in tensors(path).items()}

    before = weights()
    assert train(freeze_spectral_norm=held, **FULL).error is None
    after = weights()
    assert after.keys() == before.keys()
    of_layers = [k for k, t in before.items() if t.dim() > 1 and "embeddings" not in k and t.any()]
    moved = [abs(norm(after[k]) / norm(before[k]) - 1) for k in of_layers]
    assert sum(not torch.equal(after[k], before[k]) for k in of_layers) > 100
    assert max(moved) < 2e-4 if held else max(moved) > 1e-3


def test_what_saves_other_weights_than_it_moves_is_refused(mini, concept):
    settings = {**SMALL, **FULL, "freeze_spectral_norm": True, "optimizer": "Schedule-Free AdamW"}
    pytest.importorskip("pytorch_optimizer")
    with pytest.raises(UserError, match="freeze_spectral_norm"):
        actions.check(mini, actions.configure(mini, settings, [concept]))
