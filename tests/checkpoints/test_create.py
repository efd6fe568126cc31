"""Create: ``working`` has the tensors of the source, and other programs can load it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from dreambooth.checkpoints.extract import extract
from dreambooth.checkpoints.modules import (
    fingerprint,
    load_component,
    load_family,
    load_modules,
    load_tokenizers,
    save_component,
    weights_path,
)
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.errors import Cancelled, UserError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.safetensors"


def test_the_source_is_rebuilt_bit_for_bit(mini, mini_checkpoint, out, assert_same):
    """Every tensor, also those that modules don't have, in the source's order, with its metadata."""
    write_checkpoint(mini, out)
    assert_same(out, mini_checkpoint)
    with open_tensors(out) as ours, open_tensors(mini_checkpoint) as source:
        assert ours.keys() == source.keys()
        assert ours.metadata == {"format": "pt", **source.metadata}


def test_the_embedded_model_has_every_unet_and_vae_key_of_sd1(mini_checkpoint, key_table):
    """Otherwise tests with the embedded model would not be representative."""
    components = ("model.diffusion_model.", "first_stage_model.")
    with open_tensors(mini_checkpoint) as file:
        embedded = {key for key in file if key.startswith(components)}
    assert embedded == {key for key in key_table if key.startswith(components)}


def test_modules_have_the_values_of_the_source(mini, mini_checkpoint, read_all):
    source = read_all(mini_checkpoint)
    modules = load_modules(mini.working)
    unet, vae = modules.denoiser.state_dict(), modules.vae.state_dict()
    down = source["model.diffusion_model.input_blocks.4.0.in_layers.2.weight"]
    assert torch.equal(unet["down_blocks.1.resnets.0.conv1.weight"], down.float())
    query = source["first_stage_model.decoder.mid.attn_1.q.weight"]
    assert torch.equal(vae["decoder.mid_block.attentions.0.to_q.weight"], query.float().flatten(1))
    assert not any(
        p.is_meta for m in (modules.denoiser, modules.vae, modules.parts["text_encoder"]) for p in m.parameters()
    )


def test_diffusers_loads_the_folder_and_both_give_the_same_outputs(mini):
    """Their loader and ours, from the same folder: UNet, VAE and text encoder are bit-identical."""
    from diffusers import StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_pretrained(mini.working, local_files_only=True, torch_dtype=torch.float32)
    ours = load_modules(mini.working)
    ids = ours.tokenizers["text_encoder"](
        "a red star on a blue background", padding="max_length", return_tensors="pt"
    ).input_ids
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        text, their_text = ours.parts["text_encoder"](ids)[0], theirs.text_encoder(ids)[0]
        assert torch.equal(text, their_text)
        assert torch.equal(ours.denoiser(x, 500, text).sample, theirs.unet(x, 500, text).sample)
        assert torch.equal(ours.vae.decode(x).sample, theirs.vae.decode(x).sample)
    assert theirs.scheduler.config.prediction_type == "epsilon"


def test_the_tokenizer_gives_the_ids_of_clip(mini):
    """The same as OpenAI's tokenizer; the last three are rare tokens used as instance tokens."""
    tokenizer = load_tokenizers(mini.working, load_family(mini.working))["text_encoder"]
    expected = {
        "a photo of a cat": [320, 1125, 539, 320, 2368],
        "A  Photo, of a CAT!": [320, 1125, 267, 539, 320, 2368, 256],
        "": [],
        "sks": [48136],
        "ohwx": [47993],
        "zwx": [89, 3561],
    }
    for prompt, numbers in expected.items():
        padded = tokenizer(prompt, padding="max_length").input_ids
        assert padded == [49406, *numbers, *[49407] * (76 - len(numbers))]


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_pickled_source(new, mini_checkpoint, tmp_path, out, is_zip, assert_same):
    source = tmp_path / "a.ckpt"
    with open_tensors(mini_checkpoint) as file:
        value = {"state_dict": {key: file.get(key) for key in file}, "global_step": 3, **file.metadata}
    torch.save(value, source, _use_new_zipfile_serialization=is_zip)
    extract(source, new)
    source.unlink()
    write_checkpoint(new, out)
    assert_same(out, mini_checkpoint)


def test_diffusers_folder_gives_the_single_file(mini, new, mini_checkpoint, out, read_all):
    """All tensors that a folder has, with original names and shapes; not schedules and position ids."""
    extract(mini.working, new)
    write_checkpoint(new, out)
    ours, theirs = read_all(out), read_all(mini_checkpoint)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    lacking = {key for key in theirs if key not in ours}
    assert all("." not in key or key.endswith("position_ids") for key in lacking)


def test_diffusers_folder_with_pickles_variants_and_old_names(mini, new, tmp_path, read_all, assert_same):
    """Like the first published folders: .bin files, fp16 and full variants, old names of the VAE's attention."""
    folder = tmp_path / "folder"
    shutil.copytree(mini.working, folder)
    vae = read_all(weights_path(folder, "vae"))
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for new_name, old_name in old.items():
        vae = {key.replace(new_name, old_name): value for key, value in vae.items()}
    weights_path(folder, "vae").unlink()
    torch.save(vae, folder / "vae" / "diffusion_pytorch_model.bin")
    unet = weights_path(folder, "unet")
    safetensors.torch.save_file({"wrong": torch.zeros(1)}, unet.with_suffix(".fp16.safetensors"))
    bare = {k.removeprefix("text_model."): v for k, v in read_all(weights_path(folder, "text_encoder")).items()}
    safetensors.torch.save_file(bare, weights_path(folder, "text_encoder"))
    extract(folder, new)
    for component in ("unet", "vae", "text_encoder"):
        assert_same(weights_path(new.working, component), weights_path(mini.working, component))


