"""Import of folders, dataset.toml files and training parameters, valid and invalid; and export to dataset.toml."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from dreambooth.dataset.planning import make_plan
from dreambooth.dataset.table import table
from dreambooth.errors import UserError
from dreambooth.images.bucket_rules import BucketRule
from dreambooth.interop.input_kind import RecognizedInput, recognize_input
from dreambooth.interop.kohya.export import export_dataset
from dreambooth.settings import Concept, Settings, parse
from tests.interop import kohya_case


def make_images(folder: Path, count: int = 2) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def dataset(folder: Path, text: str, name: str = "dataset.toml", encoding: str = "utf-8") -> RecognizedInput:
    (folder / name).write_bytes(text.encode(encoding))
    return recognize_input(folder / name)


SUBSET = "[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = 'a'\n"


# -- folders ----------------------------------------------------------------------------------------------------


def test_a_flat_folder_is_one_concept(tmp_path: Path) -> None:
    assert recognize_input(make_images(tmp_path / "a")) == RecognizedInput(
        (Concept(instance_data_dir=str(tmp_path / "a")),)
    )


def test_folders_with_repeats_in_their_names(tmp_path: Path) -> None:
    root = tmp_path / "project"
    for name in ("img/10_sls 1girl", "img/5_other", "img/0_off", "img/notes", "reg/1_1girl", "log"):
        make_images(root / name, 0 if name == "log" else 2)
    make_images(root / "img/5_other/below")
    found = recognize_input(root)
    rows = [(Path(c.instance_data_dir).name, c.num_repeats, c.regularization) for c in found.concepts]
    assert rows == [("10_sls 1girl", 10, False), ("5_other", 5, False), ("1_1girl", 1, True)]
    assert [concept.default_caption for concept in found.concepts] == ["sls 1girl", "other", "1girl"]
    assert not any(concept.instance_token or concept.class_token for concept in found.concepts)
    messages = "\n".join(found.unsupported)
    for reported in ("0_off", "notes: 2 images", "below", "do not set resolution, buckets"):
        assert reported in messages
    (root / "img/kohya.toml").write_text("[[datasets]]\n")
    (root / "img/other.toml").write_text("[tool]\n")
    assert recognize_input(root / "img").unsupported[0].partition(" was not read")[0] == str(root / "img/kohya.toml")
    assert "other.toml" not in "".join(recognize_input(root / "img").unsupported)
    plan = make_plan(found.concepts, Settings(resolution=64))
    assert len(plan.examples) == 4 and [e.repeats for e in plan.regularization] == [15, 15]
    assert recognize_input(make_images(tmp_path / "2023_summer")).concepts[0].num_repeats == 1, "a year"
    assert recognize_input(root / "img").concepts == found.concepts[:2]
    assert recognize_input(root / "img/10_sls 1girl").concepts == found.concepts[:1]
    assert (
        recognize_input(root / "reg").concepts == recognize_input(root / "reg/1_1girl").concepts == found.concepts[2:]
    )


def test_concepts_list_and_settings_of_a_model(tmp_path: Path) -> None:
    concept = {"instance_data_dir": "a", "num_repeats": 3}
    (tmp_path / "list.json").write_text(json.dumps([{**concept, "is_valid": True}]))
    assert recognize_input(tmp_path / "list.json").concepts[0].num_repeats == 3
    (tmp_path / "db_config.json").write_text(json.dumps({"resolution": 640, "seed": "x", "concepts_list": [concept]}))
    found = recognize_input(tmp_path / "db_config.json")
    assert found.settings == {"resolution": 640} and "seed" in found.unsupported[0]
    assert found.concepts[0].instance_data_dir == str((tmp_path / "a").resolve())


@pytest.mark.parametrize("name", ["missing", "missing.toml", "missing.json", "notes.txt"])
def test_invalid_input_paths(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=name):
        recognize_input(tmp_path / name)


# -- dataset.toml -----------------------------------------------------------------------------------------------


def test_subsets_inherit_from_datasets_and_general(tmp_path: Path) -> None:
    make_images(tmp_path / "a")
    make_images(tmp_path / "b")
    found = dataset(
        tmp_path,
        """
