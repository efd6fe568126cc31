"""Which folders are captioning models, where they are searched for, and the messages about others."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from dreambooth.captioning.loading import load
from dreambooth.captioning.model_files import available_models, find_model, required_files
from dreambooth.captioning.model_kind import BLIP, GIT, ONNX, TIMM, VISION_LANGUAGE, model_kind_of
from dreambooth.errors import UserError
from dreambooth.settings.tagging import TagOptions
from tests.captioning import tiny_models

TAGS = "tag_id,name,category,count\n1,1girl,0,1\n"


@pytest.fixture
def folder(tmp_path):
    """``folder(path, name=content, ...)``: a folder with such files below the models; a mapping becomes JSON."""

    def make(path, **contents):
        made = tmp_path / "models" / path
        made.mkdir(parents=True)
        for name, content in contents.items():
            text = json.dumps(content) if isinstance(content, dict) else content
            (made / name.replace("__", ".")).write_text(text)
        return made

    return make


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    name = "HF_HUB_CACHE" if hasattr(constants, "HF_HUB_CACHE") else "HUGGINGFACE_HUB_CACHE"
    monkeypatch.setattr(constants, name, str(tmp_path / "hub"))
    return tmp_path / "hub"


def vision(model_class, **more):
    return {"architectures": [model_class], "vision_config": {}, **more}


def test_kinds_are_detected_from_the_files(folder, monkeypatch):
    for library in ("onnxruntime", "timm"):
        pytest.importorskip(library)
    empty = {"model__safetensors": ""}
    kinds = {
        ONNX: folder("a", model__onnx="", selected_tags__csv=TAGS, config__json={}, **empty),
        TIMM: folder("b", selected_tags__csv=TAGS, config__json={}, **empty),
        BLIP: folder("c", config__json=vision("BlipForConditionalGeneration"), **empty),
        GIT: folder("d", config__json=vision("GitForCausalLM"), **empty),
        VISION_LANGUAGE: folder(
            "e", config__json=vision("Qwen2_5_VLForConditionalGeneration"), preprocessor_config__json={}, **empty
        ),
    }
    for kind, path in kinds.items():
        assert model_kind_of(path) == kind
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert model_kind_of(kinds[ONNX]) == TIMM  # the other file of the folder
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match=r"a needs onnxruntime or timm, which is not installed.*pip install onnxruntime"
    ):
        model_kind_of(kinds[ONNX])
    with pytest.raises(UserError, match=r"b needs timm, which .*pip install timm"):
        model_kind_of(kinds[TIMM])


def test_messages_for_folders_that_are_no_models(folder):
    clip = folder("clip", config__json=vision("CLIPModel"), preprocessor_config__json={}, model__safetensors="")
    questions = folder("vqa", config__json=vision("BlipForQuestionAnswering"), model__safetensors="")
    for path in (folder("empty"), clip, questions, folder("listed", config__json="[1]", model__safetensors="")):
        with pytest.raises(UserError, match="is not a captioning model: it must be a WD14 tagger"):
            model_kind_of(path)
    with pytest.raises(UserError, match=r"no .safetensors weights. Download"):
        model_kind_of(folder("bare", config__json=vision("GitForCausalLM")))
    with pytest.raises(UserError, match="is not valid JSON"):
        model_kind_of(folder("broken", config__json="{", model__safetensors=""))


def test_models_are_found_in_the_folders_of_hosts_and_in_the_cache(folder, hub_cache, tmp_path):
    tagger = {"model__onnx": "", "selected_tags__csv": TAGS}
    places = {
        "taggers/mine": folder("taggers/mine", **tagger),
        "taggers/by/others": folder("taggers/by/others", **tagger),
        "TaggerOnnx/wd": folder("TaggerOnnx/wd", **tagger),
        "SmilingWolf/wd-v1-4-moat-tagger-v2": folder(
            "interrogators/models--SmilingWolf--wd-v1-4-moat-tagger-v2/snapshots/123", **tagger
        ),
        "org/a--b": folder("../hub/models--org--a--b/snapshots/456", **tagger),
    }
    folder("taggers/mine/inside", **tagger)
    folder("Stable-diffusion/other", **tagger)
    folder("../hub/models--org--sd/snapshots/7/unet", config__json={}, model__safetensors="")
    (tmp_path / "models" / "taggers" / "circle").symlink_to(tmp_path / "models" / "taggers")
    found = available_models(tmp_path / "models")
    assert {title: path.resolve() for title, path in found.items() if "circle" not in title} == {
        title: path.resolve() for title, path in places.items()
    }
    for title, path in places.items():
        assert find_model(title, tmp_path / "models").resolve() == path.resolve()
    file = places["taggers/mine"] / "model.onnx"
    assert find_model(f" {file} ", tmp_path) == file
    assert find_model(str(places["taggers/mine"] / "selected_tags.csv"), tmp_path) == file.parent


def test_where_there_is_none_it_is_said_what_to_put_where(tmp_path):
    models = tmp_path / "models"
    with pytest.raises(UserError, match=r"Choose a tagger or captioner\. None is installed yet") as refused:
        find_model(" ", models)
    assert str(models / "taggers") in str(refused.value) and "selected_tags.csv" in str(refused.value)
    with pytest.raises(UserError, match=r"Model no.such not found: put a model's folder"):
        find_model("no:such", models)


def test_of_a_repository_only_what_is_needed_is_fetched(monkeypatch):
    for library in ("onnxruntime", "timm"):
        pytest.importorskip(library)
    tagger = ["README.md", "config.json", "model.msgpack", "model.onnx", "model.safetensors", "selected_tags.csv",
              "sw_jax_cv_config.json", "variables/variables.index"]  # fmt: skip
    assert required_files("org/wd", tagger) == ["model.onnx", "selected_tags.csv"]
    large = ["model.onnx", "model.onnx_data", "selected_tags.csv"]
    assert required_files("org/large", large) == ["model.onnx_data", "model.onnx", "selected_tags.csv"]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert required_files("org/wd", tagger) == ["model.safetensors", "config.json", "selected_tags.csv"]
    vlm = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
           "model.safetensors.index.json", "merges.txt", "tokenizer.json", "chat_template.jinja", "pytorch_model.bin",
           "consolidated.safetensors", "modeling_evil.py", "onnx/decoder.onnx", ".gitattributes"]  # fmt: skip
    assert (
        sorted(required_files("org/vlm", vlm)) == sorted(vlm[:7])
        and required_files("org/vlm", vlm)[-1] == "config.json"
    )
    with pytest.raises(UserError, match=r"org/old has no weights as .safetensors .pickles like pytorch_model.bin"):
        required_files("org/old", ["config.json", "pytorch_model.bin"])
    with pytest.raises(UserError, match="org/sd is not a captioning model"):
        required_files("org/sd", ["model_index.json", "unet/config.json"])


def test_a_chosen_file_is_the_one_that_is_read(onnx_tagger, tmp_path):
    tiny_models.onnx_tagger(tmp_path, side=8)
    (tmp_path / "other.onnx").write_bytes((tmp_path / "model.onnx").read_bytes())
    (tmp_path / "model.onnx").write_text("damaged")
    assert load(find_model(str(tmp_path / "other.onnx"), tmp_path), TagOptions(), torch.device("cpu")).side == 8