def test_diffusers_folder_in_shards(mini, new, tmp_path, read_all, assert_same):
    folder = tmp_path / "folder"
    shutil.copytree(mini.working, folder)
    whole = weights_path(folder, "unet")
    tensors = list(read_all(whole).items())
    whole.unlink()
    for number, part in enumerate((tensors[:100], tensors[100:]), 1):
        shard = whole.with_name(f"diffusion_pytorch_model-{number:05}-of-00002.safetensors")
        safetensors.torch.save_file(dict(part), shard)
    extract(folder, new)
    assert read_all(weights_path(new.working, "unet")).keys() == dict(tensors).keys()
    write_checkpoint(new, tmp_path / "ours.safetensors")
    write_checkpoint(mini, tmp_path / "theirs.safetensors")
    ours, theirs = read_all(tmp_path / "ours.safetensors"), read_all(tmp_path / "theirs.safetensors")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_values_too_large_for_half_precision_are_reported_and_nothing_is_left(mini_checkpoint, new, tmp_path, out):
    source, key = tmp_path / "large.safetensors", "model.diffusion_model.out.2.weight"
    with open_tensors(mini_checkpoint) as file:
        tensors = {name: file.get(name) for name in file}
        tensors[key] = tensors[key].float() + 1e6
        safetensors.torch.save_file(tensors, source, file.metadata)
    with pytest.raises(UserError, match=rf"large.safetensors: {key} has values too large for float16"):
        extract(source, new, dtype=torch.float16)
    assert not new.root.exists()
    extract(source, new)
    with pytest.raises(UserError, match=f"{key} has values too large for float16"):
        write_checkpoint(new, out, dtype=torch.float16)
    assert not out.exists()


def test_text_encoder_without_inner_prefix(mini_checkpoint, new, tmp_path, mini, out, assert_same):
    """Merged checkpoints without ``text_model.`` in their keys work, and are written with the same keys."""
    source = tmp_path / "merge.safetensors"
    with open_tensors(mini_checkpoint) as file:
        tensors = {key.replace("transformer.text_model.", "transformer."): file.get(key) for key in file}
        safetensors.torch.save_file(tensors, source, file.metadata)
    extract(source, new)
    assert_same(weights_path(new.working, "text_encoder"), weights_path(mini.working, "text_encoder"))
    write_checkpoint(new, out)
    assert_same(out, source)


def test_half_and_full_precision(mini, new, mini_checkpoint, tmp_path, out, assert_same):
    """A full precision source stays so unless half precision is requested; schedules are never rounded."""
    source = tmp_path / "full.safetensors"
    with open_tensors(mini_checkpoint) as file:
        full = {key: file.get(key) for key in file}
        full = {key: value.float() if value.is_floating_point() else value for key, value in full.items()}
        safetensors.torch.save_file(full, source, file.metadata)
    extract(source, new)
    write_checkpoint(new, out)
    assert_same(out, source)
    write_checkpoint(new, out, dtype=torch.float16)
    assert_same(out, mini_checkpoint)
    extract(source, new, dtype=torch.float16)
    write_checkpoint(new, out)
    assert_same(out, mini_checkpoint)


def test_cancel_leaves_nothing(new, mini_checkpoint):
    def cancel_halfway(done: int, total: int, what: str) -> None:
        if done > total / 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        extract(mini_checkpoint, new, progress=cancel_halfway)
    assert not new.root.exists()


def test_saved_components_are_loaded_again(mini):
    """Also with the names of other versions of transformers, and in another precision."""
    modules = load_modules(mini.working)
    with torch.no_grad():
        for parameter in modules.parts["text_encoder"].parameters():
            parameter.add_(0.5)
    before = {name: fingerprint(mini.working, name) for name in ("text_encoder", "unet")}
    save_component(mini.working, "text_encoder", modules.parts["text_encoder"], torch.float16)
    save_component(mini.working, "ema_unet", modules.denoiser)
    assert fingerprint(mini.working, "text_encoder") != before["text_encoder"]
    assert fingerprint(mini.working, "unet") == before["unet"]
    with open_tensors(weights_path(mini.working, "text_encoder")) as file:
        assert all(key.startswith("text_model.") and file.dtype(key) == torch.float16 for key in file)
    again = load_modules(mini.working, denoiser=False, vae=False).parts["text_encoder"].state_dict()
    assert all(
        torch.allclose(value, again[key], atol=2e-3)
        for key, value in modules.parts["text_encoder"].state_dict().items()
    )
    ema = load_component(mini.working, "ema_unet").state_dict()
    assert all(torch.equal(value, ema[key]) for key, value in modules.denoiser.state_dict().items())


def test_weights_of_another_module_are_not_saved(mini):
    unet = load_component(mini.working, "unet").state_dict()
    unet.popitem()
    with pytest.raises(ValueError, match="differ from the weights of unet"):
        save_component(mini.working, "unet", unet)
