"""--set: values by key, and what to write instead of other spellings."""

from __future__ import annotations

import pytest

from dreambooth.cli.options import assignments
from tests.cli.commands import run


def test_values_of_all_options() -> None:
    groups = [["use_lora=true", " seed = 3 "], ["sanity_prompt=a = b"], ["custom_model_name="]]
    expected = {"use_lora": "true", "seed": "3", "sanity_prompt": "a = b", "custom_model_name": ""}
    assert assignments(groups) == (expected, [])


@pytest.mark.parametrize(
    ("group", "meant"),
    [
        (["use_lora", "true"], "use_lora=true"),
        (["resolution=64", "rank", "16", "seed=2"], "rank=16"),
        (["learning_rate", "=", "1e-4"], "learning_rate=1e-4"),
        (["learning_rate=", "1e-4"], "learning_rate=1e-4"),
        (["learning_rate", "=1e-4"], "learning_rate=1e-4"),
        (["sanity_prompt=a", "red", "car"], '"sanity_prompt=a red car"'),
    ],
)
def test_other_spellings_are_refused_with_what_to_write(group: list[str], meant: str) -> None:
    values, [problem] = assignments([group, ["seed=1"]])
    assert values["seed"] == "1" and problem.endswith(f"as in {meant}.")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--learning_rate", "1e-4"], "write --set learning_rate=1e-4"),
        (["--learning-rate=1e-4"], "write --set learning_rate=1e-4"),
        (["--use_lora", "--seed", "3"], "write --set use_lora=true"),
        (["--network_dim", "16"], "key=value; set lora_unet_rank and lora_txt_rank, with use_lora."),
        (["--train_data_dir", "a"], "key=value; set instance_data_dir in the concepts file (--concepts)."),
        (["stray"], "unrecognized arguments: stray\n"),
    ],
)
def test_a_setting_given_as_an_option(arguments: list[str], expected: str) -> None:
    refused = run("check", "mini", *arguments)
    assert refused.returncode == 2 and expected in refused.stderr
    assert "key=value" not in run("sample", "mini", "--prompt", "a", "--out", "a", *arguments).stderr
