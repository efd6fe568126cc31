"""Training parameters of sd-scripts that become settings under other names, imported from real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dreambooth.interop.input_kind import RecognizedInput, recognize_input
from dreambooth.settings import Settings, parse

NETWORK = "network_module = 'networks.lora'\nnetwork_dim = 8\nnetwork_alpha = 4\nmax_train_steps = 100\n"
FULL = "learning_rate = 1e-5\nmax_train_steps = 100\n"


def imported(folder: Path, text: str) -> RecognizedInput:
    (folder / "train.toml").write_text(text)
    return recognize_input(folder / "train.toml")


def with_images(folder: Path) -> str:
    """Ten images with 2 repeats: 10 steps per epoch at batch size 2."""
    (folder / "img/2_sls").mkdir(parents=True)
    for number in range(10):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"img/2_sls/{number}.png")
    return "train_data_dir = 'img'\nresolution = 64\ntrain_batch_size = 2\n"


def messages_about(found: RecognizedInput, key: str) -> list[str]:
    return [line for line in found.unsupported if key in line]


# -- the LoRA to start from ------------------------------------------------------------------------------------


def test_network_weights_is_the_lora_to_start_from(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sls.safetensors").write_bytes(b"")
    found = imported(tmp_path, NETWORK + "network_weights = 'out/sls.safetensors'\n")
    assert found.settings["lora_start"] == str(tmp_path / "out/sls.safetensors"), "a path from the file's own folder"
    assert f"network_weights -> lora_start = {found.settings['lora_start']!r}" in found.imported
    assert not messages_about(found, "network_weights") and not found.dim_from_weights
    assert imported(tmp_path, NETWORK).settings["lora_start"] == "", "that of an earlier import is replaced"


def test_missing_network_weights_are_reported(tmp_path: Path) -> None:
    found = imported(tmp_path, NETWORK + "network_weights = 'sls'\ndim_from_weights = true\n")
    assert found.settings["lora_start"] == "sls", "it may be a name in the LoRA folder"
    assert "does not exist" in messages_about(found, "network_weights")[0] and found.dim_from_weights
    lost = imported(tmp_path, NETWORK + 'network_weights = "D:\\new\\train.safetensors"\n')
    assert lost.settings["lora_start"] == "" and "single quotes" in messages_about(lost, "network_weights")[0]


def test_dim_from_weights_without_network_weights_is_reported(tmp_path: Path) -> None:
    found = imported(tmp_path, NETWORK + "dim_from_weights = true\n")
    assert not found.dim_from_weights and "network_weights is missing" in messages_about(found, "dim_from_weights")[0]
    assert found.settings["lora_unet_rank"] == 8


# -- dropout ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "dropout", "warning"),
    [
        ("network_dropout = 0.25", 0.25, ""),
        ("network_dropout = 0", 0, ""),
        ("", 0, ""),
        ("network_args = ['rank_dropout=0.1']\nnetwork_dropout = 0.25", 0.25, "not to whole ranks"),
        ("network_args = ['module_dropout=0.1']", 0, "not to whole adapters"),
        ("network_args = ['dropout=0.1']\nnetwork_dropout = 0.25", 0.25, "networks.lora has no such argument"),
        ("network_weights = 'x'\ndim_from_weights = true\nnetwork_dropout = 0.25", 0.25, "sd-scripts ignore it"),
    ],
)
def test_network_dropout_is_the_dropout_of_both_components(
    tmp_path: Path, text: str, dropout: float, warning: str
) -> None:
    found = imported(tmp_path, NETWORK + text)
    run = parse(Settings, found.settings)
    assert (run.lora_unet_dropout, run.lora_txt_dropout) == (dropout, dropout)
    assert ("network_dropout -> lora_unet_dropout = 0.25" in found.imported) == bool(dropout)
    messages = [line for line in found.unsupported if line.startswith(("network_dropout", "network_args"))]
    assert (len(messages) == 1 and warning in messages[0]) if warning else not messages


def test_dropout_argument_of_lycoris(tmp_path: Path) -> None:
    lycoris = NETWORK.replace("networks.lora", "lycoris.kohya")
    found = imported(tmp_path, lycoris + "network_args = ['algo=locon', 'dropout=0.5']\nnetwork_dropout = 0.25\n")
    assert found.settings["lora_unet_dropout"] == found.settings["lora_txt_dropout"] == 0.5
    assert not messages_about(found, "dropout")
    for argument, kind in (("algo=loha", "LoHa"), ("dora_wd=True", "DoRA")):
        found = imported(tmp_path, lycoris + f"network_args = ['{argument}']\nnetwork_dropout = 0.25\n")
        assert found.settings["lora_txt_dropout"] == 0.25
        assert f"LyCORIS trains {kind} without dropout" in messages_about(found, "network_dropout")[0]


def test_a_dropout_of_0_does_not_enable_lora(tmp_path: Path) -> None:
    found = imported(tmp_path, FULL + "network_dropout = 0.0\n")
    assert "use_lora" not in found.settings and not messages_about(found, "network_dropout")
    assert imported(tmp_path, FULL + "network_dropout = 0.1\n").settings["use_lora"]


def test_a_dropout_out_of_range_is_reported(tmp_path: Path) -> None:
    found = imported(tmp_path, NETWORK + "network_dropout = 1.0\n")
    assert "lora_unet_dropout" not in found.settings
    assert "outside the range 0 to 0.9" in messages_about(found, "network_dropout")[0]


# -- padding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "padded"), [("no_token_padding = true", False), ("no_token_padding = false", True), ("", True)]
)
def test_no_token_padding_disables_pad_tokens(tmp_path: Path, text: str, padded: bool) -> None:
    found = imported(tmp_path, FULL + text)
    assert found.settings["pad_tokens"] is padded and not messages_about(found, "padding")
    assert (f"no_token_padding -> pad_tokens = {padded}" in found.imported) == bool(text)


# -- other parameters ------------------------------------------------------------------------------------------

CONVERTED: dict[str, tuple[str, dict[str, Any]]] = {
    "validation in steps": (NETWORK + "validate_every_n_steps = 20", {"validation_every": 20}),
    "snapshots by epochs": (NETWORK + "save_state = true\nsave_last_n_epochs_state = 3", {"snapshots_to_keep": 3}),
    "snapshots by steps": (
        NETWORK + "save_state = true\nsave_every_n_steps = 10\nsave_last_n_steps_state = 30",
        {"snapshots_to_keep": 4},  # sd-scripts delete the state of step 10 at step 50
    ),
    "snapshots as files": (NETWORK + "save_state = true\nsave_last_n_epochs = 5", {"snapshots_to_keep": 5}),
    "the text encoder for a while": (FULL + "stop_text_encoder_training = 25", {"stop_text_encoder": 0.25}),
    "the text encoder never": (FULL + "stop_text_encoder_training = -1", {"stop_text_encoder": 0}),
    "the text encoder to the end": (FULL + "stop_text_encoder_training = 500", {"stop_text_encoder": 1}),
    "fine-tuning the unet alone": (FULL + "train_text_encoder = false", {"stop_text_encoder": 0}),
    "fine-tuning both": (FULL + "train_text_encoder = true", {"stop_text_encoder": 1}),
    "SDXL's text encoders": (
        FULL + "learning_rate_te1 = 2e-6\nlearning_rate_te2 = 2e-6",
        {"txt_learning_rate": 2e-6, "learning_rate": 1e-5},
    ),
    "a minimum rate": (
        FULL + "lr_scheduler = 'cosine_with_min_lr'\nlr_scheduler_min_lr_ratio = 0.1",
        {"lr_scheduler": "cosine_annealing", "learning_rate_min": pytest.approx(1e-6), "lr_scale_pos": 1},
    ),
    "torch's annealing": (
        FULL + "lr_scheduler_type = 'CosineAnnealingLR'\nlr_scheduler_args = ['T_max=100', 'eta_min=1e-7']",
        {"lr_scheduler": "cosine_annealing", "learning_rate_min": 1e-7, "lr_scale_pos": 1},
    ),
    "torch's restarts": (
        FULL
        + "lr_scheduler_type = 'torch.optim.lr_scheduler.CosineAnnealingWarmRestarts'\nlr_scheduler_args = ['T_0=25']",
        {"lr_scheduler": "cosine_annealing_with_restarts", "lr_scale_pos": pytest.approx(0.255)},
    ),
    "checkpoints in half precision": (FULL + "save_precision = 'fp16'", {"half_model": True}),
    "checkpoints in full precision": (FULL + "save_precision = 'float'", {"half_model": False}),
    "frugal attention": (FULL + "mem_eff_attn = true", {"attention": "sliced"}),
    "diffusers' xformers": (FULL + "diffusers_xformers = true", {"attention": "xformers"}),
    "an older name": (FULL + "debiased_estimation = true", {"debiased_estimation": True}),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_other_parameters_become_settings(tmp_path: Path, name: str) -> None:
    text, expected = CONVERTED[name]
    found = imported(tmp_path, text + "\n")
    assert {key: found.settings[key] for key in expected} == expected
    about_files = "save_last_n_epochs = 5" in text  # also limits LoRA files, which is not supported
    assert [line for line in found.unsupported if "lists no images" not in line and not about_files] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("validate_every_n_epochs = 3", {"validation_every": 30}),
        ("validation_split = 0.2", {"validation_share": 0.2, "validation_every": 10}),
        ("validation_split = 0.2\nvalidate_every_n_steps = 4", {"validation_share": 0.2, "validation_every": 4}),
        ("max_train_epochs = 20\nsave_n_epoch_ratio = 5", {"save_embedding_every": 4}),
        ("max_train_steps = 55\nsave_n_epoch_ratio = 3", {"save_embedding_every": 2}),
    ],
)
def test_settings_that_depend_on_the_length_of_an_epoch(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    found = imported(tmp_path, with_images(tmp_path) + text + "\n")
    assert {key: found.settings[key] for key in expected} == expected and not found.unsupported


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("validate_every_n_epochs = 3", "validate_every_n_epochs"),
        ("save_n_epoch_ratio = 3", "save_n_epoch_ratio"),
        ("stop_text_encoder_training = 10\nmax_train_epochs = 3", "stop_text_encoder_training"),
        ("lr_scheduler_type = 'OneCycleLR'", "lr_scheduler_type"),
        ("lr_scheduler_args = ['x=1']", "lr_scheduler_args x"),
        ("lr_scheduler = 'cosine_with_min_lr'\nlr_warmup_steps = 10\nlearning_rate = 1e-5", "lr_warmup_steps"),
        ("text_encoder_lr = [1e-5, 2e-5]", "Learning rates of the text encoders"),
        ("save_precision = 'bf16'", "save_precision"),
    ],
)
def test_unsupported_values_are_reported(tmp_path: Path, text: str, key: str) -> None:
    assert messages_about(imported(tmp_path, text + "\n"), key)


def test_a_validation_split_without_a_frequency_is_reported(tmp_path: Path) -> None:
    with_images(tmp_path)
    (tmp_path / "dataset.toml").write_text(
        "[[datasets]]\nresolution = 64\nvalidation_split = 0.1\n[[datasets.subsets]]\nimage_dir = 'img/2_sls'\n"
    )
    found = recognize_input(tmp_path / "dataset.toml")
    assert found.settings["validation_share"] == 0.1 and "validation_every" not in found.settings
    assert "Set Validation frequency" in messages_about(found, "validation_split")[0]
