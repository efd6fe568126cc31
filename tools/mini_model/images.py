"""Rendering stage: images, captions and clutter, saved as .npy and .json in the work folder."""

import json
import os

import numpy as np
import torch

from .clip_tokenizer import load_tokenizer, toy_names
from .render import NAMED_TOYS, clutter, random_sample

SEED = 2026


def render_images(folder, captioned, cluttered):
    """Writes images.npy and clutter.npy (uint8 [n, 128, 128, 3]), captions.json and names.json."""
    rng = np.random.default_rng(SEED)
    names = toy_names(load_tokenizer(folder / "tokenizer"), NAMED_TOYS)
    samples = [random_sample(rng, names) for _ in range(captioned)]
    np.save(folder / "images.npy", np.stack([sample.image for sample in samples]))
    np.save(folder / "clutter.npy", np.stack([clutter(rng) for _ in range(cluttered)]))
    (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")
    (folder / "captions.json").write_text(json.dumps([sample.caption for sample in samples]), encoding="utf-8")


def load_images(folder):
    """(images, clutter), memory-mapped."""
    return np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "clutter.npy", mmap_mode="r")


def load_captions(folder):
    """The captions, in the order of the images."""
    return json.loads((folder / "captions.json").read_text(encoding="utf-8"))


def load_names(folder):
    """The names of the named toys."""
    return json.loads((folder / "names.json").read_text(encoding="utf-8"))


def write(path, content):
    """torch.save through a temporary file, so that readers never see a partial file."""
    temporary = path.with_suffix(".part")
    torch.save(content, temporary)
    os.replace(temporary, path)
