"""What a model family can't have: settings, or values of settings, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dreambooth.models.process import FLOW_SAMPLERS
from dreambooth.settings import SETTINGS
from dreambooth.settings.objective import DDPM_ONLY, FLOW_ONLY


@dataclass(frozen=True)
class Limit:
    """Why a family can't have a setting.

    ``reason``: one clause, such as "its text encoder has no clip skip". ``allowed``: the values that remain; (): the
    setting's default alone.
    """

    reason: str
    allowed: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Capabilities:
    """The settings that a family limits. What is not listed here works.

    ``limits``: by key of a setting; other values are refused before a run, and the page disables the control.
    ``without_effect``: settings that may have any value and change nothing, with what the family does instead, such as
    "always uses the last layer"; a run mentions them.
    """

    limits: Mapping[str, Limit] = field(default_factory=dict)
    without_effect: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [key for key in (*self.limits, *self.without_effect) if key not in SETTINGS]
        if unknown:
            raise ValueError(f"there are no such settings: {', '.join(unknown)}")

    def allowed(self, key: str) -> tuple[Any, ...]:
        """The values of a limited setting that remain."""
        return self.limits[key].allowed or (SETTINGS[key].default,)

    def refuses(self, key: str, value: Any) -> bool:
        """Whether the family can't have this value of a setting."""
        return key in self.limits and value not in self.allowed(key)

    def refused(self, values: Mapping[str, Any]) -> Iterator[str]:
        """The settings with a value that the family can't have, if they have an effect with these ``values``."""
        for key in self.limits:
            if self.refuses(key, values[key]) and SETTINGS[key].applies_to(values):
                yield key

    def fixed(self) -> list[str]:
        """The settings of which only one value remains."""
        return [key for key in self.limits if len(self.allowed(key)) == 1]

    def refusal(self, title: str, key: str, value: Any) -> str:
        """One line for users: which family can't have what, why, and what to do. ``title``: of the family."""
        setting, what = SETTINGS[key], "this" if SETTINGS[key].type is bool else repr_of(value)
        return f"{key} ({setting.label}): {title} can't have {what}: {self.limits[key].reason}. {self._fix(key)}"

    def _fix(self, key: str) -> str:
        allowed = self.allowed(key)
        if SETTINGS[key].type is bool:
            return f"Switch it {'on' if allowed[0] else 'off'}."
        *first, last = [repr_of(value) for value in allowed]
        return f"Choose {', '.join(first)} or {last}." if first else f"Set it to {last}."


def repr_of(value: Any) -> str:
    """A setting's value as users write it."""
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def limited(reason: str, *keys: str) -> dict[str, Limit]:
    """Settings of which only the default remains, all for one reason."""
    return {key: Limit(reason) for key in keys}


# Limits that several families have in common.
DDPM = {key: Limit(reason) for key, reason in FLOW_ONLY.items()}
FLOW_MATCHING = {
    **{key: Limit(reason) for key, reason in DDPM_ONLY.items()},
    "scheduler": Limit("it is trained with flow matching, which this sampler doesn't know", FLOW_SAMPLERS),
}
NO_CLIP = {
    **limited("its text encoder has no clip skip", "clip_skip"),
    **limited("only CLIP's prompts are split into parts", "strict_tokens"),
    **limited("its text encoder has no emphasis syntax", "weighted_captions"),
    **limited("its text encoder has a length limit of its own", "max_token_length"),
    **limited("its text encoder is not CLIP", "freeze_clip_normalization"),
}
NO_OFFSET_NOISE = limited(
    "sampling starts from noise without an offset, and flow matching needs none for dark and bright images",
    "offset_noise", "multires_noise_iterations",
)  # fmt: skip
NO_CONVOLUTIONS = limited("its denoiser has no convolutions", "use_lora_extended")
NO_TEXT_ENCODER_TRAINING = {
    "stop_text_encoder": Limit("its text encoder is too large to train", (0.0,)),
}
