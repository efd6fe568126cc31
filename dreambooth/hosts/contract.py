"""What the package asks of whatever runs it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dreambooth.settings import Folders

if TYPE_CHECKING:
    import torch

CHECKPOINT_SUFFIXES = (".safetensors", ".ckpt")
VAE_SUFFIXES = (*CHECKPOINT_SUFFIXES, ".pt")
EMBEDDED = ("Embedded mini model", Path(__file__).resolve().parent.parent / "embedded" / "mini-sd.safetensors")


class Host(Protocol):
    """A WebUI, or nothing but a models folder."""

    @property
    def name(self) -> str: ...

    def folders(self) -> Folders:
        """Where models, checkpoints and LoRAs lie, as the host's command line has it now."""
        ...

    def checkpoints(self) -> list[tuple[str, Path]]:
        """What a model can be created from: (title that the host's users know, file). Ours is among them."""
        ...

    def vaes(self) -> list[tuple[str, Path]]:
        """VAEs that can take the place of a checkpoint's own: (title that the host's users know, file)."""
        ...

    def device(self) -> torch.device:
        """Where the host computes."""
        ...

    def borrow_gpu(self) -> AbstractContextManager[None]:
        """Have the GPU to ourselves: the host's model leaves it and the host's queue waits.

        Waits for work of the host that is going on. Both are given back whatever happens inside.
        """
        ...

    def files_changed(self, wait: float = 0.0) -> None:
        """New files lie in the host's folders: its lists show them as soon as its own work allows.

        Returns at once, or when they do, but after ``wait`` seconds at the latest.
        """
        ...
