"""Samples on disk: the picture, and what it was drawn from beside it and inside it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dreambooth.files import replacing, write_text
from dreambooth.sampling.generate import SampleRequest


def save_picture(path: Path, picture: Image.Image, shot: SampleRequest, sampler: str) -> Path:
    """Write a PNG (see :func:`save_png`), and its parameters as text beside it."""
    save_png(path, picture, shot, sampler)
    write_text(path.with_suffix(".txt"), infotext(shot, sampler) + "\n")
    return path


def save_png(path: Path, picture: Image.Image, shot: SampleRequest, sampler: str) -> None:
    """Write a PNG that the WebUI's PNG Info reads."""
    info = PngInfo()
    info.add_text("parameters", infotext(shot, sampler))
    with replacing(path) as beside:
        picture.save(beside, format="PNG", pnginfo=info)


def infotext(shot: SampleRequest, sampler: str) -> str:
    """The WebUI's generation parameters."""
    facts = asdict(shot)
    negative = f"\nNegative prompt: {shot.negative}" if shot.negative else ""
    return (
        f"{shot.prompt}{negative}\nSteps: {facts['steps']}, Sampler: {sampler}, CFG scale: {facts['cfg']:g}, "
        f"Seed: {facts['seed']}, Size: {shot.width}x{shot.height}"
    )
