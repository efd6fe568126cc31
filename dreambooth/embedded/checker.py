"""Reads pictures of the embedded model's world, independently of the model.

A small convolutional network, trained by tools/make_mini_model.py on drawn pictures, answers two questions:
what does a picture show (kind, colour, background), and does it show the same toy as some reference pictures.
The second works for any toy, because an embedding compares pictures: nothing is trained on one subject.
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
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
PIXELS = 64  # what the network sees, after halving pictures of 128
EMBEDDING = 64


@dataclass(frozen=True)
class Reading:
    """What a picture shows. `colour` means little for toys and patterned shapes, which have two."""

    kind: str
    colour: str
    background: str


class Network(nn.Module):
    """Pictures [n, 3, 64, 64] in -1..1 to kind, colour, background logits and unit embeddings [n, 64]."""

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
        self.kind, self.colour, self.background = (
            nn.Linear(128, len(KINDS)),
            nn.Linear(128, 8),
            nn.Linear(128, 8),
        )
        self.embedding = nn.Linear(previous * 16, EMBEDDING)

    def forward(self, pictures):
        features = self.features(pictures)
        hidden = F.relu(self.hidden(features))
        embedding = F.normalize(self.embedding(features), dim=1)
        return self.kind(hidden), self.colour(hidden), self.background(hidden), embedding


class Checker:
    """The trained network with its similarity threshold."""

    def __init__(self, network, threshold):
        self.network, self.threshold = network.eval(), threshold

    @classmethod
    def load(cls, path=None):
        """Reads `path`; None: the checker that lies beside this file."""
        path = Path(path) if path else Path(__file__).with_name("checker.safetensors")
        network = Network()
        with open(path, "rb", buffering=0) as file:
            tensors = open_safetensors(path, file)
            state = {key: tensors.get(key) for key in tensors}
            settings = json.loads(tensors.metadata["checker"])
        network.load_state_dict(
            {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
        )
        return cls(network, settings["threshold"])

    def read(self, pictures):
        """A Reading for each picture (PIL images, or uint8 arrays [height, width, 3])."""
        kinds, colours, backgrounds, _ = self._run(pictures)
        return [
            Reading(KINDS[kind], COLOURS[colour], COLOURS[background])
            for kind, colour, background in zip(kinds.argmax(1), colours.argmax(1), backgrounds.argmax(1), strict=True)
        ]

    def follows(self, pictures, prompts):
        """For each picture: does it show its (noun, colour, background)? Toys: the colour is not asked."""
        return [
            (reading.kind, reading.background) == (noun, background) and (noun == "toy" or reading.colour == colour)
            for reading, (noun, colour, background) in zip(self.read(pictures), prompts, strict=True)
        ]

    def similarity(self, pictures, references):
        """Cosine between each picture and the middle of the reference pictures, -1..1."""
        middle = F.normalize(self._run(references)[3].mean(0), dim=0)
        return (self._run(pictures)[3] @ middle).tolist()

    def is_subject(self, pictures, references):
        """For each picture: does it show the toy that the reference pictures show?"""
        return [value >= self.threshold for value in self.similarity(pictures, references)]

    @torch.inference_mode()
    def _run(self, pictures, batch=64):
        inputs = as_tensor(pictures)
        parts = [self.network(part) for part in inputs.split(batch)]
        return [torch.cat(values) for values in zip(*parts, strict=True)]


def as_tensor(pictures):
    """PIL images or uint8 arrays of any size to float [n, 3, 64, 64] in -1..1."""
    arrays = []
    for picture in pictures:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture, np.uint8))
        image = image.convert("RGB")
        if image.size != (PIXELS, PIXELS):
            image = image.resize((PIXELS, PIXELS), Image.Resampling.BOX)
        arrays.append(np.asarray(image))
    if not arrays:
        return torch.empty(0, 3, PIXELS, PIXELS)
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