[general]
num_repeats = 2
keep_tokens = 2
flip_aug = true
caption_extension = ".txt"
resolution = 768
[[datasets]]
resolution = [64, 128]
num_repeats = 3
shuffle_caption = true
class_tokens = "sks"
  [[datasets.subsets]]
  image_dir = "a"
  caption_prefix = "photo,"
  caption_suffix = ", wet"
  enable_wildcard = true
  keep_tokens_separator = "|||"
  [[datasets.subsets]]
  image_dir = "b"
  num_repeats = 4
  keep_tokens = 0
  flip_aug = false
  caption_dropout_rate = 0.5
""",
    )
    assert not found.unsupported
    first, second = found.concepts
    assert (first.num_repeats, second.num_repeats) == (3, 4)
    assert (first.instance_prompt, second.instance_prompt) == ("photo, [filewords] , wet", "[filewords]")
    assert (first.caption_lines, first.wildcards, first.keep_separator) == ("random", True, "|||")
    assert (first.keep_tokens, first.hflip, first.caption_dropout) == (-1, "as the run", -1)
    assert (second.keep_tokens, second.hflip, second.caption_dropout) == (0, "off", 0.5)
    assert first.default_caption == "sks" and first.caption_extension == ".txt" and not first.subfolders
    run = parse(Settings, found.settings)
    assert (run.resolution, run.resolution_height, run.keep_tokens) == (64, 128, 2)
    assert run.shuffle_tags and run.hflip and run.bucket_rule == "one size"
    assert "keep_tokens -> keep_tokens = 2" in found.imported and not any("dropout" in line for line in found.imported)


def test_unsupported_and_invalid_keys_are_reported(tmp_path: Path) -> None:
    make_images(tmp_path / "a")
    invalid = """color_aug = true
