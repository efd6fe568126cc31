"""BLIP, GIT and vision-language models give the captions that transformers itself gives for the same images.

The models are small and random, in the layout of the published ones, which are not available here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from dreambooth.captioning.loading import load
from dreambooth.errors import UserError
from dreambooth.settings.tagging import TagOptions
from tests.captioning import tiny_models
from tests.captioning.conftest import make_image

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """``made(name)``: (folder, processor, model)."""
    cache = {}

    def make(name: str):
        if name not in cache:
            folder = tmp_path_factory.mktemp("models") / name
            cache[name] = (folder, *getattr(tiny_models, name)(folder))
        return cache[name]

    return make


def images() -> list[Image.Image]:
    return [make_image("red"), make_image("blue", (20, 40)), make_image("noise", (30, 60))]


def _differ(texts: list[str]) -> bool:
    """Whether captions depend on the image. In older versions the same seeds give other models, which ignore it."""
    return len(set(texts)) > 1 or transformers.__version__ < "5"


def said(folder: Path, **options) -> list[str]:
    """The captions of all images in one batch, which must equal those of each image alone."""
    captioner = load(folder, TagOptions(max_length=8, **options), CPU)
    together = [predict.sentence for predict in captioner.predict([captioner.prepare(one) for one in images()])]
    alone = [captioner.predict([captioner.prepare(one)])[0].sentence for one in images()]
    assert together == alone
    return together


@pytest.mark.parametrize("prompt", ["", "a photo of"])
def test_blip(made, prompt):
    folder, processor, model = made("blip")
    expected = []
    for one in images():
        inputs = (
            processor(images=one, text=prompt, return_tensors="pt") if prompt else processor(one, return_tensors="pt")
        )
        inputs.pop("token_type_ids", None)
        expected.append(
            processor.decode(model.generate(**inputs, max_new_tokens=8)[0], skip_special_tokens=True).strip()
        )
    assert said(folder, prompt=prompt) == expected
    assert _differ(expected) and all(text.startswith(prompt) and text != prompt for text in expected)


@pytest.mark.parametrize("prompt", ["", "a photo of"])
def test_git(made, prompt):
    folder, processor, model = made("git")
    expected = []
    for one in images():
        ids = processor(text=prompt, add_special_tokens=False).input_ids
        start = torch.tensor([[processor.tokenizer.cls_token_id, *ids]])
        pixels = processor(images=one, return_tensors="pt").pixel_values
        written = model.generate(pixel_values=pixels, input_ids=start, max_new_tokens=8)
        expected.append(processor.batch_decode(written, skip_special_tokens=True)[0].strip())
    assert said(folder, prompt=prompt) == expected
    assert len(set(expected)) > (not prompt) and all(text.startswith(prompt) and text != prompt for text in expected)


@pytest.mark.parametrize("name", ["llava", "qwen"])
@pytest.mark.parametrize("prompt", ["", "describe the dog"])
def test_vision_language(made, name, prompt):
    """The question goes through the model's own template; what comes back is the answer alone."""
    pytest.importorskip("transformers", minversion="4.49")
    if name == "qwen":
        pytest.importorskip("torchvision", reason="Qwen-VL's processor needs torchvision")
        pytest.importorskip("transformers", minversion="5", reason="older processors ask for Qwen's own tokenizer")
    folder, processor, model = made(name)
    expected = []
    for one in images():
        text = {"type": "text", "text": prompt or "Describe this image in one sentence."}
        conversation = [{"role": "user", "content": [{"type": "image"}, text]}]
        asked = processor.apply_chat_template(conversation, add_generation_prompt=True)
        assert text["text"] in asked
        inputs = processor(images=[one], text=[asked], return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=8)[:, inputs["input_ids"].shape[1] :]
        expected.append(processor.batch_decode(written, skip_special_tokens=True)[0].strip())
    assert said(folder, prompt=prompt) == expected and len(set(expected)) > 1


def test_weights_as_pickles_are_refused(made, tmp_path):
    folder, _, _ = made("blip")
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"no .safetensors weights .pickle files such as pytorch_model.bin are not loaded"
    ):
        load(pickled, TagOptions(), CPU)


def test_code_in_a_folder_is_never_executed(made, tmp_path):
    pytest.importorskip("transformers", minversion="4.49")
    coded = shutil.copytree(made("llava")[0], tmp_path / "coded")
    config = json.loads((coded / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.M"}}
    (coded / "config.json").write_text(json.dumps(config))
    (coded / "evil.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\nclass Config: pass\nclass M: pass\n")
    with pytest.raises(UserError, match=str(coded)):
        load(coded, TagOptions(), CPU)
    assert not (tmp_path / "owned").exists()


def test_files_that_lack_weights_are_no_model(made, tmp_path):
    """transformers would fill them with random numbers, and the captions would be noise."""
    broken = shutil.copytree(made("blip")[0], tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    save_file({k: t for k, t in tensors.items() if "layer.0.crossattention" not in k}, broken / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    with pytest.raises(UserError, match=r"the weights lack 10 tensors"):
        load(broken, TagOptions(), CPU)


def test_a_cut_off_file_is_named(made, tmp_path):
    broken = shutil.copytree(made("git")[0], tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(UserError, match=f"{broken} cannot be loaded by transformers"):
        load(broken, TagOptions(), CPU)


def test_precision_is_what_was_asked_for(made):
    folder = made("git")[0]
    for precision, dtype in {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}.items():
        captioner = load(folder, TagOptions(precision=precision, max_length=5), CPU)
        assert {parameter.dtype for parameter in captioner.model.parameters()} == {dtype}
        assert captioner.predict([captioner.prepare(make_image("red"))])[0].sentence
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        load(folder, TagOptions(precision="fp16"), CPU)
