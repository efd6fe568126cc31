"""WD14 taggers: preprocessing determines their scores, so it is compared bit for bit with the published code.

The published models are not available here. These are small ones in the same formats: an .onnx model whose scores can
be computed by hand, and a timm ViT with random weights.
"""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from dreambooth.captioning.base import Tag
from dreambooth.captioning.loading import load
from dreambooth.errors import UserError
from dreambooth.settings.tagging import TagOptions
from tests.captioning import tiny_models
from tests.captioning.conftest import make_image

CPU = torch.device("cpu")
ALL = TagOptions(general_threshold=0, character_threshold=0)


def scores(captioner, *images: Image.Image) -> list[dict[str, float]]:
    answers = captioner.predict([captioner.prepare(image) for image in images])
    return [{tag.name: round(tag.score, 3) for tag in prediction.tags} for prediction in answers]


def test_onnx_is_fed_blue_green_red_of_0_to_255_on_a_white_square(onnx_tagger):
    """The model's scores are the mean of each channel / 255; ratings are never among the tags."""
    tagger = load(onnx_tagger, ALL, CPU)
    wide = Image.new("RGB", (40, 20), (255, 0, 0))  # half of the square around it is white
    mixed = Image.new("RGB", (8, 8), (51, 102, 153))
    one_by_one = [scores(tagger, image)[0] for image in (wide, mixed)]
    assert one_by_one == scores(tagger, wide, mixed)
    assert one_by_one[0] == {
        "red_picture": 1, "green_picture": 0.5, "blue_picture": 0.5, "^_^": 0.25, "someone_(film)": 0.5,
    }  # fmt: skip
    assert one_by_one[1] == {
        "red_picture": 0.2, "green_picture": 0.4, "blue_picture": 0.6, "^_^": 0.3, "someone_(film)": 0.08,
    }  # fmt: skip


def test_onnx_images_are_centered_and_are_resized_bicubic(onnx_tagger):
    """As in the code that is published with the models, reimplemented here."""
    import numpy as np

    tagger = load(onnx_tagger, ALL, CPU)
    for size in ((31, 20), (20, 31), (64, 64), (8, 8), (5, 3)):
        image = make_image("noise", size)
        side = max(size)
        square = Image.new("RGB", (side, side), (255, 255, 255))
        square.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
        resized = square.resize((8, 8), Image.Resampling.BICUBIC) if side != 8 else square
        expected = np.asarray(resized, dtype=np.float32)[:, :, ::-1]
        fed = tagger.prepare(image)
        assert fed.dtype == np.float32 and (fed == expected).all()


def test_an_extremely_wide_image_does_not_fill_the_memory(onnx_tagger):
    tagger = load(onnx_tagger, ALL, CPU)
    [prediction] = scores(tagger, Image.new("RGB", (60000, 2), "black"))  # a square around it would take 10 GB
    assert prediction["red_picture"] > 0.95


def test_thresholds_are_by_kind(onnx_tagger):
    image = Image.new("RGB", (8, 8), (230, 230, 100))  # red 0.9, green 0.9, so the character 0.81
    below = load(onnx_tagger, TagOptions(general_threshold=0.85, character_threshold=0.85), CPU)
    above = load(onnx_tagger, TagOptions(general_threshold=0.95, character_threshold=0.8), CPU)
    assert set(scores(below, image)[0]) == {"red_picture", "green_picture"}
    assert set(scores(above, image)[0]) == {"someone_(film)"}


