"""Training parameters of sd-scripts that become settings under other names, imported from real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling
from PIL import Image

from dreambooth.interop.input_kind import RecognizedInput, recognize_input
from dreambooth.settings import Settings, parse
from dreambooth.settings.arguments import parse_arguments
from dreambooth.training import optimizer_kinds
from tests.interop import kohya_case

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


# -- LyCORIS ---------------------------------------------------------------------------------------------------

LYCORIS = "network_module = 'lycoris.kohya'\nnetwork_dim = 16\nnetwork_alpha = 8\nmax_train_steps = 10\n"


def adapters(found: RecognizedInput) -> tuple[Any, ...]:
    """(type, rank, alpha), and (rank, alpha) of the convolutions if they are trained."""
    run = parse(Settings, found.settings)
    assert (run.lora_txt_rank, run.lora_txt_alpha) == (run.lora_unet_rank, run.lora_unet_alpha)
    convolutions = (run.lora_conv_rank, run.lora_conv_alpha) if run.use_lora_extended else ()
    return run.lora_type, run.lora_unet_rank, run.lora_unet_alpha, *convolutions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LYCORIS, ("LoRA", 16, 8, 16, 8)),
        (LYCORIS + "network_args = ['algo=locon', 'conv_dim=4']", ("LoRA", 16, 8, 4, 8)),
        (LYCORIS + "network_args = ['algo=loha', 'conv_alpha=2']", ("LoHa", 16, 8, 16, 2)),
        (LYCORIS + "network_args = ['conv_dim=0']", ("LoRA", 16, 8)),
        (LYCORIS + "network_args = ['conv_dim=4', 'conv_alpha=0']", ("LoRA", 16, 8, 4, 0)),  # 0: alpha = rank
        (LYCORIS + "network_args = 'preset=attn-mlp algo=lokr'", ("LoKr", 16, 8)),
        (LYCORIS + "[network_args]\nconv_dim = 2\nalgo = 'lora'", ("LoRA", 16, 8, 2, 8)),
        ("network_module = 'lycoris.kohya'\n", ("LoRA", 4, 1, 4, 1)),
        ("network_module = 'locon.locon_kohya'\nnetwork_dim = 2\n", ("LoRA", 2, 1, 2, 1)),
        ("network_module = 'networks.lora'\n", ("LoRA", 4, 1)),
        ("network_module = 'networks.lora'\nnetwork_args = ['conv_dim=8']", ("LoRA", 4, 1, 8, 1)),
        ("network_module = 'networks.lora'\nnetwork_args = ['conv_dim=0', 'conv_alpha=0']", ("LoRA", 4, 1)),
        ("network_module = 'networks.loha'\nnetwork_dim = 2\n", ("LoHa", 2, 1)),
        (LYCORIS.replace("16", "102400") + "network_args = ['algo=lokr']", ("LoKr", 1024, 0.08, 1024, 0.08)),
    ],
)
def test_adapters_are_those_of_the_original(tmp_path: Path, text: str, expected: tuple[Any, ...]) -> None:
    assert adapters(imported(tmp_path, text + "\n")) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["algo=ia3"], "algo=ia3: (IA)^3 is not supported; LoRA is trained instead"),
        (["algo=full", "preset=full"], "algo=full: full weight differences are not supported; turn off Use LoRA"),
        (["algo=boft"], "algo=boft: OFT is not supported"),
        (["preset=unet-convblock-only"], "preset=unet-convblock-only: the transformer blocks are trained here too"),
        (["preset=D:/my preset.toml"], "preset=D:/my preset.toml: this choice of layers is not supported"),
        (["dora_wd=True"], "dora_wd: the magnitudes of DoRA are per input here"),
        (["rank_dropout=0.1"], "rank_dropout=0.1: dropout applies to individual values"),
        (["use_tucker=True"], "use_tucker=True: convolution adapters are trained without Tucker decomposition"),
        (["loraplus_lr_ratio=16"], "loraplus_lr_ratio=16: LoRA+ is not supported"),
        (["down_lr_weight=1,0.5"], "down_lr_weight=1,0.5: all UNet blocks have the same learning rate"),
        (["dim=4", "conv dim"], "'conv dim' is not of the form"),
    ],
)
def test_what_lycoris_trains_differently_is_reported(tmp_path: Path, arguments: list[str], message: str) -> None:
    found = imported(tmp_path, LYCORIS + f"network_args = {arguments}\n")
    assert any(message in line for line in messages_about(found, "network_args"))


def test_arguments_without_effect_are_not_reported(tmp_path: Path) -> None:
    neutral = ["algo=locon", "preset=attn-mlp", "rank_dropout=0", "module_dropout=0.0", "use_tucker=False",
               "train_norm=False", "factor=-1", "down_lr_weight=1,1,1", "wd_on_output=True"]  # fmt: skip
    assert not messages_about(imported(tmp_path, LYCORIS + f"network_args = {neutral}\n"), "network_args")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network_module = 'networks.lora_fa'", "networks.lora_fa: LoRA-FA trains only one of the two matrices"),
        ("network_module = 'networks.dylora'", "networks.dylora: DyLoRA is not supported"),
        ("network_module = 'mine.lora'", "mine.lora: it is not known here"),
        ("network_module = 'networks.lora'\nnetwork_args = ['algo=loha']", "networks.lora has no such argument"),
    ],
)
def test_other_modules_are_reported(tmp_path: Path, text: str, message: str) -> None:
    found = imported(tmp_path, text + "\n")
    assert message in "\n".join(found.unsupported) and found.settings["lora_type"] == "LoRA"


def test_a_preset_without_text_encoder_trains_none(tmp_path: Path) -> None:
    found = imported(tmp_path, LYCORIS + "network_args = ['preset=unet-transformer-only']\nlearning_rate = 1e-4\n")
    assert found.settings["stop_text_encoder"] == 0 and not found.settings["use_lora_extended"]


# -- optimizer -------------------------------------------------------------------------------------------------

PRODIGY = NETWORK + "learning_rate = 1.0\noptimizer_type = 'Prodigy'\n"
STANDARD_LINE = "decouple=True weight_decay=0.02 d_coef=2 use_bias_correction=True safeguard_warmup=True betas=0.9,0.99"


@pytest.mark.parametrize(
    "written",
    [
        repr(STANDARD_LINE.split()),
        repr(STANDARD_LINE),
        repr(STANDARD_LINE.replace(" ", ", ")),
        repr([STANDARD_LINE]),
        repr('"' + STANDARD_LINE.replace(" ", '" "') + '"'),
    ],
)
def test_the_usual_arguments_of_prodigy(tmp_path: Path, written: str) -> None:
    run = parse(Settings, imported(tmp_path, PRODIGY + f"optimizer_args = {written}\n").settings)
    assert (run.optimizer, run.weight_decay, run.tenc_weight_decay) == ("Prodigy", 0.02, 0.02)
    assert parse_arguments(run.optimizer_args)[0] == {
        "d_coef": 2, "use_bias_correction": True, "safeguard_warmup": True, "betas": (0.9, 0.99),
    }  # fmt: skip


def test_arguments_of_the_optimizer_as_a_table(tmp_path: Path) -> None:
    run = parse(Settings, imported(tmp_path, PRODIGY + "[optimizer_args]\nd_coef = 3\nbetas = [0.9, 0.99]\n").settings)
    assert "d_coef=3" in run.optimizer_args and "betas=(0.9, 0.99)" in run.optimizer_args


OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "the defaults of AdamW": ("", {"optimizer": "Torch AdamW", "weight_decay": 0.01, "optimizer_args": ""}),
    "the defaults of Prodigy": (
        "optimizer_type = 'prodigyopt.Prodigy'",
        {"weight_decay": 0.0, "optimizer_args": "use_bias_correction=False, safeguard_warmup=False"},
    ),
    "the defaults of Lion": ("optimizer_type = 'Lion'", {"weight_decay": 0.0, "optimizer_args": ""}),
    "Adafactor's own schedule": (
        "optimizer_type = 'Adafactor'\nlr_scheduler = 'cosine'",
        {"lr_scheduler": "adafactor", "optimizer_args": ""},
    ),
    "Adafactor with another schedule": (
        "optimizer_type = 'AdaFactor'\nlr_scheduler = 'cosine'\noptimizer_args = ['relative_step=False']",
        {"lr_scheduler": "cosine", "optimizer_args": "scale_parameter=True"},
    ),
    "8 bits by module": (
        "optimizer_type = 'bitsandbytes.optim.PagedAdamW8bit'\noptimizer_args = ['percentile_clipping=100']",
        {"optimizer": "Paged 8bit AdamW", "optimizer_args": ""},
    ),
    "CAME by module": (
        "optimizer_type = 'pytorch_optimizer.CAME'\noptimizer_args = ['eps=1e-30,1e-16']",
        {"optimizer": "CAME", "optimizer_args": "eps=(1e-30, 1e-16)"},
    ),
    "a schedule-free one": (
        "optimizer_type = 'AdamWScheduleFree'\nlr_scheduler = 'cosine'",
        {"optimizer": "Schedule-Free AdamW", "lr_scheduler": "constant"},
    ),
    "one rate for all": (
        "optimizer_type = 'Prodigy'\nlearning_rate = 1\ntext_encoder_lr = 0.5",
        {"lora_learning_rate": 1.0, "lora_txt_learning_rate": 1.0},
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_those_of_the_original(tmp_path: Path, name: str) -> None:
    text, expected = OPTIMIZERS[name]
    found = imported(tmp_path, NETWORK + text + "\n")
    assert {key: found.settings[key] for key in expected} == expected
    assert optimizer_kinds.parse_arguments(found.settings["optimizer"], found.settings["optimizer_args"]) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer_args = ['betas=0.9']", "betas=0.9 must be two numbers"),
        ("optimizer_args = ['d_coef=2']", "Torch AdamW does not support d_coef"),
        ("optimizer_args = ['decouple']", "'decouple' does not have the form name=value"),
        ("optimizer_type = 'Prodigy'\noptimizer_args = ['slice_p=11']", "slice_p=11 is not supported for Prodigy"),
        ("optimizer_type = 'Adafactor'\noptimizer_args = ['warmup_init=True']", "warmup_init=True is not supported"),
        ("optimizer_type = 'DAdaptation'", "its successor DAdaptAdam is used"),
        ("optimizer_type = 'torch.optim.RMSprop'", "'torch.optim.RMSprop' is not supported; Torch AdamW is used"),
        ("full_bf16 = true", "full_bf16: adapters are trained in fp32"),
        ("lr_scheduler = 'cosine'\nlr_warmup_steps = 100", "the run has only about 100 steps"),
        ("lr_scheduler = 'adafactor'", "needs the optimizer Adafactor; constant is used"),
        ("lr_scheduler = 'inverse_sqrt'\nlr_warmup_steps = 5", "is not supported; constant_with_warmup is used"),
        ("lr_scheduler = 'constant'\nlr_warmup_steps = 5", "the schedule constant has no warm-up"),
        ("optimizer_type = 'Adafactor'\nlr_warmup_steps = 5", "the schedule adafactor has no warm-up"),
        ("lr_scheduler = 'linear'\nlr_warmup_steps = 5.0", "sd-scripts take a decimal number as a fraction"),
        ("optimizer_type = 'ProdigyPlus'\nlearning_rate = 1.0", "Lower its learning rate of 1 to about 1e-4"),
    ],
)
def test_what_the_optimizer_does_differently_is_reported(tmp_path: Path, text: str, message: str) -> None:
    """And left out, so that the check accepts what was imported."""
    found = imported(tmp_path, NETWORK + text + "\n")
    assert message in "\n".join(found.unsupported)
    optimizer_kinds.parse_arguments(found.settings["optimizer"], found.settings["optimizer_args"])


# -- padding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "padded"), [("no_token_padding = true", False), ("no_token_padding = false", True), ("", True)]
)
def test_no_token_padding_disables_pad_tokens(tmp_path: Path, text: str, padded: bool) -> None:
    found = imported(tmp_path, FULL + text)
    assert found.settings["pad_tokens"] is padded and not messages_about(found, "padding")
    assert (f"no_token_padding -> pad_tokens = {padded}" in found.imported) == bool(text)


# -- other parameters ------------------------------------------------------------------------------------------


def test_weights_in_bf16_need_the_optimizer_that_rounds_them(tmp_path: Path) -> None:
    full = FULL + "full_bf16 = true\nmixed_precision = 'bf16'\n"
    assert imported(tmp_path, full).settings["full_mixed_precision"] is True
    for other in ("optimizer_type = 'Adafactor'\n", "optimizer_type = 'AdamW8bit'\n"):
        assert imported(tmp_path, full + other).settings["full_mixed_precision"] is True
    for other in ("optimizer_type = 'Prodigy'\n", "optimizer_type = 'DAdaptation'\n"):
        found = imported(tmp_path, full + other)
        assert found.settings["full_mixed_precision"] is False and messages_about(found, "full_bf16")


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
    "diffusers' xformers": (FULL + "diffusers_xformers = true", {"attention": kohya_case.XFORMERS}),
    "a base model in fp8": (NETWORK + "fp8_base = true", {"base_precision": "fp8"}),
    "a UNet in fp8": (NETWORK + "fp8_base_unet = true", {"base_precision": "fp8"}),
    "a base model in half precision": (NETWORK, {"base_precision": "full"}),
    "activations in main memory": (
        NETWORK + "cpu_offload_checkpointing = true\ngradient_checkpointing = true",
        {"offload_activations": True},
    ),
    "compiled blocks": (NETWORK + "torch_compile = true", {"torch_compile": True}),
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


# -- timesteps of flow-matching models -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("timestep_sampling = 'uniform'\ndiscrete_flow_shift = 3.1582\n", {}),
        ("timestep_sampling = 'sigmoid'\nsigmoid_scale = 1.5\n",
         {"timestep_sampling": "sigmoid", "sigmoid_scale": 1.5}),
        ("timestep_sampling = 'shift'\ndiscrete_flow_shift = 3.1582\n",
         {"timestep_sampling": "sigmoid", "timestep_shift": 3.1582}),
        ("timestep_sampling = 'shift'\n", {"timestep_sampling": "sigmoid", "timestep_shift": 3.0}),
        ("timestep_sampling = 'flux_shift'\n", {"timestep_sampling": "sigmoid", "resolution_shift": True}),
        ("timestep_sampling = 'flux2_shift'\n", {"timestep_sampling": "sigmoid", "resolution_shift": True}),
        ("weighting_scheme = 'logit_normal'\nlogit_mean = 0.5\nlogit_std = 0.8\ntraining_shift = 2.0\n",
         {"timestep_sampling": "logit_normal", "timestep_mean": -0.5, "timestep_std": 0.8, "timestep_shift": 2.0}),
        ("weighting_scheme = 'mode'\nmode_scale = 1.0\n", {"timestep_sampling": "mode", "mode_scale": 1.0}),
        ("weighting_scheme = 'cosmap'\n", {"flow_loss_weighting": "cosmap"}),
        ("weighting_scheme = 'cosmap'\nmodel_prediction_type = 'raw'\n", {}),
    ],
)  # fmt: skip
def test_timestep_sampling_of_flow_matching_models(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    found = imported(tmp_path, NETWORK + text)
    keys = ("timestep_sampling", "timestep_mean", "timestep_std", "sigmoid_scale", "mode_scale", "timestep_shift",
            "resolution_shift", "flow_loss_weighting")  # fmt: skip
    settings = parse(Settings, found.settings)
    assert {key: getattr(settings, key) for key in keys} == {key: getattr(Settings(), key) for key in keys} | expected


def test_an_unknown_timestep_sampling_is_reported(tmp_path: Path) -> None:
    found = imported(tmp_path, NETWORK + "timestep_sampling = 'qwen_shift'\n")
    assert "'qwen_shift' is not supported" in messages_about(found, "timestep_sampling")[0]


def test_logit_mean_counts_from_noise_to_image() -> None:
    """sd-scripts choose an index of the scheduler's timesteps, which fall: a positive mean prefers little noise."""
    timesteps = FlowMatchEulerDiscreteScheduler().timesteps
    density = compute_density_for_timestep_sampling("logit_normal", 2000, logit_mean=1.0, logit_std=1.0)
    assert timesteps[(density * 1000).long()].mean() < 400
