"""The options of Create, and the Tools tab, in the browser, with every Gradio."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.settings import CREATE_OPTIONS
from dreambooth.settings.tools import EXTRACT_OPTIONS, MERGE_OPTIONS, RESIZE_OPTIONS
from dreambooth.tensor_files import write_tensors

VAE = "first_stage_model."
TOKEN = "hf_that_nobody_may_read"


@pytest.fixture
def files(served, mini_checkpoint) -> Path:
    """The models folder, with another VAE and a fine-tuned copy of the embedded checkpoint."""
    for folder in ("VAE", "Stable-diffusion"):
        (served.models / folder).mkdir(parents=True, exist_ok=True)
    with open_tensors(mini_checkpoint) as file:
        tensors = {key: file.get(key) for key in file}
        write_tensors(
            served.models / "VAE" / "other.safetensors",
            {key.removeprefix(VAE): tensor * 1.01 for key, tensor in tensors.items() if key.startswith(VAE)},
            {},
        )
        changed = {key: tensor * 1.05 if ".attn2." in key else tensor for key, tensor in tensors.items()}
        write_tensors(served.models / "Stable-diffusion" / "tuned.safetensors", changed, file.metadata)
    return served.models


def test_from_another_vae_to_merged_loras(served, visitor, files, mini_checkpoint, tmp_path):
    visitor.tab("Create")
    visitor.press("refresh")
    visitor.open_accordion("db_more_options")
    visitor.choose("vae", "other.safetensors")
    assert visitor.field("token").get_attribute("type") == "password"
    visitor.fill(token=TOKEN)
    visitor.create("with another VAE")
    visitor.sees_value("model_name", "with another VAE")
    visitor.sees("facts", "Stable Diffusion 1.x, ε-prediction")
    vae = files / "dreambooth" / "with another VAE" / "working" / "vae" / "diffusion_pytorch_model.safetensors"
    with open_tensors(vae) as ours, open_tensors(mini_checkpoint) as plain:
        key = "decoder.conv_in.weight"
        assert (ours.get(key) == plain.get(VAE + key) * 1.01).all()
    visitor.tab("Create")
    visitor.open_accordion("db_more_options")
    visitor.sees_value("token", "")
    kept = [served.log, *(path for path in (served.models / "dreambooth").rglob("*") if path.is_file())]
    written = [path.read_bytes() for path in kept]
    assert written and not any(TOKEN.encode() in content for content in written)

    visitor.tab("Tools")
    visitor.open_accordion("db_tool_resize")
    visitor.press("resize")
    visitor.sees("resize_said", "Choose the LoRA to resize.")
    visitor.open_accordion("db_tool_extract")
    visitor.choose("extract_base", "Embedded mini model")
    visitor.choose("extract_tuned", "tuned.safetensors")
    visitor.fill(extract_rank=4)
    visitor.press("extract")
    visitor.sees("status", "of the energy kept")
    visitor.sees("files", "tuned-lora.safetensors")
    visitor.choose("m1_lora", "tuned-lora.safetensors")  # listed without a refresh
    visitor.fill(m1_weight=0.5)
    visitor.fill(m2_lora=files / "Lora" / "tuned-lora.safetensors")  # typed
    visitor.press("add_lora")
    visitor.page.wait_for_selector("#db_m3", state="visible")
    visitor.fill(merge_name="both")
    visitor.press("merge")
    visitor.sees("status", "Created both.safetensors: ")
    visitor.sees("status", "rank 8")
    visitor.press("merge_ckpt")
    visitor.sees("files", "Checkpoint")
    assert list((files / "Stable-diffusion").glob("with another VAE_0_lora*.safetensors"))
    visitor.screenshot(tmp_path / "tools.png")
    assert not visitor.problems


def test_every_option_has_its_control(onlooker):
    ids = set()
    for tab in ("Create", "Tools"):
        onlooker.tab(tab)
        onlooker.open_accordions()
        ids |= set(onlooker.page.evaluate("[...document.querySelectorAll('[id^=db_]')].map((e) => e.id)"))
    tools = {"extract": EXTRACT_OPTIONS, "resize": RESIZE_OPTIONS, "merge": MERGE_OPTIONS}
    assert {f"db_{key}" for key in CREATE_OPTIONS} <= ids
    assert {f"db_{tool}_{key}" for tool, declared in tools.items() for key in declared} <= ids
