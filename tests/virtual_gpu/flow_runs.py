"""Short runs of the flow-matching families, whose modules are others than Stable Diffusion's."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dreambooth import actions
from dreambooth.jobs import Events
from dreambooth.memory import offload
from dreambooth.settings import Concept
from dreambooth.training import cuda_graphs
from tests.anima.files import ANIMA
from tests.chroma.files import CHROMA
from tests.flow_models.files import QUICK, create
from tests.flux.files import FLUX1
from tests.flux2.files import KLEIN
from tests.replayed_graph import ReplayedGraph
from tests.zimage.files import Z_IMAGE

FAMILIES = (Z_IMAGE, ANIMA, KLEIN, FLUX1, CHROMA)
SETTINGS: dict[str, dict[str, Any]] = {
    "CUDA graphs": {"cuda_graphs": True},
    "offload": {"offload_fraction": 1.0, "gradient_checkpointing": True, "base_precision": "int8"},
}


def run_all(folder: Path, device: torch.device) -> dict[str, dict[str, Any]]:
    """By family and settings: the losses, warnings, and how many previews there are. On a CPU without offload."""
    images = folder / "images"
    images.mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (64, 64), (40 * i, 90, 200)).save(images / f"a zwx toy {i}.png")
    concept = Concept(instance_data_dir=str(images), save_infer_steps=2, save_sample_prompt="a toy")
    names = SETTINGS if device.type == "cuda" else ["CUDA graphs"]
    outcomes = {}
    for files in FAMILIES:
        for name in names:
            own = folder / f"{files.title}, {name}"
            own.mkdir()
            model, events = create(own, files.write(own)), []
            values = {**QUICK, **SETTINGS[name], "max_train_steps": 4, "train_batch_size": 1}
            config = actions.configure(model, values, [concept])
            actions.train(model, config, device=device, events=Events(None, events.append))
            outcomes[own.name] = {
                "losses": [event["loss"] for event in events if event["kind"] == "step"],
                "warnings": [e["text"] for e in events if e["kind"] == "message" and e["level"] != "info"],
                "previews": sum(event["kind"] == "preview" for event in events),
            }
    return outcomes


def main() -> None:
    os.fsync = lambda handle: None
    offload.MIN_BYTES = 1024
    cuda_graphs.CudaGraph = ReplayedGraph
    folder, out = map(Path, sys.argv[1:])
    out.write_text(json.dumps(run_all(folder, torch.device("cuda"))), encoding="utf-8")


if __name__ == "__main__":
    main()