def test_a_model_with_a_fixed_batch_size_of_one(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    tagger = load(tiny_models.onnx_tagger(tmp_path, batch=1), TagOptions(), CPU)
    red, blue = scores(tagger, make_image("red"), make_image("blue"))
    assert set(red) == {"red_picture"} and set(blue) == {"blue_picture", "^_^"}


def test_timm_says_what_the_published_code_says(tmp_path):
    """NCHW in BGR order, mean and standard deviation 0.5, a sigmoid at the end: with timm's own functions."""
    pytest.importorskip("timm")
    from timm.data import create_transform, resolve_data_config

    model = tiny_models.timm_tagger(tmp_path)
    names = [name for _, name, category in tiny_models.TAGS if category != 9]
    model.pretrained_cfg |= json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    transform = create_transform(**resolve_data_config(model.pretrained_cfg, model=model))
    tagger = load(tmp_path, ALL, CPU)
    for size in ((40, 40), (60, 31), (17, 32)):
        image = make_image("noise", size)
        side = max(size)
        square = Image.new("RGB", (side, side), (255, 255, 255))
        square.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
        with torch.inference_mode():
            inputs = transform(square).unsqueeze(0)[:, [2, 1, 0]]
            scores = torch.sigmoid(model(inputs))[0, 1:]
        assert inputs.shape == (1, 3, 32, 32) and inputs.min() >= -1 and inputs.max() > 0.9
        [prediction] = tagger.predict([tagger.prepare(image)])
        assert prediction.tags == tuple(map(Tag, names, scores.tolist()))


def test_what_a_timm_folder_may_not_do(tmp_path):
    """Nothing is downloaded for it, and no other files are read, pickles least of all."""
    pytest.importorskip("timm")
    tiny_models.timm_tagger(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    evil = tmp_path / "evil.bin"
    evil.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR.")
    more = {"model_args": {**config["model_args"], "checkpoint_path": str(evil), "pretrained": True}}
    config["pretrained_cfg"] |= {"file": str(evil), "url": evil.as_uri()}
    (tmp_path / "config.json").write_text(json.dumps({**config, **more}))
    load(tmp_path, ALL, CPU)
    assert not (tmp_path / "owned").exists()
    for architecture in ("hf-hub:org/name", f"local-dir:{tmp_path}", "no_such_model", 7):
        (tmp_path / "config.json").write_text(json.dumps({**config, "architecture": architecture}))
        with pytest.raises(UserError, match="knows no model"):
            load(tmp_path, ALL, CPU)


def _cut(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:100])


BAD = {
    "a list of another model": (
        lambda folder: tiny_models.write_labels(folder, tiny_models.TAGS[:-1]),
        "selected_tags.csv has 5 labels, but the model has 6 outputs",
    ),
    "a list without columns": (
        lambda folder: (folder / "selected_tags.csv").write_text("1girl\nsolo\n"),
        "each row needs a name and a category",
    ),
    "an empty list": (lambda folder: (folder / "selected_tags.csv").write_text(""), "is not a label list"),
    "a list that is no text": (
        lambda folder: (folder / "selected_tags.csv").write_bytes(b"tag_id,name,category\n1,\xff\xfe,0\n"),
        "is not a label list",
    ),
    "a file that is cut off": (lambda folder: _cut(folder, "model.onnx"), "model.onnx cannot be loaded"),
    "no list": (lambda folder: (folder / "selected_tags.csv").unlink(), "has model.onnx but no selected_tags.csv"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_onnx_folders_are_named(tmp_path, what):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    spoil, expected = BAD[what]
    spoil(tiny_models.onnx_tagger(tmp_path))
    with pytest.raises(UserError, match=expected) as refused:
        scores(load(tmp_path, ALL, CPU), make_image("red"))
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)


def test_bad_timm_folders_are_named(tmp_path):
    pytest.importorskip("timm")
    tiny_models.timm_tagger(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace('"embed_dim": 24', '"embed_dim": 32'))
    with pytest.raises(UserError, match=r"the weights don't go with config.json"):
        load(tmp_path, ALL, CPU)
    config.write_text(json.dumps({"architecture": "vit_tiny_patch16_224"}))
    with pytest.raises(UserError, match="not as timm writes it"):
        load(tmp_path, ALL, CPU)
    config.write_text(whole)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"the weights don't go with config.json"):
        load(tmp_path, ALL, CPU)
