"""What families of flow-matching transformers have in common."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from dreambooth.errors import UserError
from dreambooth.models.components import Component
from dreambooth.models.family import Configs, Family
from dreambooth.models.layout import Shapes
from dreambooth.models.process import FLOW_PREDICTION, RectifiedFlow
from dreambooth.models.recognition import Recognition
from dreambooth.models.turbo import STEPS, turbo_warning
from dreambooth.settings import Settings
from dreambooth.tensor_files import Tensors

GUIDANCE_SCALE = "_embedded_guidance"  # in scheduler_config.json: that of samples, of a model with a guidance input
USUAL_GROUPS = 32  # of the norms of a VAE
_GROUPS = "norm_num_groups"


def make_transformer(class_name: str, config: Mapping[str, Any]) -> nn.Module:
    """A class of diffusers on the meta device. Values of ``config`` with an underscore are about the file."""
    import diffusers

    values = {key: value for key, value in config.items() if not key.startswith("_")}
    with torch.device("meta"):
        return getattr(diffusers, class_name)(**values)


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

    def names_in_files(self) -> Mapping[str, Callable[[Tensors], dict[str, str]]]:
        """For each component that may be a file of its own: its tensors' names with those in a file, {} if that is
        another one.
        """
        raise NotImplementedError

    def component_keys(self, component: Component, file: Tensors) -> dict[str, str]:
        names = self.names_in_files().get(component.name)
        return {component.prefix + name: key for name, key in names(file).items()} if names else {}

    @contextlib.contextmanager
    def requires_all(self) -> Iterator[None]:
        """In the block, a tensor that is missing, or of another shape, is a UserError about the whole model."""
        try:
            yield
        except (LookupError, ValueError, ZeroDivisionError) as error:
            raise UserError(
                f"it is not a complete {self.title} model ({error} is missing): use another file"
            ) from error

    def distilled_warning(self, file: Tensors) -> str:
        """What to know before training a distilled model, in one line; "" for other models."""
        return turbo_warning(file, self.distilled_advice)

    def config_metadata(self, configs: Configs) -> dict[str, str]:
        shift = configs.get("scheduler", {}).get("shift")
        n_groups = configs.get("vae", {}).get(_GROUPS, USUAL_GROUPS)
        values = {} if shift is None else {"shift": shift}
        if n_groups != USUAL_GROUPS:
            values["vae"] = {_GROUPS: n_groups}
        return {self.config_key: json.dumps(values)} if values else {}

    def scheduler_config(self, prediction_type: str, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, Any]:
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "use_dynamic_shifting": False,
            "shift": self.declared_shift(metadata),
        }

    def declared_shift(self, metadata: Mapping[str, str]) -> float:
        """The sampler's shift in the metadata, or the usual one. UserError if it is none."""
        return self._declared(metadata, lambda values: float(values.get("shift", self.shift)))

    def declared_groups(self, metadata: Mapping[str, str]) -> int:
        """The VAE's norm groups in the metadata, or the usual number. UserError if it is none."""
        return self._declared(metadata, lambda values: int(values.get("vae", {}).get(_GROUPS, USUAL_GROUPS)))

    def _declared(self, metadata: Mapping[str, str], read: Callable[[dict[str, Any]], Any]) -> Any:
        try:
            value = read(json.loads(metadata.get(self.config_key, "{}")))
            if not 0 < value < float("inf"):
                raise ValueError(f"{value} is not positive")
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UserError(
                f"its config (metadata {self.config_key} of a file, config.json of a folder) has an invalid value: "
                f"{error}"
            ) from error
        return value

    def process(self, scheduler: Mapping[str, Any], device: torch.device | str = "cpu") -> RectifiedFlow:
        return RectifiedFlow(scheduler, device, self.patch)

    def distilled_steps(self, scheduler: Mapping[str, Any]) -> int:
        return int(scheduler.get(STEPS, 0))

    def embedded_guidance(self, scheduler: Mapping[str, Any]) -> float:
        return float(scheduler.get(GUIDANCE_SCALE, 0.0))

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
