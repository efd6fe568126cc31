"""Taggers and captioners in the formats in which they are published, small enough to be made by a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# What the outputs of our taggers stand for: tag_id, name, category (9 rating, 0 general, 4 character), count.
TAGS = (
    ("9999999", "general", 9),
    ("1", "red_picture", 0),
    ("2", "green_picture", 0),
    ("3", "blue_picture", 0),
    ("4", "^_^", 0),
    ("5", "someone_(film)", 4),
)


def write_labels(folder: Path, tags: tuple = TAGS) -> None:
    lines = ["tag_id,name,category,count", *(f"{tag},{name},{category},10" for tag, name, category in tags)]
    (folder / "selected_tags.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def onnx_tagger(folder: Path, side: int = 8, batch: int | str = "N") -> Path:
    """A tagger whose answers can be worked out by hand: the share of each colour in the input, as it is fed.

    From the mean over all pixels of the three channels (0 to 255) come: general (always 1), red, green, blue (each
    channel's mean / 255, where the first is blue), ^_^ (half of blue), the character (red times green).
    """
    import onnx
    from onnx import TensorProto, helper

    folder.mkdir(parents=True, exist_ok=True)
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    full = helper.make_tensor("full", TensorProto.FLOAT, [1], [255.0])
    half = helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [3], [1, 1, 1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["means"], keepdims=0),
        helper.make_node("Div", ["means", "full"], ["shares"]),
        helper.make_node("Split", ["shares", "sizes"], ["blue", "green", "red"], axis=1),
        helper.make_node("Mul", ["blue", "half"], ["face"]),
        helper.make_node("Mul", ["red", "green"], ["someone"]),
        helper.make_node("Mul", ["red", "zero"], ["none"]),
        helper.make_node("Add", ["none", "one"], ["general"]),
        helper.make_node("Concat", ["general", "red", "green", "blue", "face", "someone"], ["output"], axis=1),
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    graph = helper.make_graph(
        nodes, "tagger",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, side, side, 3])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, len(TAGS)])],
        [one, full, half, sizes, axes, zero],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "model.onnx"))
    write_labels(folder)
    return folder


def timm_tagger(folder: Path) -> Any:
    """A small ViT with random weights, as SmilingWolf's third generation is published; the module itself."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    arguments = {
        "img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "class_token": False,
        "global_pool": "avg", "fc_norm": False,
    }  # fmt: skip
    model = timm.create_model("vit_tiny_patch16_224", num_classes=len(TAGS), **arguments).eval()
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter)
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": len(TAGS),
        "num_features": 24,
        "global_pool": "avg",
        "model_args": arguments,
        "pretrained_cfg": {
            "custom_load": False, "input_size": [3, 32, 32], "fixed_input_size": False, "interpolation": "bicubic",
            "crop_pct": 1.0, "crop_mode": "center", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
            "num_classes": len(TAGS), "pool_size": None, "first_conv": "patch_embed.proj", "classifier": "head",
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    write_labels(folder)
    return model


SENTENCE = "a photo of the red green blue cat dog toy on in with grass image . , describe this one sentence"
WORDS = SENTENCE.split()


def word_tokenizer(**special: str) -> Any:
    """A tokenizer whose tokens are words: BERT's kind, as BLIP and GIT have."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*names, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"], **special,
    )  # fmt: skip


def _bert_tokenizer(folder: Path) -> Any:
    """One of the class that BLIP's and GIT's folders name."""
    from transformers import BertTokenizer, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*names, *WORDS]) + "\n")
    kind = BertTokenizerFast or BertTokenizer
    return kind.from_pretrained(str(folder))


def blip(folder: Path) -> tuple[Any, Any]:
    """(processor, model), which lie in the folder as save_pretrained leaves them."""
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    tokenizer = _bert_tokenizer(folder)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **small, "encoder_hidden_size": 16, "vocab_size": len(tokenizer) + 2,
            "max_position_embeddings": 64, "bos_token_id": len(tokenizer), "eos_token_id": tokenizer.sep_token_id,
            "sep_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id, "projection_dim": 8,
        },
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=8, image_text_hidden_size=8,
    )  # fmt: skip
    model = BlipForConditionalGeneration(config).eval()
    _loud(model, 2, 0.3)
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    return _saved(folder, processor, model)


def git(folder: Path) -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

    tokenizer = _bert_tokenizer(folder)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GitConfig(
        vision_config={**small, "image_size": 32, "patch_size": 8}, **small, vocab_size=len(tokenizer),
        max_position_embeddings=64, bos_token_id=tokenizer.cls_token_id, eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = GitForCausalLM(config).eval()
    _loud(model, 0, 0.3)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return _saved(folder, GitProcessor(CLIPImageProcessor(**sizes), tokenizer), model)


TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}a {% endif %}"
)


def llava(folder: Path) -> tuple[Any, Any]:
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = word_tokenizer(bos_token="[CLS]", eos_token="[SEP]")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=32, patch_size=8, projection_dim=16),
        text_config=LlamaConfig(
            **small, vocab_size=len(tokenizer), max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.cls_token_id, eos_token_id=tokenizer.sep_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_seq_length=16,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config).eval()
    _loud(model, 4, 1.0)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = LlavaProcessor(
        CLIPImageProcessor(**sizes), tokenizer, patch_size=8, vision_feature_select_strategy="default",
        chat_template=TEMPLATE.replace("IMAGE", "<image>"), num_additional_image_tokens=1,
    )  # fmt: skip
    return _saved(folder, processor, model)


def qwen(folder: Path) -> tuple[Any, Any]:
    """Qwen2-VL: the number of tokens that a picture takes follows from its size."""
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = word_tokenizer(bos_token="[CLS]", eos_token="[SEP]")
    marks = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    image, video, start, end = map(tokenizer.convert_tokens_to_ids, marks)
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": len(tokenizer), "max_position_embeddings": 512,
            "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        },
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4},
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    model = Qwen2VLForConditionalGeneration(config).eval()
    _loud(model, 0, 0.6)
    sizes = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 64, "longest_edge": 4096}}
    template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    readers = Qwen2VLImageProcessor(**sizes), tokenizer, Qwen2VLVideoProcessor(**sizes)
    return _saved(folder, Qwen2VLProcessor(*readers, chat_template=template), model)


def _loud(model: Any, seed: int, size: float) -> None:
    """Random weights of such a size that different pictures get different words, and the end does not come at once."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=size)
        output = model.get_output_embeddings() or model.text_decoder.get_output_embeddings()
        output.weight[:5] = 0  # of the special tokens, which come first
        if getattr(output, "bias", None) is not None:
            output.bias.zero_()


def _saved(folder: Path, processor: Any, model: Any) -> tuple[Any, Any]:
    processor.save_pretrained(str(folder))
    model.save_pretrained(str(folder), safe_serialization=True)
    return processor, model
