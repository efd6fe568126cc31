"""Names of settings and values in other trainers: messages name ours, equal values are accepted."""

from __future__ import annotations

import re

import pytest

from dreambooth.errors import UserError
from dreambooth.settings import CONCEPT, SETTINGS, Concept, Settings, parse, parse_concepts
from dreambooth.settings.other_names import ADVICE


def message(cls: type, **values: object) -> str:
    with pytest.raises(UserError) as caught:
        parse(cls, values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("lr", "; set lora_learning_rate with use_lora, otherwise learning_rate."),
        ("network_dim", "; set lora_unet_rank and lora_txt_rank, with use_lora."),
        ("--learning-rate", "; set learning_rate."),
        ("LoRA UNET rank", "; set lora_unet_rank."),
        ("Text-Encoder-LR", "; set lora_txt_learning_rate with use_lora"),
        ("noise_offset", "; set offset_noise."),
        ("max_train_epochs", "; set num_train_epochs."),
        ("sd_model", "; the checkpoint is chosen when the model is created"),
        ("train_data_dir", "; set instance_data_dir in the concepts file (--concepts)."),
        ("instance_prompt", "; set it in the concepts file (--concepts)."),
        ("tomesd", "; token merging was removed."),
        ("use_cpu", "; the device is chosen by the WebUI"),
        ("learning_rat", " (did you mean learning_rate?)."),
        ("image_variations", "there is no such setting."),
    ],
)
def test_an_unknown_key_names_the_setting(key: str, expected: str) -> None:
    assert f"{key}: there is no such setting" in message(Settings, **{key: 1}) and expected in message(
        Settings, **{key: 1}
    )


def test_an_unknown_key_of_a_concept() -> None:
    assert "; set num_repeats." in message(Concept, repeats=3)
    assert "; it is a setting of the run (--set), not of a concept." in message(Concept, resolution=512)
    _, notices = parse_concepts([{"instance_data_dir": "a", "caption_ext": ".txt"}], strict=False)
    assert notices == ["concept 1: caption_ext has no effect: there is no such setting; set caption_extension."]


def test_advice_names_existing_settings() -> None:
    for name, advice in ADVICE.items():
        assert name not in SETTINGS
        words = set(re.findall(r"[a-z]+_[a-z0-9_]+", advice.partition("dreambooth create")[0]))
        assert words <= {*SETTINGS, *CONCEPT}, advice


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("optimizer", "AdamW8bit", "8bit AdamW"), ("optimizer", "adamw_8bit", "8bit AdamW"),
        ("optimizer", "Lion8bit", "8bit Lion"), ("optimizer", "PROdigy", "Prodigy"),
        ("optimizer", "adafactor", "Adafactor"),
        ("optimizer", "paged 8bit adamw", "Paged 8bit AdamW"), ("mixed_precision", "float16", "fp16"),
        ("mixed_precision", "fp32", "no"), ("lr_scheduler", "Cosine With Restarts", "cosine_with_restarts"),
        ("scheduler", "Euler a", "EulerAncestralDiscrete"), ("loss_type", "MSE", "l2"),
        ("attention", "sdpa", "default"),
    ],
)  # fmt: skip
def test_equal_values_are_accepted(key: str, given: str, value: str) -> None:
    assert getattr(parse(Settings, {key: given}), key) == value


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("resolution", "512x768", "use resolution=512, and resolution_height=768 with bucket_rule"),
        ("resolution", "512, 512", "use resolution=512."),
        ("learning_rate", "0,0001", "write 0.0001."),
        ("learning_rate", "1e-4,", "write 1e-4."),
        ("lora_type", "LoCon", "use lora_type=LoRA, with use_lora_extended=true for convolutions."),
        ("optimizer", "Adam", "is not one of: Torch AdamW"),
    ],
)
def test_an_invalid_value_says_what_was_meant(key: str, given: str, expected: str) -> None:
    assert expected in message(Settings, **{key: given})
