"""Loading captioning models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.captioning.base import Captioner
from dreambooth.captioning.labels import read_labels
from dreambooth.captioning.model_kind import (
    BLIP,
    GIT,
    ONNX,
    TAGS,
    TIMM,
    VISION_LANGUAGE,
    first_installed,
    model_kind_of,
    onnx_file,
)
from dreambooth.errors import UserError
from dreambooth.memory.release import clear_frames, free_memory
from dreambooth.settings.tagging import AUTO, TagOptions
from dreambooth.types import ProgressCallback, dtype_of

if TYPE_CHECKING:
    import torch


def run_model(
    path: Path,
    options: TagOptions,
    device: torch.device | str,
    borrow_gpu: Callable[[], Any] | None,
    progress: ProgressCallback,
    use: Callable[[Captioner], None],
) -> None:
    """Load a model, call ``use(model)``, then free its memory and return the host's GPU."""
    import torch

    device = torch.device(device)
    with contextlib.ExitStack() as borrowed:
        if borrow_gpu and device.type != "cpu":
            progress(0, 0, "waiting for the WebUI to finish generating")
            borrowed.enter_context(borrow_gpu())
        progress(0, 0, "loading the model")
        borrowed.callback(free_memory)
        try:
            use(load(path, options, device))
        except BaseException as error:
            clear_frames(error)
            raise


def load(path: Path, options: TagOptions, device: torch.device) -> Captioner:
    """The model of a folder or .onnx file, on the device. UserError if it is no model, or a library is missing."""
    folder = path.parent if path.is_file() else path
    kind = first_installed([ONNX], str(path)) if path.is_file() else model_kind_of(folder)
    if kind == ONNX:
        from dreambooth.captioning.onnx_tagger import OnnxTagger

        file = path if path.is_file() else folder / onnx_file(file.name for file in folder.iterdir())
        return OnnxTagger(file, read_labels(folder / TAGS), options, device)
    if kind == TIMM:
        from dreambooth.captioning.timm_tagger import TimmTagger

        return TimmTagger(folder, read_labels(folder / TAGS), options, device, _dtype(kind, options, device))
    from dreambooth.captioning.captioners import Blip, Git
    from dreambooth.captioning.vision_language import VisionLanguage

    model_class = {BLIP: Blip, GIT: Git, VISION_LANGUAGE: VisionLanguage}[kind]
    return model_class(folder, options, device, _dtype(kind, options, device))


def _dtype(kind: str, options: TagOptions, device: torch.device) -> torch.dtype:
    """The chosen precision; auto is fp32 on a CPU, and on a GPU the half precision that does not overflow."""
    import torch

    if options.precision == "fp16" and device.type == "cpu":
        raise UserError("precision (Precision): fp16 needs a GPU. Choose auto, fp32 or bf16.")
    if options.precision != AUTO:
        return dtype_of(options.precision)
    if device.type != "cuda":
        return torch.float32
    wide = kind == VISION_LANGUAGE and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if wide else torch.float16
