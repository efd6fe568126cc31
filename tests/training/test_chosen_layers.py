"""Which layers of Stable Diffusion get an adapter, and with which rank."""

from __future__ import annotations

import shutil

import pytest

from dreambooth import actions
from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.errors import UserError
from dreambooth.memory.forecast import forecast_lora
from dreambooth.models.adapter_layers import LayerKinds, chosen_layers
from dreambooth.models.sd.sd1 import SD1
from dreambooth.runs.preflight import preflight, size_of
from dreambooth.settings import Settings
from dreambooth.settings.lora_ranks import parse_ranks, pattern_of
from tests.training.conftest import SMALL


def test_presets_choose_among_the_layers_of_transformers_and_leave_convolutions(mini):
    modules = load_modules(mini.working, vae=False)

    def chosen(layers, component="unet", convolutions=False):
        return set(chosen_layers(modules.family, component, modules.parts[component], layers, convolutions))

    default = chosen("default")
    attention = {path for path in default if ".attn1." in path or ".attn2." in path}
    mlp = {path for path in default if ".ff.net." in path}
    projections = {path for path in default if path.endswith((".proj_in", ".proj_out"))}
    assert all((attention, mlp, projections)) and default == attention | mlp | projections
    assert chosen("attention") == attention and chosen("attention+mlp") == attention | mlp
    assert chosen("all-linear") == default
    convolutions = chosen("default", convolutions=True) - default
    assert convolutions and chosen("attention", convolutions=True) == attention | convolutions
    text = chosen("default", "text_encoder")
    assert chosen("attention", "text_encoder") == {path for path in text if ".self_attn." in path} < text
    assert chosen("attention+mlp", "text_encoder") == chosen("all-linear", "text_encoder") == text


def test_a_family_whose_layers_are_not_known_has_no_presets(mini, concept, monkeypatch):
    monkeypatch.setattr(type(SD1), "layer_kinds", LayerKinds())
    config = actions.configure(mini, {**SMALL, "lora_layers": "attention"}, [concept])
    with pytest.raises(UserError, match=r"lora_layers .* of Stable Diffusion 1.* Set it to default"):
        preflight(mini, config)
    assert preflight(mini, actions.configure(mini, {"lora_layers": "default"}, [concept]))


def test_a_run_with_other_layers_is_not_resumed(train, mini, concept):
    train(lora_layers="attention", max_train_steps=1, save_state_after=True)
    with pytest.raises(UserError, match=r"lora_layers .* was trained with 'attention'"):
        preflight(mini, actions.configure(mini, {**SMALL, "lora_layers": "default"}, [concept]), resume="latest")


RANKS = "unet.*.attn1.* = 2, *.ff.net.0.proj = 0\n*.conv1 = 3, text_encoder.*.layers.0-1.*.q_proj = 8,"
KINDS = {"LoRA": {}, "DoRA of LoHa": {"lora_type": "LoHa", "lora_dora": True}, "LoKr": {"lora_type": "LoKr"}}


def test_the_first_pattern_that_matches_counts():
    patterns = parse_ranks("blocks.9-11.* = 1, *.q?proj = 2, blocks.* = 3, a.b-c = 4")
    paths = ("blocks.10.ff", "blocks.1.q_proj", "blocks.12.ff", "in.0", "a.b-c", "x.blocks.1", "blocks.1000.ff")
    found = [pattern_of(patterns, "unet", path) for path in paths]
    assert [pattern and pattern.rank for pattern in found] == [1, 2, 3, None, 4, None, 3]
    assert pattern_of(parse_ranks("unet.*=5"), "unet", "a.b") and not pattern_of(parse_ranks("vae.*=5"), "unet", "a.b")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_ranks_by_pattern_are_trained_resumed_and_continued(train, mini, models_dir, created, kind, tmp_path):
    settings = {**kind, "lora_ranks": RANKS, "use_lora_extended": True, "lora_unet_alpha": 2, "lora_conv_alpha": 1}
    whole = train(**settings, max_train_steps=2)
    assert whole.error is None
    adapters = read_lora(whole.result.files[0]).weights
    expected = {
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (2, 0.5),
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q": (4, 0.5),
        "lora_unet_down_blocks_0_resnets_0_conv1": (3, 0.25),
        "lora_unet_down_blocks_0_resnets_0_conv2": (4, 0.25),
        "lora_te_text_model_encoder_layers_1_self_attn_q_proj": (8, 1.0),
        "lora_te_text_model_encoder_layers_1_self_attn_k_proj": (4, 1.0),
    }
    if kind != KINDS["LoKr"]:  # whose factors are full matrices where they are small
        assert {name: (adapters[name].rank, adapters[name].scaling) for name in expected} == expected
    assert any("ff_net_2" in name for name in adapters) and not any("ff_net_0_proj" in name for name in adapters)
    file = shutil.copy(whole.result.files[0], tmp_path / "made.safetensors")
    digest = whole.digest()
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)
    train(**settings, max_train_steps=1, save_state_after=True)
    assert train(**settings, max_train_steps=2, resume="latest").digest() == digest
    untouched = {"lora_learning_rate": 0, "lora_txt_learning_rate": 0, "weight_decay": 0}
    again = train(**settings, **untouched, lora_start=str(file), max_train_steps=1)
    assert again.error is None and again.digest() == digest


def test_what_is_wrong_with_ranks_is_said_before_the_run(train, mini, concept):
    (made,) = train(lora_ranks="*.attn1.* = 2", max_train_steps=1).result.files

    def refused(**settings):
        try:
            preflight(mini, actions.configure(mini, {**SMALL, **settings}, [concept]))
        except UserError as error:
            return error.problems
        return []

    assert [line.split(": ")[:2] for line in refused(lora_ranks="x, *.a = 2000, b.7-1.c = 2, *.attn1.* = 2")] == [
        ["lora_ranks", "'x'"], ["lora_ranks", "'*.a = 2000'"], ["lora_ranks", "'b.7-1.c = 2'"],
    ]  # fmt: skip
    (line,) = refused(lora_ranks="*.attn1.* = 2, *.attn9.* = 2")
    assert "no layer that gets an adapter matches '*.attn9.*'" in line and "unet.down_blocks." in line
    assert "nothing is trained" in refused(lora_ranks="* = 0")[0]
    assert "matches 'text_encoder.*'" in refused(lora_ranks="text_encoder.* = 2", stop_text_encoder=0)[0]
    assert refused(lora_ranks="*.attn9.* = 2", use_lora=False) == []
    assert "(2, 4), but training uses one. Give ranks by pattern" in refused(lora_start=str(made), lora_ranks="")[0]
    assert "lora_ranks (LoRA ranks by layer): to start from" in refused(lora_start=str(made), lora_ranks="*=4")[0]
    assert refused(lora_start=str(made), lora_ranks="*.attn1.* = 2") == []
    size = size_of(mini)
    sizes = [forecast_lora(Settings(**SMALL, lora_ranks=text), size) for text in ("", "*.attn1.* = 2", "*.ff.* = 40")]
    assert sizes[0] == sizes[1] < sizes[2]
