"""Rendering stage: images, captions and clutter, saved as .npy and .json in the work folder."""

import json
import os

import numpy as np
import torch

from . import parallel
from .render import clutter, random_sample
from .vae import encode, new_vae

SEED = 2026


def render_images(folder, names, captioned, cluttered):
    """Writes images.npy and clutter.npy (uint8 [n, 128, 128, 3]), captions.json and names.json.

    `names`: names of the named toys.
    """
    rng = np.random.default_rng(SEED)
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


def encode_images(folder, kind):
    """Encode and save this worker's part of the latents ([n, 4 or 16, 16, 16], float32, standard deviation 1).

    `kind`: of the VAE, SD_VAE or FLUX_VAE.
    """
    torch.set_num_threads(1)
    vae = new_vae(kind).eval()
    vae.load_state_dict(torch.load(folder / "vae.pt"))
    images, _ = load_images(folder)
    own_part = slice(
        len(images) * parallel.RANK // parallel.WORLD_SIZE,
        len(images) * (parallel.RANK + 1) // parallel.WORLD_SIZE,
    )
    with torch.autocast("cpu", torch.bfloat16):
        latents = encode(vae, images[own_part])
    torch.save(latents, folder / f"latents_{parallel.RANK}.pt")


def load_latents(folder):
    """Latents of all workers, in the order of the images."""
    parts = sorted(folder.glob("latents_*.pt"))
    return torch.cat([torch.load(part) for part in parts])


def write(path, content):
    """torch.save through a temporary file, so that readers never see a partial file."""
    temporary = path.with_suffix(".part")
    torch.save(content, temporary)
    os.replace(temporary, path)
