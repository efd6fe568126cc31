"""What the source of a model is, and what says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dreambooth.errors import UserError

if TYPE_CHECKING:
    from dreambooth.models.family import Family
    from dreambooth.tensor_files import Tensors


@dataclass(frozen=True)
class Recognition:
    """A recognized source.

    ``prediction``: what its denoiser was trained to predict. ``reason``: family and prediction, and what says so, for
    users. ``warnings``: what users should know before they train it. ``notes``: what was changed when it was read. One
    line each.
    """

    family: Family
    prediction: str
    reason: str
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    schedule: Mapping[str, Any] = field(default_factory=dict)  # of the scheduler config, where it is not the usual one
    sample_size: int = 0  # side of the latents, where it is not the usual one
    kept_files: Mapping[str, bytes] = field(default_factory=dict)  # files beside the source, kept in source/


def component_configs(family: Family, file: Tensors) -> dict[str, dict[str, Any]]:
    """The configs of the components. UserError with the path of the file."""
    try:
        return family.configs({key: file.shape(key) for key in file}, file.metadata)
    except UserError as error:
        raise UserError(f"{file.path}: {error}.") from error