random_crop = false
caption_separator = ";"
token_warmup_step = 100
face_crop_aug_range = [1.0, 2.0]
num_repeat = 3
num_repeats = "often"
keep_tokens = 1000
is_reg = 1
resolution = 64
"""
    found = dataset(
        tmp_path, SUBSET + invalid + "[[datasets]]\nresolution = 128\n[[datasets.subsets]]\nimage_dir = 'b'\n"
    )
    messages = "\n".join(found.unsupported)
    for line in ("line 10: subset 1 num_repeat: unknown key in sd-scripts (did you mean num_repeats?)",
                 "line 11: subset 1 num_repeats = 'often' is not a whole number",
                 "line 13: subset 1 is_reg = 1 is not true or false", "line 14: subset 1 resolution: belongs in",
                 "color_aug = True (subset 1)", "caption_separator", "token_warmup_step", "face_crop_aug_range",
                 "1000 is outside", "resolution = 128; the value of the first dataset", "does not exist"):  # fmt: skip
        assert line in messages
    assert (
        "resolution is missing" not in messages and "random_crop" not in messages and "token_warmup_min" not in messages
    )
    assert len(found.concepts) == 1 and found.concepts[0].num_repeats == 1


BROKEN = {
    "no end": ("[general\nresolution = 512", "line 1"),
    "escapes": ('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "D:\\pictures\\10_sls"', "line 3.*double quotes"),
    "twice": (SUBSET + "num_repeats = 1\nnum_repeats = 2\n", "num_repeats"),
    "a Python list": ("[[datasets]]\nresolution = (512, 512)\n", "line 2"),
    "no subset": ("[[datasets]]\nresolution = 512\n", "no images to train"),
    "empty": ("", "contains nothing"),
    "words": ("hello world\n", "line 1"),
    "datasets as a text": ("datasets = 'x'\n", r"Write \[\[datasets\]\]"),
    "a subset as a number": ("[[datasets]]\nsubsets = [3]\n", r"Write \[\[subsets\]\]"),
    "no folder": ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 1\n", "image_dir is missing"),
    "no metadata": (SUBSET + "metadata_file = 'x.json'", "the file .*x.json does not exist"),
    "an empty folder": (
        "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'empty'\n",
        "line 3.*empty contains no images",
    ),
    "0 repeats": (SUBSET + "num_repeats = 0\n", "line 5.*0 repeats"),
    "only regularization": (SUBSET + "is_reg = true\n", "no images to train"),
    "lost escapes": ('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "D:\\new\\train"', "line 3.*double quotes"),
    "nested too deep": ("a = " + "[" * 5000 + "]" * 5000, "is not valid TOML"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_invalid_configurations_are_reported_with_their_line(tmp_path: Path, name: str) -> None:
    make_images(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    text, message = BROKEN[name]
    with pytest.raises(UserError, match=f"(?s)dataset.toml.*{message}"):
        dataset(tmp_path, text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    make_images(tmp_path / "写真")
    text = SUBSET.replace("'a'", "'写真'").replace("\n", "\r\n")
    assert Path(dataset(tmp_path, text, encoding=encoding).concepts[0].instance_data_dir).name == "写真"


@pytest.mark.parametrize(
    ("encoding", "name"), [("gb18030", "照片"), ("cp932", "写真"), ("cp1252", "Büro"), ("cp949", "사진")]
)
def test_an_encoding_of_windows_is_certain_if_a_path_exists_that_way(tmp_path: Path, encoding: str, name: str) -> None:
    text = f"# {name}\n" + SUBSET.replace("'a'", f"'{name}'")
    with pytest.raises(UserError, match="line 1: is not UTF-8"):
        dataset(tmp_path, text, encoding=encoding)
    make_images(tmp_path / name)
    assert Path(dataset(tmp_path, text, encoding=encoding).concepts[0].instance_data_dir).name == name
    make_images(tmp_path / "a")
    assert dataset(tmp_path, f"# {name}\n{SUBSET}", encoding=encoding).concepts


def test_json_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "data/a")
    (tmp_path / "configs").mkdir()
    subsets = [{"image_dir": "data\\a"}, {"image_dir": "data/a"}, {"image_dir": str(tmp_path / "data/a")}]
    monkeypatch.chdir(tmp_path)
    found = dataset(tmp_path / "configs", json.dumps({"datasets": [{"subsets": subsets[1:]}]}), "dataset.json")
    assert [Path(c.instance_data_dir) for c in found.concepts] == [tmp_path / "data/a"]
    assert "subset 1 already uses the folder" in "\n".join(found.unsupported)
    from_working_dir = dataset(tmp_path, SUBSET.replace("'a'", "'data\\a'"))
    assert Path(from_working_dir.concepts[0].instance_data_dir) == tmp_path / "data/a"


# -- training parameters ------------------------------------------------------------------------------------------

TRAINING = """
[model_arguments]
pretrained_model_name_or_path = "anything.safetensors"
v2 = false
[dataset_arguments]
train_data_dir = "img"
reg_data_dir = "reg"
resolution = "512,512"
enable_bucket = true
shuffle_caption = true
keep_tokens = 1
caption_extension = ".txt"
[training_arguments]
output_name = "sls"
train_batch_size = 2
max_train_epochs = 8
learning_rate = 1e-4
unet_lr = 1e-4
text_encoder_lr = 5e-5
lr_scheduler = "cosine_with_restarts"
lr_scheduler_num_cycles = 3
lr_warmup_steps = 100
optimizer_type = "AdamW8bit"
optimizer_args = ["weight_decay=0.1", "betas=(0.9, 0.99)"]
network_module = "lycoris.kohya"
network_dim = 32
network_alpha = 16
network_args = ["conv_dim=8", "conv_alpha=4", "algo=loha"]
min_snr_gamma = 5
noise_offset = 0.05
clip_skip = 2
max_token_length = 225
mixed_precision = "fp16"
save_every_n_epochs = 1
cache_latents = true
seed = 1337
xformers = true
sample_sampler = "euler_a"
sample_prompts = "prompts.txt"
learning_rat = 3
scale_weight_norms = 1.0
"""


def test_training_parameters(tmp_path: Path) -> None:
    make_images(tmp_path / "img/10_sls 1girl")
    make_images(tmp_path / "img/loose")
    make_images(tmp_path / "reg/1_1girl")
    (tmp_path / "prompts.txt").write_text("# mine\nsls, smile --n bad --w 512 --d 7 --s 30\nother\n")
    found = dataset(tmp_path, TRAINING, "train.toml")
    run, expected = parse(Settings, found.settings), {
        "use_lora": True, "lora_type": "LoHa", "lora_unet_rank": 32, "lora_txt_alpha": 16, "use_lora_extended": True,
        "lora_conv_rank": 8, "lora_conv_alpha": 4, "lora_learning_rate": 1e-4, "lora_txt_learning_rate": 5e-5,
        "lr_scheduler": "cosine_with_restarts", "lr_cycles": 3, "lr_warmup_steps": 100, "optimizer": "8bit AdamW",
        "optimizer_args": "betas=(0.9, 0.99)", "weight_decay": 0.1, "min_snr_gamma": 5, "offset_noise": 0.05,
        "clip_skip": 2, "max_token_length": 225, "mixed_precision": "fp16", "save_embedding_every": 1, "seed": 1337,
        "attention": kohya_case.XFORMERS, "scheduler": "EulerAncestralDiscrete", "resolution": 512,
        "bucket_rule": "kohya",
        "shuffle_tags": True, "keep_tokens": 1, "train_batch_size": 2, "num_train_epochs": 8, "max_train_steps": 0,
        "prior_loss_weight": 1.0, "custom_model_name": "sls",
    }  # fmt: skip
    assert {key: getattr(run, key) for key in expected} == expected
    instance, regularization = found.concepts
    assert (instance.num_repeats, instance.default_caption, instance.instance_token) == (10, "sls 1girl", "")
    assert regularization.regularization and regularization.default_caption == "1girl"
    sample = instance.save_sample_prompt, instance.save_sample_negative_prompt, instance.sample_seed
    assert sample == ("sls, smile", "bad", 7) and instance.save_infer_steps == 30
    messages = "\n".join(found.unsupported)
    for line in ("line 40: learning_rat = 3", "pretrained_model_name_or_path", "2 images in", "1 more prompt ignored",
                 "cache_latents", "scale_weight_norms"):  # fmt: skip
        assert line in messages
    assert "v2" not in messages, "a parameter that is false is not reported"


def test_parameters_with_and_without_a_dataset(tmp_path: Path) -> None:
    make_images(tmp_path / "a")
    (tmp_path / "sub").mkdir()
    dataset(tmp_path / "sub", SUBSET.replace("'a'", "'../a'") + "num_repeats = 5\nenable_wildcard = true\n")
    steps = "max_train_steps = 100\ntrain_batch_size = 4\nlearning_rate = 1e-5\nnetwork_train_unet_only = true\n"
    text = (tmp_path / "sub/dataset.toml").read_text()
    (tmp_path / "sub/dataset.toml").write_text(text.replace("../a", "a"))
    assert dataset(tmp_path, "dataset_config = 'sub/dataset.toml'", "train.toml").concepts, (
        "relative to the training configuration"
    )
    (tmp_path / "sub/dataset.toml").write_text(text)
    named = dataset(tmp_path, "dataset_config = 'sub/dataset.toml'\n" + steps, "train.toml")
    assert named.concepts[0].num_repeats == 5 and named.concepts[0].wildcards
    assert (named.settings["train_batch_size"], named.settings["max_train_steps"]) == (4, 100)
    assert named.settings["num_train_epochs"] >= 40 and named.settings["stop_text_encoder"] == 0
    assert named.settings["learning_rate"] == 1e-5 and "use_lora" not in named.settings
    alone = dataset(tmp_path, steps, "train.toml")
    assert not alone.concepts and "bucket_rule" not in alone.settings
    assert "lists no images" in "\n".join(alone.unsupported)
    with pytest.raises(UserError, match=r"dataset_config: .*nowhere\.toml"):
        dataset(tmp_path, "dataset_config = 'nowhere.toml'\n" + steps, "train.toml").require_concepts()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train_data_dir = 'img/5_zwx toy'", "sd-scripts search the subfolders and would find none. Name its parent"),
        ("train_data_dir = '.'", "contains no folders with repeats in their names, but {root}/img does"),
        ("train_data_dir = 'flat'", "2 images in {root}/flat skipped, as sd-scripts only train folders with repeats"),
        ("train_data_dir = 'empty'", "{root}/empty contains no images"),
        ("train_data_dir = 'none'", "the folder {root}/none/10_a contains no images"),
        ("train_data_dir = 'D:/photos/zwx'", "D:/photos/zwx is a folder of a Windows computer"),
        ("train_data_dir = '/home/someone/photos'", "the folder /home/someone/photos does not exist on this machine"),
        ("train_data_dir = 'train.toml'", "{root}/train.toml is a file"),
        ("train_data_dir = 'img/5_zwx toy'\nreg_data_dir = 'img'", "Name its parent"),
        ("train_data_dir = 'flat'\nin_json = 'gone.json'", "{root}/gone.json does not exist"),
        ("dataset_config = 'gone.toml'", "gone.toml"),
        ('train_data_dir = "D:\\new\\toys"', "is not a valid path"),
    ],
)
def test_nothing_is_imported_without_images(tmp_path: Path, text: str, message: str) -> None:
    make_images(tmp_path / "img/5_zwx toy")
    make_images(tmp_path / "flat")
    (tmp_path / "empty").mkdir()
    (tmp_path / "none/10_a").mkdir(parents=True)
    found = dataset(tmp_path, f"{text}\nnetwork_module = 'networks.lora'\nlearning_rate = 1e-4\n", "train.toml")
    with pytest.raises(UserError) as error:
        found.require_concepts()
    first, *reasons = error.value.problems
    assert "there are no images to train, so nothing was imported. Correct " in first
    assert message.format(root=tmp_path) in "\n".join(reasons)


def test_one_of_two_folders_is_gone(tmp_path: Path) -> None:
    make_images(tmp_path / "img/5_zwx toy")
    found = dataset(tmp_path, "train_data_dir = 'img'\nreg_data_dir = 'E:/reg'\n", "train.toml")
    assert len(found.concepts) == 1 and "reg_data_dir: E:/reg is a folder of a Windows" in "\n".join(found.unsupported)


@pytest.mark.parametrize(("given", "read"), [("txt", ".txt"), ("*.caption", ".caption")])
def test_a_caption_extension_without_its_dot_is_corrected(tmp_path: Path, given: str, read: str) -> None:
    make_images(tmp_path / "a")
    found = dataset(tmp_path, SUBSET + f"caption_extension = '{given}'\n")
    assert found.concepts[0].caption_extension == read
    assert f"caption_extension = '{given}' is read as '{read}'" in found.unsupported[0]


SIZES: dict[str, tuple[str, dict[str, object], str]] = {
    "not a multiple of 8": ("resolution = '128,150'", {"resolution": 128, "resolution_height": 144}, "144 is used"),
    "a pair with x": ("resolution = '128x192'", {"resolution": 128, "resolution_height": 192}, ""),
    "decimals": ("resolution = 128.0\nkeep_tokens = 1.0", {"resolution": 128, "keep_tokens": 1}, ""),
    "quoted": (
        "resolution = '128'\nenable_bucket = 'true'\nmin_bucket_reso = '64'\nshuffle_caption = 'True'",
        {"bucket_rule": "kohya", "bucket_min_side": 64, "shuffle_tags": True},
        "",
    ),
    "a minimum above": (
        "resolution = 128\nenable_bucket = true",
        {"bucket_min_side": 128},
        "min_bucket_reso = 256 is above the resolution 128",
    ),
    "a maximum below": (
        "resolution = 512\nenable_bucket = true\nmax_bucket_reso = 256",
        {"bucket_max_side": 512},
        "max_bucket_reso = 256 is below the resolution 512",
    ),
    "a step of 1": (
        "resolution = 512\nenable_bucket = true\nbucket_reso_steps = 1",
        {"bucket_step": 64},
        "bucket_reso_steps = 1 is not a multiple of 8",
    ),
    "timesteps": (
        "resolution = 512\nmin_timestep = 900\nmax_timestep = 900",
        {"min_timestep": 0, "max_timestep": 1000},
        "min_timestep = 900 is not below max_timestep = 900",
    ),
    "zeros for nothing": (
        "resolution = 512\nmax_train_epochs = 0\nclip_skip = 0\nmax_train_steps = 10",
        {"max_train_steps": 10, "clip_skip": 1},
        "",
    ),
    "nothing to learn": (
        "resolution = 512\nunet_lr = 0\ntext_encoder_lr = 0",
        {"train_unet": False, "stop_text_encoder": 0},
        "so nothing is trained",
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_numbers_that_no_run_takes_are_replaced_and_reported(tmp_path: Path, name: str) -> None:
    make_images(tmp_path / "img/1_a")
    text, expected, message = SIZES[name]
    found = dataset(tmp_path, f"train_data_dir = 'img'\n{text}\n", "train.toml")
    assert {key: found.settings[key] for key in expected} == expected
    messages = [line for line in found.unsupported if "BOM" not in line]
    assert (len(messages) == 1 and message in messages[0]) if message else not messages
    BucketRule(parse(Settings, found.settings))


def test_defaults_of_sd_scripts_replace_earlier_settings(tmp_path: Path) -> None:
    make_images(tmp_path / "img/1_a")
    found = dataset(tmp_path, "train_data_dir = 'img'\nresolution = 64\n", "train.toml")
    earlier = Settings(
        offset_noise=0.1,
        zero_terminal_snr=True,
        learning_rate=1e-4,
        lr_warmup_steps=5,
        loss_type="huber",
        train_unet=False,
        debiased_estimation=True,
        optimizer_args="eps=1e-3",
        weight_decay=0.5,
    )
    run = parse(Settings, found.settings, base=earlier)
    assert run == parse(Settings, found.settings) and (run.learning_rate, run.weight_decay) == (2e-6, 0.01)


def test_what_the_gui_hands_to_sd_scripts_is_not_a_preset_of_the_gui(tmp_path: Path) -> None:
    make_images(tmp_path / "img/10_a")
    text = (
        "train_data_dir = 'img'\nresolution = '1024,1024'\nepoch = 30\nnoise_offset_type = 'Multires'\n"
        "max_train_epochs = 30\noptimizer_type = 'Prodigy'\noptimizer_args = []\nnetwork_module = 'networks.lora'\n"
        "network_dim = 32\nnetwork_alpha = 16\nunet_lr = 1\ntext_encoder_lr = 1\n"
    )
    found = dataset(tmp_path, text, "config_lora-20260101-000000.toml")
    expected = {"resolution": 1024, "optimizer": "Prodigy", "lora_learning_rate": 1.0, "lora_unet_rank": 32,
                "lora_unet_alpha": 16.0, "num_train_epochs": 30, "lr_scheduler": "constant"}  # fmt: skip
    assert {key: found.settings[key] for key in expected} == expected
    assert all("unknown parameter" not in line for line in found.unsupported)


def test_training_parameters_and_datasets_in_one_file(tmp_path: Path) -> None:
    make_images(tmp_path / "a")
    found = dataset(
        tmp_path,
        "[general]\noutput_dir = 'out'\nflip_aug = true\n[training]\nlearning_rate = 1e-4\nmax_train_epochs = 3\n"
        "network_module = 'networks.lora'\nnetwork_dim = 32\n" + SUBSET + "num_repeats = 20\ntypo = 1\n",
    )
    assert found.concepts[0].num_repeats == 20 and found.settings["hflip"]
    assert (found.settings["lora_unet_rank"], found.settings["num_train_epochs"]) == (32, 3)
    messages = "\n".join(found.unsupported)
    assert "here both are imported" in messages and "line 14: subset 1 typo: unknown key" in messages


@pytest.mark.parametrize(
    ("text", "extension", "reason"),
    [
        ("", "txt", "caption_extension is '.caption', the default of sd-scripts, as the file has no caption_extension"),
        ("caption_extension = '.caption'\n", "txt", "caption_extension is '.caption'. Write"),
        ("caption_extension = '.txt'\n", "caption", "caption_extension is '.txt'. Write"),
        ("caption_extension = '.wd14'\n", "TXT", 'Write caption_extension = ".TXT"'),
    ],
)
def test_captions_with_another_extension_are_reported(tmp_path: Path, text: str, extension: str, reason: str) -> None:
    """By the import and, file by file, by the plan; as in sd-scripts they are not read."""
    make_images(tmp_path / "img/5_zwx toy", 3)
    for number in range(2):
        (tmp_path / f"img/5_zwx toy/{number}.{extension}").write_text("a zwx toy on a table")
    found = dataset(tmp_path, f"train_data_dir = 'img'\nresolution = 64\n{text}", "train.toml")
    (message,) = [line for line in found.unsupported if "which are not read" in line]
    assert f"the captions of 2 images are in .{extension} files" in message and reason in message
    plan = make_plan(found.concepts, parse(Settings, found.settings))
    assert [issue.path.name for issue in plan.issues if issue.kind == "other-caption"] == ["0.png", "1.png"]
    assert {example.caption for example in plan.examples} == {"zwx toy"}
    assert any("caption_extension" in warning for warning in plan.warnings)


def test_invalid_parameters_are_reported_and_the_others_imported(tmp_path: Path) -> None:
    found = dataset(tmp_path, """
