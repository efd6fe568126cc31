"""WD14 taggers as .onnx files, through onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.captioning.base import Answer
from dreambooth.captioning.labels import Labels
from dreambooth.captioning.square_padding import on_white_square
from dreambooth.errors import UserError
from dreambooth.settings.tagging import TagOptions

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

# What onnxruntime calls a way to compute, fastest first, and the devices of ours that it stands for.
_PROVIDERS = {"CUDAExecutionProvider": ("cuda",), "CoreMLExecutionProvider": ("mps",), "CPUExecutionProvider": ()}


class OnnxTagger:
    """Takes (N, side, side, 3) float32 of 0..255 in the order blue, green, red; gives (N, tags) of 0..1."""

    def __init__(self, path: Path, labels: Labels, options: TagOptions, device: torch.device) -> None:
        import onnxruntime

        self.path, self.labels, self.options = path, labels, options
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=_providers(device))
        except Exception as error:  # its kinds of errors have no common name
            raise UserError(f"{path} can't be loaded ({_first_line(error)}). Take it again from its source.") from error
        self.input, self.side, self.alone = self._input()
        self.notes = self._slow(device)

    def prepare(self, picture: Image.Image) -> np.ndarray:
        """(side, side, 3) float32: on a white square, resized (bicubic), its colours in the order BGR."""
        import numpy as np
        from PIL import Image

        square = on_white_square(picture)
        if square.width != self.side:
            square = square.resize((self.side, self.side), Image.Resampling.BICUBIC)
        return np.ascontiguousarray(np.asarray(square, dtype=np.float32)[:, :, ::-1])

    def answer(self, prepared: Sequence[np.ndarray]) -> list[Answer]:
        import numpy as np

        batches = [[one] for one in prepared] if self.alone else [list(prepared)]
        answers = [self.session.run(None, {self.input: np.stack(batch)})[0] for batch in batches]
        scores = np.concatenate([np.asarray(answer) for answer in answers])
        self.labels.require(scores.shape[-1])
        if not (scores.min() >= 0 and scores.max() <= 1):
            raise UserError(f"{self.path}: its answers are not between 0 and 1, so it is no WD14 tagger.")
        options = self.options
        return [
            self.labels.answer(row, options.general_threshold, options.character_threshold) for row in scores.tolist()
        ]

    def _input(self) -> tuple[str, int, bool]:
        """(name, side in pixels, whether it takes only one picture at a time)."""
        only, *more = self.session.get_inputs()
        shape: list[Any] = only.shape
        fits = not more and len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2] and isinstance(shape[1], int)
        if not fits:
            raise UserError(
                f"{self.path} takes {shape}, not pictures as WD14 taggers do (any number, side, side, 3). "
                "Take one of SmilingWolf's taggers."
            )
        return only.name, shape[1], shape[0] == 1

    def _slow(self, device: torch.device) -> list[str]:
        if device.type != "cuda" or self.session.get_providers()[0] == "CUDAExecutionProvider":
            return []
        return [
            "onnxruntime computes on the processor here. It would use the GPU with onnxruntime-gpu in its place; "
            "taggers as .safetensors use it through timm."
        ]


def _providers(device: torch.device) -> list[Any]:
    import onnxruntime

    there = onnxruntime.get_available_providers()
    fitting = [name for name, kinds in _PROVIDERS.items() if name in there and (not kinds or device.type in kinds)]
    gpu = {"device_id": device.index or 0}
    return [(name, gpu) if name == "CUDAExecutionProvider" else name for name in fitting]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
