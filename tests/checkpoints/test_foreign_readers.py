"""What we write means the same to others: diffusers' reader of single files, open_clip's own way to embed text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dreambooth.checkpoints.extract import extract
from dreambooth.checkpoints.modules import load_modules
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.files import read_json
from dreambooth.models.sd.tokens import PromptEncoding, tokenize
from dreambooth.settings import Folders, ModelFolder
from tests.mini_models import create

KINDS = {
    "SD1": ("v1x", {}),
    "SD1 inpainting": ("v1x", {"inpainting": True}),
    "SD2 512": ("v2x-512", {}),
    "SD2 768": ("v2x", {}),
    "SDXL": ("SDXL", {}),
    "SDXL inpainting": ("SDXL", {"inpainting": True}),
    "SDXL velocity": ("SDXL", {"v_pred": True, "ztsnr": True}),
}
PROMPTS = ["a photo of a cat", "", "one, two, three; a quick brown fox jumps over the lazy dog " * 6]


@pytest.fixture
def model(request, tmp_path: Path) -> ModelFolder:
    model_type, how = KINDS[request.param]
    return create(Folders(tmp_path / "models"), "small", model_type, **how)


@pytest.mark.parametrize(
    ("model", "of"),
    [*((kind, "file") for kind in KINDS), ("SD2 768", "folder"), ("SDXL", "folder")],
    indirect=["model"],
)
def test_diffusers_reads_the_single_file(model, of, tmp_path, monkeypatch):
    """Offline, every weight in its module, also if the source was a diffusers folder."""
    import diffusers
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    ours = load_modules(model.working)
    if of == "folder":
        of_folder = ModelFolder(model.folders, "of a folder")
        extract(model.working, of_folder)
        model = of_folder
    file = write_checkpoint(model, tmp_path / "out.safetensors")
    pipeline = getattr(diffusers, read_json(model.working / "model_index.json")["_class_name"])
    theirs = pipeline.from_single_file(str(file), config=str(model.working), local_files_only=True)
    for component in ("unet", "vae", *ours.text_encoders):
        read, expected = getattr(theirs, component).state_dict(), ours.parts[component].state_dict()
        assert {key: value.shape for key, value in read.items()} == {k: v.shape for k, v in expected.items()}, component
        assert all(torch.equal(read[key].float(), expected[key].float()) for key in expected), component


@pytest.mark.parametrize("model", ["SD2 768", "SDXL"], indirect=True)
def test_text_is_embedded_as_open_clip_does(model, tmp_path):
    """Hidden states and pooled embedding, computed from the written file by open_clip's definition."""
    modules = load_modules(model.working)
    tokens = tokenize(list(modules.tokenizers.values()), PROMPTS, PromptEncoding())
    ids, ours = tokens.ids[:, :, 0], modules.text_conditioner(PromptEncoding()).encode(tokens)
    is_xl = "pooled" in ours
    prefix = "conditioner.embedders.1.model." if is_xl else "cond_stage_model.model."
    with open_tensors(write_checkpoint(model, tmp_path / "out.safetensors")) as file:
        text = OpenClip({key.removeprefix(prefix): file.get(key).float() for key in file if key.startswith(prefix)})
    states, pooled = text(ids[:, -1])
    if is_xl:
        torch.testing.assert_close(ours["states"][..., -states.shape[-1] :], states, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours["pooled"], pooled, atol=1e-4, rtol=0)
    else:
        torch.testing.assert_close(ours["states"], text.norm(states, "ln_final"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("model", ["SD2 768", "SDXL"], indirect=True)
def test_texts_are_padded_as_in_open_clip(model):
    """With zeros after the end token, where CLIP's own tokenizer repeats it."""
    tokenizers = list(load_modules(model.working).tokenizers.values())
    ids = tokenize(tokenizers, ["a photo of a cat"], PromptEncoding()).ids[:, :, 0]
    assert ids[0, -1].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, *[0] * 70]
    if ids.shape[1] == 2:
        assert ids[0, 0].tolist() == [49406, 320, 1125, 539, 320, 2368, *[49407] * 71]


class OpenClip:
    """open_clip's text encoder by its definition (open_clip/transformer.py), with the original tensors."""

    def __init__(self, tensors: dict[str, torch.Tensor], heads: int = 4):
        self.tensors, self.heads = tensors, heads
        self.n_layers = sum(key.endswith("attn.in_proj_weight") for key in tensors)

    @torch.no_grad()
    def __call__(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The states before the last layer, (B, 77, D), and the pooled vector, (B, P)."""
        x = self.tensors["token_embedding.weight"][ids] + self.tensors["positional_embedding"]
        for number in range(self.n_layers):
            before, x = x, self.layer(x, f"transformer.resblocks.{number}.")
        ends = self.norm(x, "ln_final")[torch.arange(len(ids)), ids.argmax(-1)]
        return before, ends @ self.tensors["text_projection"]

    def layer(self, x: torch.Tensor, at: str) -> torch.Tensor:
        t, width = self.tensors, x.shape[-1]
        attention = nn.MultiheadAttention(width, self.heads, batch_first=True)
        attention.load_state_dict(
            {key.removeprefix(f"{at}attn."): value for key, value in t.items() if key.startswith(f"{at}attn.")}
        )
        normed = self.norm(x, f"{at}ln_1")
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        x = x + attention(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        hidden = F.linear(self.norm(x, f"{at}ln_2"), t[f"{at}mlp.c_fc.weight"], t[f"{at}mlp.c_fc.bias"])
        return x + F.linear(F.gelu(hidden), t[f"{at}mlp.c_proj.weight"], t[f"{at}mlp.c_proj.bias"])

    def norm(self, x: torch.Tensor, at: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.tensors[f"{at}.weight"], self.tensors[f"{at}.bias"])
