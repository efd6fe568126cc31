"""Sample images on disk, with their generation parameters in the file and in a text file alongside."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dreambooth.files import atomic_write, write_text
from dreambooth.sampling.generate import SampleRequest


def save_sample(path: Path, image: Image.Image, request: SampleRequest, sampler: str) -> Path:
    """Write a PNG (see :func:`save_png`), and its generation parameters into a .txt file of the same name."""
    save_png(path, image, request, sampler)
    write_text(path.with_suffix(".txt"), infotext(request, sampler) + "\n")
    return path


def save_png(path: Path, image: Image.Image, request: SampleRequest, sampler: str) -> None:
    """Write a PNG with the generation parameters where the WebUI's PNG Info finds them."""
    info = PngInfo()
    info.add_text("parameters", infotext(request, sampler))
    with atomic_write(path) as tmp:
        image.save(tmp, format="PNG", pnginfo=info)


def infotext(request: SampleRequest, sampler: str) -> str:
    """The generation parameters in the WebUI's text format."""
    negative = f"\nNegative prompt: {request.negative}" if request.negative else ""
    guidance = f"Distilled CFG Scale: {request.guidance:g}, " if request.guidance else ""
    return (
        f"{request.prompt}{negative}\nSteps: {request.steps}, Sampler: {sampler}, CFG scale: {request.cfg:g}, "
        f"{guidance}Seed: {request.seed}, Size: {request.width}x{request.height}"
    )
