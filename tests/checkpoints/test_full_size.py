"""The published SD1.5's sizes: nothing is lost, memory stays far below the file's size, and a LoRA can be trained."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dreambooth.checkpoints.modules import weights_path
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.files import read_json
from dreambooth.settings import Folders, ModelFolder

RUN = """
import json, resource, sys
from pathlib import Path
from dreambooth.actions import create
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.settings import Folders, ModelFolder

models, source, out = map(Path, sys.argv[1:])
model = ModelFolder(Folders(models), "big")
peaks = []
for work in (lambda: create(model.folders, model.name, source), lambda: write_checkpoint(model, out)):
    work()
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
print(json.dumps(peaks))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="measures memory with getrusage")
def test_create_and_write_back(tmp_path: Path, key_table, write_random, assert_same):
    source, out = tmp_path / "sd15.safetensors", tmp_path / "out.safetensors"
    write_random(source, key_table)
    model = ModelFolder(Folders(tmp_path / "models"), "big")
    command = [sys.executable, "-c", RUN, str(tmp_path / "models"), str(source), str(out)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    create, write = json.loads(run.stdout)
    assert max(create, write) <= 1.5 * source.stat().st_size, f"{create / 1e9:.2f} and {write / 1e9:.2f} GB"
    assert len(key_table) == 1143
    assert_same(out, source)
    counts = {part: _n_parameters(model, part) for part in ("unet", "vae", "text_encoder")}
    assert counts == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}  # as published
    unet, text = (read_json(model.working / part / "config.json") for part in ("unet", "text_encoder"))
    assert (unet["attention_head_dim"], text["num_attention_heads"]) == (8, 12)
    source.unlink()
    out.unlink()
    _train_three_steps(model)
    shutil.rmtree(tmp_path)  # gigabytes


def _train_three_steps(model: ModelFolder) -> None:
    """As a person would, on the command line; a LoRA of all 264 modules comes of it."""
    pictures = model.root / "pictures"
    pictures.mkdir()
    for i in range(3):
        Image.new("RGB", (300, 260), (80 * i, 120, 40)).save(pictures / f"a zwx dog {i}.png")
    concepts = model.root / "concepts.json"
    concepts.write_text(json.dumps([{"instance_data_dir": "pictures", "n_save_sample": 0}]))
    settings = ["use_lora=true", "resolution=256", "max_train_steps=3", "train_batch_size=1"]
    command = [sys.executable, "-m", "dreambooth", "train", model.name, "--models-dir", str(model.folders.models)]
    run = subprocess.run(
        [*command, "--concepts", str(concepts), "--set", *settings, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.returncode == 0
    trained = json.loads(run.stdout)
    assert trained["steps"] == 3
    with open_tensors(trained["files"][0]) as file:
        assert len(file.keys()) == 3 * 264


def _n_parameters(model: ModelFolder, component: str) -> int:
    with open_tensors(weights_path(model.working, component)) as file:
        return sum(math.prod(file.shape(key)) for key in file)
