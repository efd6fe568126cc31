"""The interface between the package and its host: a WebUI, or none."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dreambooth.settings import Folders

if TYPE_CHECKING:
    import torch

CHECKPOINT_SUFFIXES = (".safetensors", ".ckpt")
COMPONENT_SUFFIXES = (*CHECKPOINT_SUFFIXES, ".sft", ".pt", ".bin")  # of text encoders and VAEs
_EMBEDDED_FOLDER = Path(__file__).resolve().parent.parent / "embedded"
EMBEDDED = (
    ("Embedded mini model", _EMBEDDED_FOLDER / "mini-sd.safetensors"),
    ("Embedded mini Z-Image", _EMBEDDED_FOLDER / "mini-zimage.safetensors"),
)


class Host(Protocol):
    """A WebUI, or just a models folder."""

    @property
    def name(self) -> str: ...

    def folders(self) -> Folders:
        """The folders of models, checkpoints and LoRAs, with the host's current command-line flags."""
        ...

    def checkpoints(self) -> list[tuple[str, Path]]:
        """Checkpoints to create a model from: (title in the host, file). Includes the embedded model."""
        ...

    def preselected_checkpoint(self) -> str | None:
        """The title of the checkpoint that Create offers first: the one that the host uses; None if it has none."""
        ...

    def vaes(self) -> list[tuple[str, Path]]:
        """VAEs that can replace the one of a checkpoint: (title in the host, file)."""
        ...

    def text_encoders(self) -> list[tuple[str, Path]]:
        """Text encoders for a source without one, or in place of its own: (title in the host, file)."""
        ...

    def language(self) -> str:
        """The language or localization that the user has chosen in the host, as it is named there; "" for none."""
        ...

    def device(self) -> torch.device:
        """The device that the host uses."""
        ...

    def borrow_gpu(self) -> AbstractContextManager[None]:
        """Exclusive use of the GPU: the host's model is moved off it and its queue waits.

        Waits until the host has finished its current job. On exit, even after an error, both are restored.
        """
        ...

    def files_changed(self, wait: float = 0.0) -> None:
        """Tell the host about new files in its folders, so that it refreshes its lists when its current job allows.

        Returns when they are refreshed, after ``wait`` seconds at the latest.
        """
        ...
