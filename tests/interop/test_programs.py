"""Files of other programs are recognized by their content; unknown ones are described."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from dreambooth.errors import UserError
from dreambooth.interop.input_kind import recognize_input
from dreambooth.interop.programs import find_program
from dreambooth.interop.script_text import split_words
from dreambooth.interop.translation import parse_command_line
from dreambooth.settings import SETTINGS
from tests.cli import commands
from tests.interop.program_case import RUN, easy_file, import_data, page

FILES: dict[str, tuple[str, Callable[[], Any]]] = {
    "kohya_ss GUI": ("json", lambda: page({})),
    "LoRA_Easy_Training_Scripts": ("toml", lambda: {**easy_file("x"), "subsets": []}),
    "lora-scripts": ("toml", lambda: {**RUN, "train_data_dir": ""}),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("file_name", ["preset", "preset.txt", "preset.toml", "preset.config"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_is_recognized_by_its_content(tmp_path: Path, name: str, file_name: str, encoding: str) -> None:
    form, make = FILES[name]
    text = json.dumps(make()) if form == "json" else tomlkit.dumps(make())
    (tmp_path / file_name).write_text("\n" + text.replace("\n", "\r\n"), encoding=encoding, newline="")
    assert recognize_input(tmp_path / file_name).settings["use_lora"] is True
    program = find_program(make())
    assert program is not None and program.name == name


@pytest.mark.parametrize("wrapped", [lambda data: {"settings": data}, lambda data: [data], lambda data: {"a": [data]}])
def test_a_preset_inside_of_another_table_is_found(tmp_path: Path, wrapped: Callable[[Any], Any]) -> None:
    assert import_data(tmp_path, wrapped(page({}))).settings["lora_unet_rank"] == 12


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "FLUX.1 in the GUI": (page({"flux1_checkbox": True}), "for FLUX.1"),
    "FLUX.1 by its LoRA type": (page({"LoRA_type": "Flux1"}), "for Flux1"),
    "SD 3 in the GUI": (page({"sd3_checkbox": True}), "for Stable Diffusion 3"),
    "textual inversion in the GUI": (page({"LoRA_type": None, "token_string": "fen"}), "textual inversion"),
    "FLUX.1 in easy training": (easy_file("x", flux_args__args={"guidance_scale": 1.0}), "for FLUX.1"),
    "textual inversion in easy training": (
        {**easy_file("x"), "train_mode": {"train_mode": "textual_inversion"}},
        "for textual inversion",
    ),
    "FLUX.1 in lora-scripts": ({**RUN, "model_train_type": "flux-lora"}, "for flux-lora"),
    "a preset for SD 3": ({"metadata": {"train_type": "sd3-lora"}, "data": {"resolution": "512"}}, "for sd3-lora"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_models_are_refused_by_name(tmp_path: Path, name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(UserError, match=f"given.json is a .*{message}.*[Cc]hoose"):
        import_data(tmp_path, data)


@pytest.mark.parametrize(
    ("data", "looks_like"),
    [
        ({"last_node_id": 4, "nodes": [{"id": 1}], "links": []}, "ComfyUI"),
        ({"_class_name": "UNet2DConditionModel", "sample_size": 64}, "diffusers"),
        ({"samples_save": True, "sd_model_checkpoint": "m"}, "settings of a WebUI"),
        ({"peft_type": "LORA", "r": 8}, "peft"),
        (
            {"basic": {"optimizer": "Lion", "epoch": 2}, "advanced": {"clip_skip": 1}, "folders": {}},
            "config.toml of kohya_ss",
        ),
        ({"fruit": "apple", "colour": "red"}, "the names fruit, colour"),
        ([{"fruit": "apple"}, {"fruit": "pear"}], "a list of 2 objects"),
        ([1, 2], "a list of 2 values"),
        (5, "a single value"),
        ({}, "nothing"),
    ],
)
def test_an_unknown_file_is_described(tmp_path: Path, data: Any, looks_like: str) -> None:
    with pytest.raises(UserError) as error:
        import_data(tmp_path, data)
    [message] = error.value.problems
    assert looks_like in message and "kohya_ss GUI" in message and "lora-scripts" in message and len(message) < 700


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is an image. Choose the folder"),
        ("a.jpg", b"\xff\xd8\xff\xe0JFIF", "is an image. Choose the folder"),
        ("a.zip", b"PK\x03\x04\x14", "is an archive. Extract it"),
        ("a.safetensors", b"\x40\0\0\0\0\0\0\0{}", "is a model file."),
        ("a.json", b"\0\1\2", "is not a text file."),
    ],
)
def test_a_file_that_is_no_text_is_described(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        recognize_input(tmp_path / name)


def test_a_command_line_is_parsed() -> None:
    text = '--lr_scheduler_type "CosineAnnealingLR" --lr_scheduler_args "T_max=100" "eta_min=0" --seed=-3 --flip-aug x'
    values, stray = parse_command_line(split_words(text))
    assert values == {"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler_args": ["T_max=100", "eta_min=0"],
                      "seed": -3, "flip_aug": "x"}  # fmt: skip
    assert parse_command_line(split_words('--a "b')) == ({"a": "b"}, [])
    assert parse_command_line(split_words(r"b --a=C:\d --e")) == ({"a": r"C:\d", "e": True}, ["b"])
    assert stray == []


def test_settings_named_by_imports_exist() -> None:
    from dreambooth.interop.translation import _VALUES_IF_MISSING

    assert all(SETTINGS[key].parse(value) == value for key, value in _VALUES_IF_MISSING.items())


def test_the_command_line_refuses_another_model_family(tmp_path: Path) -> None:
    (tmp_path / "flux.json").write_text(json.dumps(page({"flux1_checkbox": True})))
    done = commands.run("plan", tmp_path / "flux.json")
    assert done.returncode == 1 and "FLUX.1" in done.stderr and "Traceback" not in done.stderr


def test_import_is_short_for_import_toml(tmp_path: Path) -> None:
    done = commands.run("import", tmp_path / "a.json", "nobody", "--models-dir", tmp_path)
    assert done.returncode == 1 and "There is no model 'nobody'" in done.stderr
