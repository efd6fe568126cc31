"""Scripts that run sd-scripts are imported as the parameters that they hand over."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth.errors import UserError
from dreambooth.interop.input_kind import recognize_input
from tests.interop.program_case import make_images

SHELL = """#!/bin/bash
model="m.safetensors" # the base
data="./set"
algo="loha"   # of LyCORIS
module="lycoris.kohya"
only_unet=1
only_text=0
kind="sd1.5"
extra=()
launch=()
# --pretrained_model_name_or_path is set below
trainer="./train_network.py"
if [ $kind == "sd1.5" ]; then
  extra+=("--clip_skip=2")
elif [ $kind == "sdxl" ]; then
  trainer="./sdxl_train_network.py"
fi
if [[ $only_unet == 1 ]]; then extra+=("--network_train_unet_only"); fi
if [[ $only_text == 1 ]]; then extra+=("--network_train_text_encoder_only"); fi
if [[ $module == "lycoris.kohya" ]]; then
  extra+=("--network_args conv_dim=4 conv_alpha=2 algo=$algo")
fi
accelerate launch ${launch[@]} --num_cpu_threads_per_process=4 $trainer \\
  --pretrained_model_name_or_path=$model --train_data_dir=$data --network_module=$module \\
  --network_dim 8 --learning_rate 3e-4 --max_train_epochs=5 --resolution="128,192" \\
  --caption_extension=".txt" --shuffle_caption ${extra[@]}
"""
POWERSHELL = """$model = "m.safetensors"
$data = "./set"
$algo = "loha"
$only_unet = 1 # the UNet
$weights = ""
$kind = "sd1.5"
$extra = [System.Collections.ArrayList]::new()
$trainer = "./train_network.py"
if ($kind -eq "sd1.5") {
  [void]$extra.Add("--clip_skip=2")
}
else {
  $trainer = "./sdxl_train_network.py"
}
if ($only_unet) {
  [void]$extra.Add("--network_train_unet_only")
}
if ($weights) {
  [void]$extra.Add("--network_weights=" + $weights)
}
[void]$extra.Add("--network_args")
[void]$extra.Add("conv_dim=4")
[void]$extra.Add("conv_alpha=2")
[void]$extra.Add("algo=$algo")
python -m accelerate.commands.launch $trainer `
  --pretrained_model_name_or_path=$model --train_data_dir=$data --network_module=lycoris.kohya `
  --network_dim=8 --learning_rate=3e-4 --max_train_epochs=5 --resolution="128,192" `
  --caption_extension=".txt" --shuffle_caption $extra
"""
BATCH = """@echo off
rem --pretrained_model_name_or_path
set DATA=set
set "DIM=8"
accelerate launch --num_cpu_threads_per_process 1 train_network.py ^
 --pretrained_model_name_or_path="C:\\m\\a.safetensors" --train_data_dir=%DATA% --network_module lycoris.kohya ^
 --network_dim=%DIM% --learning_rate=3e-4 --max_train_epochs=5 --resolution=128,192 --clip_skip=2 ^
 --network_train_unet_only --network_args "conv_dim=4" "conv_alpha=2" "algo=loha" ^
 --caption_extension=.txt --shuffle_caption
pause
"""
SCRIPTS = {"train.sh": SHELL, "train.ps1": POWERSHELL, "train.bat": BATCH, "command.txt": BATCH.replace("^\n", "")}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_followed(tmp_path: Path, name: str) -> None:
    make_images(tmp_path / "set" / "5_fen")
    (tmp_path / name).write_text(SCRIPTS[name].replace("\n", "\r\n"), newline="")
    found = recognize_input(tmp_path / name)
    expected = {
        "lora_type": "LoHa", "lora_unet_rank": 8, "lora_conv_rank": 4, "clip_skip": 2, "stop_text_encoder": 0.0,
        "train_unet": True, "lora_learning_rate": 3e-4, "num_train_epochs": 5, "resolution": 128,
        "resolution_height": 192, "shuffle_tags": True, "lora_start": "",
    }  # fmt: skip
    assert {key: found.settings[key] for key in expected} == expected
    assert [concept.num_repeats for concept in found.concepts] == [5]
    assert not any("ignored" in line for line in found.unsupported)


def test_a_script_for_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.ps1").write_text(POWERSHELL.replace("./train_network.py", "./flux_train_network.py"))
    with pytest.raises(UserError, match=r"flux_train_network\.py, which trains FLUX\.1"):
        recognize_input(tmp_path / "train.ps1")
