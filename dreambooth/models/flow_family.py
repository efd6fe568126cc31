"""What families of flow-matching transformers have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from dreambooth.models.family import Configs, Family
from dreambooth.models.layout import Shapes
from dreambooth.models.process import FLOW_PREDICTION, RectifiedFlow
from dreambooth.models.recognition import Recognition
from dreambooth.models.turbo import STEPS, turbo_warning
from dreambooth.settings import Settings
from dreambooth.tensor_files import Tensors


class FlowFamily(Family):
    """Rectified flow with one shift for all sizes. Files are read in place; distilled models are known by their names.

    ``config_key``: metadata with what the configs of a folder say that tensors don't show, as JSON. ``shift``: of the
    sampler, where a folder doesn't say. ``patch``: latent pixels per token, along each side. ``distilled_title``: what
    a distilled model is called; ``distilled_steps_published``: of its sampler; ``distilled_advice``: sentences that
    say what to train on.
    """

    default_prediction = FLOW_PREDICTION
    references_sources = True
    config_key: ClassVar[str]
    shift: ClassVar[float]
    patch: ClassVar[int]
    distilled_title: ClassVar[str]
    distilled_steps_published: ClassVar[int]
    distilled_advice: ClassVar[str]

    def recognize(self, file: Tensors, families: Sequence[Family], prediction: str) -> Recognition:
        recognition = super().recognize(file, families, prediction)
        warning = self.distilled_warning(file)
        if not warning:
            return recognition
        schedule = {STEPS: self.distilled_steps_published}
        reason = f"{self.distilled_title}, by its tensors and its name"
        return Recognition(self, recognition.prediction, reason, (warning,), recognition.notes, schedule)

    def distilled_warning(self, file: Tensors) -> str:
        """What to know before training a distilled model, in one line; "" for other models."""
        return turbo_warning(file, self.distilled_advice)

    def config_metadata(self, configs: Configs) -> dict[str, str]:
        shift = configs.get("scheduler", {}).get("shift")
        return {} if shift is None else {self.config_key: json.dumps({"shift": shift})}

    def scheduler_config(self, prediction_type: str, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, Any]:
        shift = json.loads(metadata.get(self.config_key, "{}")).get("shift", self.shift)
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "use_dynamic_shifting": False,
            "shift": shift,
        }

    def process(self, scheduler: Mapping[str, Any], device: torch.device | str = "cpu") -> RectifiedFlow:
        return RectifiedFlow(scheduler, device, self.patch)

    def distilled_steps(self, scheduler: Mapping[str, Any]) -> int:
        return int(scheduler.get(STEPS, 0))

    def possible_adapter_targets(
        self, component: str, module: nn.Module, convolutions: bool = False
    ) -> dict[str, nn.Linear | nn.Conv2d]:
        """Of the denoiser alone."""
        return super().possible_adapter_targets(component, module) if component == self.denoiser.name else {}

    def architecture(self, denoiser: Mapping[str, Any]) -> str:
        return self.title

    def ss_values(self, settings: Settings) -> dict[str, Any]:
        return {
            "ss_timestep_sampling": settings.timestep_sampling,
            "ss_discrete_flow_shift": settings.timestep_shift,
            "ss_weighting_scheme": settings.flow_loss_weighting,
        }
