"""WD14 taggers in ONNX format, through onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.captioning.base import Prediction
from dreambooth.captioning.labels import Labels
from dreambooth.captioning.square_padding import on_white_square
from dreambooth.errors import UserError
from dreambooth.settings.tagging import TagOptions

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

# onnxruntime's execution providers, fastest first, and their torch devices.
_PROVIDERS = {"CUDAExecutionProvider": ("cuda",), "CoreMLExecutionProvider": ("mps",), "CPUExecutionProvider": ()}


class OnnxTagger:
    """Input: (N, side, side, 3) float32 BGR, 0 to 255. Output: (N, labels) probabilities."""

    def __init__(self, path: Path, labels: Labels, options: TagOptions, device: torch.device) -> None:
        import onnxruntime

        self.path, self.labels, self.options = path, labels, options
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=_providers(device))
        except Exception as error:  # onnxruntime's errors have no common base class
            raise UserError(f"{path} cannot be loaded ({_first_line(error)}). Download it again.") from error
        self.input, self.side, self.single = self._input()
        self.notes = self._device_warnings(device)

    def prepare(self, image: Image.Image) -> np.ndarray:
        """(side, side, 3) float32: on a white square, resized (bicubic), BGR."""
        import numpy as np
        from PIL import Image

        square = on_white_square(image)
        if square.width != self.side:
            square = square.resize((self.side, self.side), Image.Resampling.BICUBIC)
        return np.ascontiguousarray(np.asarray(square, dtype=np.float32)[:, :, ::-1])

    def predict(self, prepared: Sequence[np.ndarray]) -> list[Prediction]:
        import numpy as np

        batches = [[one] for one in prepared] if self.single else [list(prepared)]
        outputs = [self.session.run(None, {self.input: np.stack(batch)})[0] for batch in batches]
        scores = np.concatenate([np.asarray(output) for output in outputs])
        self.labels.require(scores.shape[-1])
        if not (scores.min() >= 0 and scores.max() <= 1):
            raise UserError(f"{self.path} is not a WD14 tagger: its outputs are not between 0 and 1.")
        options = self.options
        return [
            self.labels.predict(row, options.general_threshold, options.character_threshold) for row in scores.tolist()
        ]

    def _input(self) -> tuple[str, int, bool]:
        """(name, side in pixels, whether its batch size is fixed to 1)."""
        only, *more = self.session.get_inputs()
        shape: list[Any] = only.shape
        fits = not more and len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2] and isinstance(shape[1], int)
        if not fits:
            raise UserError(
                f"{self.path} takes {shape}, but WD14 taggers take (N, side, side, 3). Use one of "
                "SmilingWolf's taggers."
            )
        return only.name, shape[1], shape[0] == 1

    def _device_warnings(self, device: torch.device) -> list[str]:
        if device.type != "cuda" or self.session.get_providers()[0] == "CUDAExecutionProvider":
            return []
        return [
            "onnxruntime runs on the CPU. Install onnxruntime-gpu instead to use the GPU, or use the tagger's "
            ".safetensors version, which runs on the GPU through timm."
        ]


def _providers(device: torch.device) -> list[Any]:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    matching = [name for name, kinds in _PROVIDERS.items() if name in available and (not kinds or device.type in kinds)]
    gpu = {"device_id": device.index or 0}
    return [(name, gpu) if name == "CUDAExecutionProvider" else name for name in matching]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
