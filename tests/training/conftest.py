"""Short real training runs of a very small model, and their results."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from dreambooth import actions
from dreambooth.errors import Cancelled, UserError
from dreambooth.jobs import Controls, Events
from dreambooth.settings import Concept, ModelFolder

SMALL = {
    "resolution": 64, "bucket_step": 32, "num_train_epochs": 2, "train_batch_size": 2, "save_preview_every": 0,
    "save_embedding_every": 0, "use_lora": True, "lora_learning_rate": 1e-3, "lora_txt_learning_rate": 1e-3,
    "learning_rate": 1e-4, "txt_learning_rate": 1e-4, "gradient_checkpointing": False,
}  # fmt: skip

TAGS = "(soft) light, grey floor, from above"  # in every caption


@dataclasses.dataclass
class Outcome:
    """A run: its result or error, and all its events."""

    result: Any
    events: list[dict[str, Any]]
    error: Exception | None
    model: ModelFolder

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]

    @property
    def losses(self) -> list[float]:
        return [event["loss"] for event in self.of("step")]

    @property
    def messages(self) -> str:
        return "\n".join(event["text"] for event in self.of("message") + self.of("ended"))

    def weights(self) -> dict[str, torch.Tensor]:
        """All trained weights: from the newest LoRA file, or from working/."""
        loras = sorted(self.model.folders.loras.glob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns)
        if loras:
            return tensors(loras[-1])
        return working_tensors(self.model.working)

    def digest(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights().items()):
            digest.update(name.encode() + tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(str(path), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)


def working_tensors(working: Path) -> dict[str, torch.Tensor]:
    """The weights of the UNet and the text encoder."""
    parts = {part: next((working / part).glob("*.safetensors")) for part in ("unet", "text_encoder")}
    return {f"{part}.{key}": t for part, path in parts.items() for key, t in tensors(path).items()}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of two shapes, asymmetric from left to right, and a folder of class images.

    One of the images is transparent in its right half.
    """
    folder = tmp_path_factory.mktemp("images")
    for kind, n in (("instance", 5), ("class", 3)):
        (folder / kind).mkdir()
        for i in range(n):
            size = (80, 80) if i % 2 else (112, 72)
            image = Image.new("RGBA", size, (40 * i, 200 - 30 * i, 90, 255))
            image.paste((200, 40 * i, 30, 255), (0, 0, 40, 40))
            if i == 1:
                image.paste((0, 0, 0, 0), (size[0] // 2, 0, *size))
            image.save(folder / kind / f"{i}.png")
            name = "zwx toy" if kind == "instance" else "toy"
            (folder / kind / f"{i}.txt").write_text(f"a {name} number {i}, {TAGS}")
    return folder


@pytest.fixture
def concept(images: Path) -> Concept:
    return Concept(
        instance_data_dir=str(images / "instance"),
        class_data_dir=str(images / "class"),
        instance_token="zwx",
        class_token="toy",
        save_infer_steps=2,
    )


@pytest.fixture
def train(mini: ModelFolder, concept: Concept) -> Callable[..., Outcome]:
    """:func:`short_run` of the model "mini"."""
    return functools.partial(short_run, mini, concept)


def short_run(
    model: ModelFolder,
    concept: Concept,
    resume: str = "",
    on: Callable[[dict, Controls], None] | None = None,
    samples: int = 1,
    **settings: Any,
) -> Outcome:
    """``on`` receives every event and may use the run's controls."""
    controls, recorded = Controls(), []
    listeners = [recorded.append] + ([lambda event: on(event, controls)] if on else [])
    events = Events(model.logging, *listeners)
    result = error = None
    try:
        sampled = dataclasses.replace(concept, n_save_sample=samples)
        config = actions.configure(model, {**SMALL, **settings}, [sampled])
        result = actions.train(model, config, resume=resume, controls=controls, events=events)
    except (UserError, Cancelled) as refused:
        error = refused
    return Outcome(result, recorded, error, model)
