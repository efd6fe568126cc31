"""`inspect` on files whose content is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from dreambooth.checkpoints import inspection
from dreambooth.checkpoints.adapters import Lora
from dreambooth.checkpoints.lora_file import write_lora
from dreambooth.errors import UserError
from dreambooth.models.sd.keys import CONFIG_KEY, UNET, VAE
from tests.cli.commands import run_fork
from tests.mini_models import make


def inspect(*paths):
    return inspection.inspect(*paths).as_dict()


KEY = UNET + "out.2.weight"


@pytest.mark.parametrize(
    ("model_type", "how", "expected"),
    [
        ("v1x", {"ema": True}, {"family": "Stable Diffusion 1.x", "prediction": "epsilon"}),
        ("v1x", {"inpainting": True}, {"family": "Stable Diffusion 1.x", "inpainting": True, "ema": "none"}),
        (
            "v2x",
            {},
            {"family": "Stable Diffusion 2.x (768 px)", "prediction": "v_prediction", "precision": {"F16": 504}},
        ),
        ("SDXL", {"v_pred": True}, {"family": "Stable Diffusion XL", "prediction": "v_prediction"}),
    ],
)
def test_checkpoints(model_type, how, expected, tmp_path):
    source = make(tmp_path / "a.safetensors", model_type, **how)
    found = inspect(source)
    precision = expected.pop("precision", {})
    assert found["kind"] == "checkpoint" and found["odd"] == []
    assert {key: found[key] for key in expected} == expected
    assert precision.items() <= found["precision"].items()
    assert found["foreign_reader"] == f"safetensors finds {found['tensors']} tensors"
    assert (found["ema"] != "none") == ("ema" in how)


def changed(source: Path, path: Path, change) -> Path:
    with safetensors.safe_open(source, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    change(tensors)
    safetensors.torch.save_file(
        tensors, path, {**metadata, "modelspec.title": "mine", "modelspec.thumbnail": "x" * 999}
    )
    return path


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: [t.pop(key) for key in list(t) if key.startswith(VAE)], "missing: VAE"),
        (lambda t: t.pop(UNET + "out.0.weight"), "a.safetensors is incomplete: 1 tensor missing"),
        (lambda t: t[KEY].view(-1)[0].fill_(float("nan")), f"1 tensor with NaN or infinite values ({KEY})"),
        (lambda t: t.update({UNET + "extra.weight": torch.ones(1)}), "1 tensor of unknown modules"),
    ],
    ids=["VAE baked out", "a tensor missing", "NaN", "unknown"],
)
def test_issues(change, expected, mini_checkpoint, tmp_path):
    [issue] = inspect(changed(mini_checkpoint, tmp_path / "a.safetensors", change))["odd"]
    assert expected in issue and "\n" not in issue


def test_differences_from_a_base(mini_checkpoint, tmp_path):
    tuned = changed(mini_checkpoint, tmp_path / "tuned.safetensors", lambda t: t[KEY].view(-1)[0].add_(0.5))
    found = inspect(tuned, mini_checkpoint)
    rows = {row["component"]: row for row in found["moved"]}
    assert {name: row["changed"] for name, row in rows.items() if row["changed"]} == {"unet": 1}
    assert rows["unet"]["largest"] == pytest.approx(0.5, abs=1e-3)
    assert rows.keys() == {"unet", "vae", "text_encoder", "other"}
    assert found["claims"]["modelspec.title"] == "mine" and found["claims"]["modelspec.thumbnail"] == "999 characters"
    assert CONFIG_KEY not in found["claims"]


def test_other_kinds(mini, mini_checkpoint, tmp_path):
    lora = tmp_path / "lora.safetensors"
    pair = Lora({"lora_up.weight": torch.ones(32, 4), "lora_down.weight": torch.ones(4, 32)}, 2.0)
    write_lora(lora, {"lora_unet_mid_block_attentions_0_proj_in": pair}, {"ss_base_model_version": "sd_v1"})
    found = inspect(lora)
    assert found["kind"] == "LoRA" and list(found["adapters"].values()) == [1]
    assert "rank 4, alpha 2" in next(iter(found["adapters"]))
    assert found["claims"]["ss_base_model_version"] == "sd_v1"
    safetensors.torch.save_file({"emb_params": torch.ones(4, 768)}, tmp_path / "e.safetensors")
    assert inspect(tmp_path / "e.safetensors")["kind"] == "a textual inversion embedding"
    assert inspect(mini.working / "vae" / "diffusion_pytorch_model.safetensors")["kind"] == "a VAE"
    assert inspect(mini.working)["family"] == "Stable Diffusion 1.x"
    torch.save({"state_dict": safetensors.torch.load_file(mini_checkpoint)}, tmp_path / "a.ckpt")
    assert "pickle" in inspect(tmp_path / "a.ckpt")["foreign_reader"]
    with pytest.raises(UserError, match=r"nowhere.safetensors does not exist"):
        inspect(tmp_path / "nowhere.safetensors")


def test_on_the_command_line(mini_checkpoint):
    done = run_fork("inspect", mini_checkpoint, "--against", mini_checkpoint, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["family"] == "Stable Diffusion 1.x" and not any(row["changed"] for row in found["moved"])
