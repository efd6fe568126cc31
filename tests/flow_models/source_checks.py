"""What each family of flow-matching models must pass: its files, and settings that it can't have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dreambooth import actions
from dreambooth.checkpoints.modules import load_modules
from dreambooth.cli import main
from dreambooth.errors import UserError
from dreambooth.runs.preflight import preflight
from dreambooth.settings import Concept, Folders, ModelFolder
from dreambooth.tensor_files import write_tensors
from tests.flow_models.files import PREFIX, QUICK, Files, ModelFiles, create, in_8_bits, is_same, tensors_of


def check_unchanged_checkpoint(tmp_path: Path, family: ModelFiles, form: str, capsys: Any) -> None:
    """Without training it is the file that the model was created from; the modules have its values.

    ``form``: "published", "bare" or "prefixed" (the transformer's file), or "whole".
    """
    files = family.write(tmp_path, {"bare": "", "prefixed": PREFIX}.get(form))
    source, options = files.transformer, files.options
    if form == "whole":
        source, options = family.whole_file(tmp_path / "whole.safetensors"), []
    models = ["--models-dir", str(tmp_path / "models")]
    assert main(["create", "z", *models, "--source", str(source), *options]) == 0
    assert main(["generate-ckpt", "z", *models, "--out", str(tmp_path / "out.safetensors")]) == 0
    assert "verified" in capsys.readouterr().out
    assert is_same(tensors_of(tmp_path / "out.safetensors"), tensors_of(source))
    modules = load_modules(ModelFolder(Folders(tmp_path / "models"), "z").working)
    expected = family.make_modules()
    for name, module in expected.items():
        loaded = modules.parts[name].state_dict()
        assert loaded.keys() == {key for key in module.state_dict() if family.is_used(name, key)}
        assert all(torch.equal(value, family.half[name][key].float()) for key, value in loaded.items())
        for key in dict(module.named_buffers()).keys() - module.state_dict().keys():
            assert torch.equal(modules.parts[name].get_buffer(key), module.get_buffer(key)), "files don't have it"


def check_diffusers_folder(tmp_path: Path, family: ModelFiles, form: str = "folder") -> dict[str, Any]:
    """The transformer of a diffusers folder, or ("file") its weights as one file with the folder's other components, is
    written with the original names. Returned is the scheduler's config; that of the folder has a shift of 6.
    """
    files = family.write(tmp_path)
    folder = create(tmp_path, files, "copied", copy_source=True).working.rename(tmp_path / "folder")
    if form == "file":
        weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        second = folder / "text_encoder_2" if files.text_encoder_2 else None
        model = create(tmp_path, Files(weights, folder / "text_encoder", folder / "vae", second))
    else:
        scheduler = folder / "scheduler" / "scheduler_config.json"
        scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "shift": 6.0}))
        actions.create(Folders(tmp_path / "models"), "z", folder)
        model = ModelFolder(Folders(tmp_path / "models"), "z")
    made, expected = tensors_of(actions.generate_checkpoint(model)[0]), family.native_transformer()
    assert made.keys() == {PREFIX + key for key in expected if family.is_used("transformer", key)}
    assert all(torch.equal(value, expected[key.removeprefix(PREFIX)]) for key, value in made.items())
    return json.loads((model.working / "scheduler" / "scheduler_config.json").read_text())


def check_dequantized(tmp_path: Path, family: ModelFiles, kind: str, part: str, changed: str) -> None:
    """Files with weights in 8 bits are read and written in 16. ``kind``: see :func:`in_8_bits`; ``part``: of the names
    of the transformer's layers in 8 bits, as in files, of which ``changed`` is one tensor.
    """
    files = family.write(tmp_path)
    before, (component, name) = tensors_of(files.transformer), family.embedding
    if kind != "plain":
        text_encoder = getattr(files, component)
        write_tensors(text_encoder, in_8_bits(tensors_of(text_encoder), kind))
    write_tensors(files.transformer, in_8_bits(before, kind, "" if kind == "plain" else part))
    model = create(tmp_path, files)
    made = tensors_of(actions.generate_checkpoint(model)[0])
    assert made.keys() == before.keys()
    different = {key for key, value in made.items() if not torch.equal(value.half(), before[key])}
    assert changed in different
    for key in different:
        assert made[key].dtype == (torch.float16 if kind == "plain" else torch.bfloat16)
        assert torch.allclose(made[key].float(), before[key].float(), atol=0.07 * before[key].abs().max().item())
    embedding = load_modules(model.working, denoiser=False, vae=False).text_encoders[component].get_parameter(name)
    assert torch.allclose(embedding, family.make_modules()[component].get_parameter(name), atol=0.3)


def check_distilled(tmp_path: Path, family: ModelFiles, concept: Concept, name: str, title: str, steps: int) -> str:
    """A transformer's file with the ``name`` of a distilled model is recognized as ``title``, and previews are sampled
    in so many steps without guidance. Returned is the warning of a check.
    """
    model = create(tmp_path, family.write(tmp_path, name=name))
    assert model.load().info.recognized == f"{title}, by its tensors and its name"
    settings = {**QUICK, "max_train_steps": 1}
    config = actions.configure(model, settings, [Concept(instance_data_dir=concept.instance_data_dir)])
    (warning,) = (line for line in preflight(model, config).warnings if f"The name {name} says" in line)
    actions.train(model, config)
    (preview,) = model.samples.glob("*.png")
    parameters = Image.open(preview).info["parameters"]
    assert f"Steps: {steps}" in parameters and "CFG scale: 1," in parameters
    return warning


def check_refused(model: ModelFolder, concept: Concept, title: str, **values: Any) -> None:
    """Settings of the SD families, and ``values``, are refused, each with a reason."""
    values |= {
        "min_snr_gamma": 5.0, "offset_noise": 0.1, "clip_skip": 2, "zero_terminal_snr": True, "scheduler": "DDIM",
        "stop_text_encoder": 1.0, "use_lora_extended": True, "attention": "sliced", "weighted_captions": True,
        "max_token_length": 225,
    }  # fmt: skip
    with pytest.raises(UserError) as refused:
        preflight(model, actions.configure(model, {**QUICK, **values}, [concept]))
    assert {line.split(" ")[0] for line in refused.value.problems} == values.keys()
    assert all(f"{title} can't have" in line for line in refused.value.problems)


def check_named(tmp_path: Path, cases: Sequence[tuple[Path, Sequence[str], str]], capsys: Any) -> None:
    """Sources that no model can be created of, with the options, and what the one line of each says."""
    for source, options, expected in cases:
        arguments = ["create", "z", "--models-dir", str(tmp_path / "models"), "--source", str(source), *options]
        assert main(arguments) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert expected in line, line
    assert not list((tmp_path / "models").rglob("z"))


def narrow_text_encoder(path: Path, files: Files) -> Path:
    """A text encoder with hidden states of half the width."""
    text = tensors_of(files.text_encoder)
    write_tensors(path, {k: v[:, :8] if k == "model.embed_tokens.weight" else v for k, v in text.items()})
    return path
