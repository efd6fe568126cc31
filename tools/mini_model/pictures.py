"""The stage that draws: pictures, captions and clutter, kept as .npy and .json in the work folder."""

import json
import os

import numpy as np
import torch

from .render import NAMED_TOYS, clutter, random_sample
from .words import load_tokenizer, toy_names

SEED = 2026


def draw_pictures(folder, captioned, cluttered):
    """Writes pictures.npy and clutter.npy (uint8 [n, 128, 128, 3]), captions.json and names.json."""
    rng = np.random.default_rng(SEED)
    names = toy_names(load_tokenizer(folder / "tokenizer"), NAMED_TOYS)
    samples = [random_sample(rng, names) for _ in range(captioned)]
    np.save(folder / "pictures.npy", np.stack([sample.picture for sample in samples]))
    np.save(folder / "clutter.npy", np.stack([clutter(rng) for _ in range(cluttered)]))
    (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")
    (folder / "captions.json").write_text(json.dumps([sample.caption for sample in samples]), encoding="utf-8")


def load_pictures(folder):
    """(pictures, clutter), read from disk as they are used."""
    return np.load(folder / "pictures.npy", mmap_mode="r"), np.load(folder / "clutter.npy", mmap_mode="r")


def load_captions(folder):
    """The captions, in the order of the pictures."""
    return json.loads((folder / "captions.json").read_text(encoding="utf-8"))


def load_names(folder):
    """The names of the named toys."""
    return json.loads((folder / "names.json").read_text(encoding="utf-8"))


def write(path, content):
    """torch.save by way of a temporary name: a reader never sees half a file."""
    temporary = path.with_suffix(".part")
    torch.save(content, temporary)
    os.replace(temporary, path)
