"""Lists of name=value arguments in the spellings that people use."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dreambooth.settings.arguments import format_arguments, parse_arguments, split_arguments

PRODIGY = {"decouple": True, "weight_decay": 0.01, "d_coef": 2, "betas": (0.9, 0.99)}


@pytest.mark.parametrize(
    "written",
    [
        "decouple=True weight_decay=0.01 d_coef=2 betas=0.9,0.99",
        "decouple=True, weight_decay=0.01, d_coef=2, betas=(0.9, 0.99)",
        "decouple=true; weight_decay=1e-2; d_coef=2; betas=[0.9,0.99];",
        "decouple = True\nweight_decay = .01\nd_coef = 2\nbetas = (0.9 , .99)\n",
        '"decouple=True" "weight_decay=0.01" "d_coef=2" "betas=0.9,0.99"',
        "'decouple=True', 'weight_decay=0.01', 'd_coef=2', 'betas=0.9, 0.99'",
        '--optimizer_args "decouple=True" "weight_decay=0.01" "d_coef=2" "betas=0.9,0.99"',
        'optimizer_args = ["decouple=True", "weight_decay=0.01", "d_coef=2", "betas=0.9,0.99",]',
        '{"decouple": true, "weight_decay": 0.01, "d_coef": 2, "betas": [0.9, 0.99]}',
        "decouple＝True，weight_decay＝0.01，d_coef＝2，betas＝0.9，0.99",
        "“decouple=True” “weight_decay=0.01” “d_coef=2” “betas=0.9,0.99”",
        ["decouple=True", "weight_decay=0.01", "d_coef=2", "betas=0.9,0.99"],
        ["decouple=True weight_decay=0.01", '"d_coef=2"', {"betas": [0.9, 0.99]}, ""],
        {"decouple": True, "weight_decay": 0.01, "d_coef": "2", "betas": "0.9,0.99"},
    ],
)
def test_spellings_of_the_same_arguments(written: Any) -> None:
    assert parse_arguments(written) == (PRODIGY, [])
    assert parse_arguments(format_arguments(PRODIGY)) == (PRODIGY, [])


@pytest.mark.parametrize("empty", [None, "", " ", [], [""], {}, "None", "[]", "{}", False])
def test_no_arguments(empty: Any) -> None:
    assert parse_arguments(empty) == ({}, [])


@pytest.mark.parametrize(
    ("written", "valid", "invalid"),
    [
        ("growth_rate=inf d0=float('inf')", {"growth_rate": math.inf, "d0": math.inf}, []),
        ("beta3=None eps=1e-30,0.001", {"beta3": None, "eps": (1e-30, 0.001)}, []),
        ("betas", {}, ["betas"]),
        ("d_coef=2 betas=", {"d_coef": 2}, ["betas="]),
        ("eps='x', d_coef=2", {"d_coef": 2}, ["eps=x"]),
        ("betas=__import__('os')", {}, ["betas=__import__('os')"]),
        ("**{}", {}, ["**{}"]),
        (["decouple", "d_coef=2"], {"d_coef": 2}, ["decouple"]),
        ("d0=nan", {}, ["d0=nan"]),
    ],
)
def test_invalid_arguments_are_named_and_the_others_used(written: Any, valid: dict, invalid: list[str]) -> None:
    assert parse_arguments(written) == (valid, invalid)


def test_texts_stay_as_they_are() -> None:
    written = ["preset=D:/my presets/a.toml", "down_lr_weight=0,0.5,1", "algo=lokr"]
    assert split_arguments(written) == (
        {"preset": "D:/my presets/a.toml", "down_lr_weight": "0,0.5,1", "algo": "lokr"},
        [],
    )
