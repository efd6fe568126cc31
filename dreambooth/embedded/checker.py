"""A small image classifier for the embedded model: measures whether generated images follow their prompts.

A convolutional network, trained by tools/make_mini_model.py on rendered images, predicts an image's kind, color and
background, and an embedding that tells whether two images show the same toy. The embedding compares images, so this
works for any toy: no subject is part of the training data.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from dreambooth.tensor_files import open_safetensors

KINDS = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "toy")
COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
PIXELS = 64  # input resolution: half of the 128 pixels of the embedded model
EMBEDDING = 64


@dataclass(frozen=True)
class ImageAttributes:
    """The predicted content of an image. ``color`` means little for toys and patterned shapes: they have two."""

    kind: str
    color: str
    background: str


class Network(nn.Module):
    """Images [n, 3, 64, 64] in -1..1 to kind, color and background logits and unit embeddings [n, 64]."""

    def __init__(self, channels=(16, 32, 64, 96)):
        super().__init__()
        layers, previous = [], 3
        for width in channels:
            layers += [
                nn.Conv2d(previous, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            previous = width
        self.features = nn.Sequential(*layers, nn.Flatten())  # [n, channels * 4 * 4]
        self.hidden = nn.Linear(previous * 16, 128)
        self.kind, self.color, self.background = (
            nn.Linear(128, len(KINDS)),
            nn.Linear(128, 8),
            nn.Linear(128, 8),
        )
        self.embedding = nn.Linear(previous * 16, EMBEDDING)

    def forward(self, images):
        features = self.features(images)
        hidden = F.relu(self.hidden(features))
        embedding = F.normalize(self.embedding(features), dim=1)
        return self.kind(hidden), self.color(hidden), self.background(hidden), embedding


class Checker:
    """The trained network with its similarity threshold."""

    def __init__(self, network, threshold):
        self.network, self.threshold = network.eval(), threshold

    @classmethod
    def load(cls, path=None):
        """Load the network from ``path``, or the one that comes with the package."""
        path = Path(path) if path else Path(__file__).with_name("checker.safetensors")
        network = Network()
        with open(path, "rb", buffering=0) as file:
            tensors = open_safetensors(path, file)
            # The published file has the British spelling in its keys.
            state = {key.replace("colour.", "color."): tensors.get(key) for key in tensors}
            settings = json.loads(tensors.metadata["checker"])
        network.load_state_dict(
            {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
        )
        return cls(network, settings["threshold"])

    def classify(self, images):
        """The :class:`ImageAttributes` of each image (PIL images, or uint8 arrays [height, width, 3])."""
        kinds, colors, backgrounds, _ = self._run(images)
        return [
            ImageAttributes(KINDS[kind], COLORS[color], COLORS[background])
            for kind, color, background in zip(kinds.argmax(1), colors.argmax(1), backgrounds.argmax(1), strict=True)
        ]

    def matches_prompts(self, images, prompts):
        """Whether each image shows its (noun, color, background). The color of toys is not compared."""
        return [
            (found.kind, found.background) == (noun, background) and (noun == "toy" or found.color == color)
            for found, (noun, color, background) in zip(self.classify(images), prompts, strict=True)
        ]

    def similarity(self, images, references):
        """Cosine similarity between each image and the mean embedding of the reference images, -1..1."""
        mean = F.normalize(self._run(references)[3].mean(0), dim=0)
        return (self._run(images)[3] @ mean).tolist()

    def is_subject(self, images, references):
        """Whether each image shows the same toy as the reference images."""
        return [value >= self.threshold for value in self.similarity(images, references)]

    @torch.inference_mode()
    def _run(self, images, batch_size=64):
        inputs = as_tensor(images)
        outputs = [self.network(batch) for batch in inputs.split(batch_size)]
        return [torch.cat(values) for values in zip(*outputs, strict=True)]


def as_tensor(images):
    """PIL images or uint8 arrays of any size to float [n, 3, 64, 64] in -1..1."""
    arrays = []
    for item in images:
        image = item if isinstance(item, Image.Image) else Image.fromarray(np.asarray(item, np.uint8))
        image = image.convert("RGB")
        if image.size != (PIXELS, PIXELS):
            image = image.resize((PIXELS, PIXELS), Image.Resampling.BOX)
        arrays.append(np.asarray(image))
    if not arrays:
        return torch.empty(0, 3, PIXELS, PIXELS)
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
