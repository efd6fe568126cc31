"""The host without a WebUI: a models folder and the best device of the machine."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.hosts.contract import CHECKPOINT_SUFFIXES, COMPONENT_SUFFIXES, EMBEDDED
from dreambooth.hosts.folder_files import files_in
from dreambooth.settings import Folders

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[2]


class StandaloneHost:
    """See :class:`dreambooth.hosts.contract.Host`."""

    name = "standalone"

    def __init__(self, models_dir: Path | None = None, language: str = "") -> None:
        self.models_dir = models_dir or ROOT / "models"
        self._language = language

    def folders(self) -> Folders:
        return Folders(self.models_dir)

    def checkpoints(self) -> list[tuple[str, Path]]:
        """The embedded model first, so that the list is never empty."""
        return [*EMBEDDED, *files_in([self.folders().checkpoints], CHECKPOINT_SUFFIXES)]

    def preselected_checkpoint(self) -> str | None:
        return EMBEDDED[0][0]

    def vaes(self) -> list[tuple[str, Path]]:
        return files_in(self.folders().vaes, COMPONENT_SUFFIXES)

    def text_encoders(self) -> list[tuple[str, Path]]:
        return files_in(self.folders().text_encoders, COMPONENT_SUFFIXES)

    def language(self) -> str:
        return self._language

    def device(self) -> torch.device:
        return best_device()

    def borrow_gpu(self) -> AbstractContextManager[None]:
        return nullcontext()

    def files_changed(self, wait: float = 0.0) -> None:
        """There are no lists to refresh."""


def best_device() -> torch.device:
    """The fastest type of device that torch finds on this machine: cuda, xpu, mps or cpu."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return torch.device("xpu")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
