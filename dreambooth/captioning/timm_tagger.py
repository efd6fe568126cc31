"""WD14 taggers as timm publishes models: config.json and model.safetensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dreambooth.captioning.base import Prediction
from dreambooth.captioning.labels import Labels
from dreambooth.captioning.square_padding import on_white_square
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.settings.tagging import TagOptions

if TYPE_CHECKING:
    from PIL import Image

# Entries of pretrained_cfg that decide shapes and preprocessing. Others name places to load from.
_CONFIG_KEYS = (
    "input_size", "test_input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std",
    "num_classes", "pool_size", "first_conv", "classifier",
)  # fmt: skip
_LOADING_ARGUMENTS = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


class TimmTagger:
    """Input: (N, 3, side, side), BGR, normalized. Output: (N, labels) logits."""

    def __init__(
        self, folder: Path, labels: Labels, options: TagOptions, device: torch.device, dtype: torch.dtype
    ) -> None:
        from timm.data import create_transform, resolve_data_config

        self.labels, self.options, self.device, self.dtype = labels, options, device, dtype
        self.notes: list[str] = []
        self.model = _model(folder).to(device, dtype).eval()
        self._transform = create_transform(**resolve_data_config({}, model=self.model))

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """(3, side, side): padded to a white square, then the model's own transform, in BGR order."""
        return self._transform(on_white_square(image))[[2, 1, 0]]

    @torch.inference_mode()
    def predict(self, prepared: Sequence[torch.Tensor]) -> list[Prediction]:
        outputs = self.model(torch.stack(list(prepared)).to(self.device, self.dtype))
        self.labels.require(outputs.shape[-1])
        options = self.options
        return [
            self.labels.predict(row, options.general_threshold, options.character_threshold)
            for row in outputs.float().sigmoid().tolist()
        ]


def _model(folder: Path) -> torch.nn.Module:
    """The module with its weights. Nothing is loaded from elsewhere, whatever config.json names."""
    import timm

    config, weights = read_json(folder / "config.json"), folder / "model.safetensors"
    pretrained_cfg, arguments = config.get("pretrained_cfg"), config.get("model_args") or {}
    architecture = str(config.get("architecture"))
    if not isinstance(pretrained_cfg, Mapping) or not isinstance(arguments, Mapping):
        raise UserError(f"{folder / 'config.json'} is not in timm's format (pretrained_cfg, model_args).")
    if not re.fullmatch(r"\w+", architecture) or not timm.is_model(architecture):
        raise UserError(
            f"{folder / 'config.json'}: timm {timm.__version__} does not have the model {architecture!r}. Update timm."
        )
    outputs = {"num_classes": config["num_classes"]} if "num_classes" in config else {}
    cfg: dict[str, Any] = {key: pretrained_cfg[key] for key in _CONFIG_KEYS if key in pretrained_cfg} | outputs
    try:
        model = timm.create_model(
            architecture,
            pretrained_cfg=cfg,
            **{key: value for key, value in arguments.items() if key not in _LOADING_ARGUMENTS},
        )
        with open_tensors(weights) as file:
            model.load_state_dict({key: file.get(key) for key in file})
    except Exception as error:  # timm raises many kinds of errors for damaged files
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder}: the weights do not match config.json ({first}). Download both again.") from error
    return model
