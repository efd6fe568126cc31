"""--set: values by key, and what to write instead of other spellings."""

from __future__ import annotations

import pytest

from dreambooth.cli.options import assignments


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