optimizer_type = "Sophia"
lr_scheduler = "piecewise"
max_train_epochs = "many"
seed = -7
clip_skip = [2]
unet_lr = 0
text_encoder_lr = [1e-5, 2e-5]
network_args = ["algo=boft", "preset", "factor=x"]
network_module = "networks.lora"
optimizer_args = "weight_decay=much"
resolution = "big"
""", "train.toml")  # fmt: skip
    messages = "\n".join(found.unsupported)
    for text_part in ("Sophia", "piecewise", "line 4: max_train_epochs", "line 5: seed", "line 6: clip_skip", "boft",
                 "preset", "weight_decay", "resolution"):  # fmt: skip
        assert text_part in messages
    assert found.settings["train_unet"] is False and found.settings["lora_txt_learning_rate"] == 1e-5


# -- export ---------------------------------------------------------------------------------------------------------


def test_an_exported_dataset_is_imported_unchanged(tmp_path: Path) -> None:
    folder = kohya_case.make(tmp_path / "case")
    (folder / "dataset.toml").write_text(kohya_case.toml(batch_size=2))
    found = recognize_input(folder / "dataset.toml")
    first, regularization = found.concepts
    changed = dataclasses.replace(first, hflip="on", wildcards=True, caption_lines="random", keep_separator="|||",
                                  instance_prompt="a photo,  [filewords] , end", caption_dropout=0.25)  # fmt: skip
    settings = parse(Settings, {**found.settings, "tag_dropout": 0.1})
    text, unsupported = export_dataset([changed, regularization], settings)
    assert len(unsupported) == 1 and "Learning rates" in unsupported[0]
    reimported = dataset(tmp_path, text)
    assert not reimported.unsupported
    before = make_plan([changed, regularization], settings)
    after = make_plan(reimported.concepts, parse(Settings, reimported.settings))
    assert table(after) == table(before)
    assert after.fingerprint() != make_plan([first, regularization], settings).fingerprint()
    for epoch in range(3):
        samples, reimported_samples = (
            [(e.path, e.caption, e.flipped) for batch in plan.epoch(0, epoch, 2) for e in batch.instances]
            for plan in (before, after)
        )
        assert samples == reimported_samples


def test_an_export_reports_what_sd_scripts_do_not_support(tmp_path: Path) -> None:
    make_images(tmp_path / "a/below")
    make_images(tmp_path / "class", 3)
    concept = Concept(instance_data_dir=str(tmp_path / "a"), class_data_dir=str(tmp_path / "class"),
                      instance_token="sks", max_steps=5, class_prompt="a photo of a dog")  # fmt: skip
    text, unsupported = export_dataset([concept], Settings())
    messages = "\n".join(unsupported)
    for text_part in (
        "Bucket rule area",
        "Caption parsing own",
        "each instance image is trained with a class image",
        "tokens",
        "maximum number of steps",
        "file names are used as captions",
    ):
        assert text_part in messages
    found = dataset(tmp_path, text)
    assert [Path(c.instance_data_dir).name for c in found.concepts] == ["below", "class"]
    assert found.concepts[1].default_caption == "a photo of a dog"
    assert "is in 2 subsets" in "\n".join(export_dataset([concept, concept], Settings())[1])
    with pytest.raises(UserError, match="no concept"):
        export_dataset([], Settings())
