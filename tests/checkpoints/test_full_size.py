"""The published sizes: nothing is lost, memory stays near the file's size, and a LoRA of SD1.5 can be trained."""

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
from dreambooth.checkpoints.verify import verify_checkpoint
from dreambooth.settings import CreateOptions, Folders, ModelFolder

models, source, out = map(Path, sys.argv[1:4])
model, ema = ModelFolder(Folders(models), "big"), sys.argv[4]
steps = [
    lambda: create(model.folders, model.name, source, CreateOptions(extract_ema=ema != "none")),
    lambda: write_checkpoint(model, out, ema=ema),
    lambda: verify_checkpoint(out, model).ok or sys.exit("not ok"),
]
peaks = []
for work in steps:
    work()
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
print(json.dumps(peaks))
"""

no_getrusage = pytest.mark.skipif(sys.platform == "win32", reason="measures memory with getrusage")


@pytest.fixture
def there_and_back(tmp_path: Path, key_tables, write_random, assert_same):
    """Make a file like a published model, create a model from it, write and compare it; returns the model."""

    def run(name: str, ema: str = "none") -> ModelFolder:
        source, out = tmp_path / f"{name}.safetensors", tmp_path / "out.safetensors"
        table = key_tables(name)
        needed = 3.1 * sum(spec.n_bytes for spec in table.values())  # the file, working/, the file again
        if shutil.disk_usage(tmp_path).free < needed:
            pytest.skip(f"{name} needs {needed / 1e9:.0f} GB of disk")
        write_random(source, table)
        command = [sys.executable, "-c", RUN, str(tmp_path / "models"), str(source), str(out), ema]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        limit = 1.3 * source.stat().st_size + 1.5e9
        peaks = json.loads(done.stdout)
        assert max(peaks) <= limit, f"{[round(peak / 1e9, 2) for peak in peaks]} GB"
        assert_same(out, source)
        source.unlink()
        out.unlink()
        return ModelFolder(Folders(tmp_path / "models"), "big")

    yield run
    shutil.rmtree(tmp_path)  # gigabytes


@pytest.mark.nightly(minutes=10)
@no_getrusage
def test_sd15(there_and_back):
    model = there_and_back("sd15")
    counts = {part: _n_parameters(model, part) for part in ("unet", "vae", "text_encoder")}
    assert counts == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}  # as published
    unet, text = (read_json(model.working / part / "config.json") for part in ("unet", "text_encoder"))
    assert (unet["attention_head_dim"], text["num_attention_heads"]) == (8, 12)
    _train_three_steps(model)


@pytest.mark.nightly(minutes=10)
@no_getrusage
@pytest.mark.parametrize(
    ("name", "ema"), [("sd21-768-v", "none"), ("sd15-inpainting", "include"), ("sdxl-base", "none")]
)
def test_larger_models(there_and_back, name, ema):
    there_and_back(name, ema)


def _train_three_steps(model: ModelFolder) -> None:
    """With the command line; the result is a LoRA of all 264 modules."""
    images = model.root / "images"
    images.mkdir()
    for i in range(3):
        Image.new("RGB", (300, 260), (80 * i, 120, 40)).save(images / f"a zwx dog {i}.png")
    concepts = model.root / "concepts.json"
    concepts.write_text(json.dumps([{"instance_data_dir": "images", "n_save_sample": 0}]))
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
