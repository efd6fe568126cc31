"""What differs between the two embedded models, and the trained files of each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .clip_tokenizer import load_tokenizer
from .clip_tokenizer import toy_names as clip_toy_names
from .convert import convert
from .generate import Generator
from .qwen_tokenizer import toy_names as qwen_toy_names
from .render import NAMED_TOYS
from .unet import train_unet
from .vae import FLUX_VAE, SD_VAE
from .zimage_convert import convert_zimage
from .zimage_generate import FlowGenerator
from .zimage_training import train_transformer


@dataclass(frozen=True)
class MiniFamily:
    """What differs. Arguments of the functions: the work folder; for `train` also seconds and a model.pt to start from
    or None; for `convert` the path to write; for `generator` the path to read, before the folder.
    """

    file: str
    vae: dict[str, Any]
    toy_names: Callable[[Path], list[str]]
    train: Callable[[Path, float, Path | None], None]
    convert: Callable[[Path, Path], int]
    generator: Callable[[Path, Path], Any]


MINI_FAMILIES = {
    "sd": MiniFamily(
        "mini-sd.safetensors",
        SD_VAE,
        lambda folder: clip_toy_names(load_tokenizer(folder / "tokenizer"), NAMED_TOYS),
        train_unet,
        convert,
        lambda path, folder: Generator(path, folder / "tokenizer"),
    ),
    "zimage": MiniFamily(
        "mini-zimage.safetensors",
        FLUX_VAE,
        lambda folder: qwen_toy_names(NAMED_TOYS),
        train_transformer,
        convert_zimage,
        lambda path, folder: FlowGenerator(path),
    ),
}
