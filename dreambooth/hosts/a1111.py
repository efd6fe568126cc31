"""AUTOMATIC1111's WebUI and its forks: reForge, Forge, forge-classic, Forge Neo.

They share the names used here. Where they differ (a flag that is a list, a memory manager that moves models by itself),
the code checks for the feature, not for the fork.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dreambooth.hosts.contract import CHECKPOINT_SUFFIXES, COMPONENT_SUFFIXES, EMBEDDED
from dreambooth.hosts.file_list import FileList
from dreambooth.hosts.folder_files import files_in
from dreambooth.settings import Folders

if TYPE_CHECKING:
    import torch

log = logging.getLogger("dreambooth.hosts")

FORGE, REFORGE = "backend.memory_management", "ldm_patched.modules.model_management"


class A1111Host:
    """See :class:`dreambooth.hosts.contract.Host`."""

    def __init__(self) -> None:
        self._checkpoints = FileList(_checkpoints, self._checkpoints_on_disk)
        self._vaes = FileList(_vaes, set)
        self._queue_is_ours, self._handing_back = False, threading.Lock()

    @property
    def name(self) -> str:
        manager = _memory_manager()
        if manager is None:
            return "A1111"
        return "Forge" if manager.__name__ == FORGE else "reForge or forge-classic"

    def folders(self) -> Folders:
        from modules import paths

        models = Path(paths.models_path)
        chosen = {
            "dreambooth": _flags("dreambooth_models_path")[:1],
            "checkpoints": _flags("ckpt_dir", "ckpt_dirs")[:1],
            "loras": _flags("lora_dir", "lora_dirs")[:1],
        }
        return Folders(
            models,
            **{name: folder for name, given in chosen.items() for folder in given},
            more_checkpoints=tuple(_flags("ckpt_dir", "ckpt_dirs")[1:]),
            text_encoders=tuple(_flags("text_encoder_dir", "text_encoder_dirs")),
            vaes=tuple(_flags("vae_dir", "vae_dirs")),
        )

    def checkpoints(self) -> list[tuple[str, Path]]:
        return [*self._checkpoints.get(), *EMBEDDED]

    def preselected_checkpoint(self) -> str | None:
        from modules import shared

        chosen = _without_hash(getattr(shared.opts, "sd_model_checkpoint", None) or "")
        titles = [title for title, _ in self._checkpoints.get()]
        return next((title for title in titles if chosen and _without_hash(title) == chosen), next(iter(titles), None))

    def vaes(self) -> list[tuple[str, Path]]:
        """Those of the WebUI's list, and files in its folders that are new since it was read."""
        listed = self._vaes.get()
        known = {path.absolute() for _, path in listed}
        others = files_in(self.folders().vaes, COMPONENT_SUFFIXES)
        return [*listed, *((title, path) for title, path in others if path.absolute() not in known)]

    def text_encoders(self) -> list[tuple[str, Path]]:
        return files_in(self.folders().text_encoders, COMPONENT_SUFFIXES)

    def language(self) -> str:
        """The localization, or that of the extension which shows it beside English. SD.Next has a language instead."""
        from modules import shared

        options = getattr(shared, "opts", None)
        if language := getattr(options, "ui_locale", None):
            return "" if language == "Auto" else str(language)
        bilingual = getattr(options, "bilingual_localization_enabled", False)
        names = ["localization", *(["bilingual_localization_file"] if bilingual else [])]
        chosen = [str(getattr(options, name, None) or "None") for name in names]
        return next((name for name in chosen if name != "None"), "en")

    def device(self) -> torch.device:
        from modules import devices

        return devices.get_optimal_device()

    @contextmanager
    def borrow_gpu(self) -> Iterator[None]:
        from modules import call_queue, devices, sd_models

        with call_queue.queue_lock:
            data, manager = sd_models.model_data, _memory_manager()
            # A1111 loads its model in the background at start and patches load_state_dict while it does.
            if hasattr(data, "lock"):
                with data.lock:
                    pass
            model = None if manager else data.sd_model
            try:
                if manager:
                    manager.unload_all_models()
                elif model is not None:  # without a loaded model A1111 would load one just to unload it
                    sd_models.unload_model_weights()
                devices.torch_gc()
                self._queue_is_ours = True
                yield
            finally:
                with self._handing_back:
                    self._queue_is_ours = False
                devices.torch_gc()
                if model is not None:
                    _return_to_device(model)

    def files_changed(self, wait: float = 0.0) -> None:
        """Refresh the lists of checkpoints, VAEs and LoRAs in a thread, while nothing is generated.

        The WebUI clears a list before it refills it; a generation that runs meanwhile would not find its checkpoint.
        So it is done at once while the queue is ours, and otherwise as soon as it is free.
        """
        refreshing = threading.Thread(target=self._refresh, name="dreambooth-lists", daemon=True)
        refreshing.start()
        refreshing.join(wait)

    def _refresh(self) -> None:
        from modules import call_queue

        with self._handing_back:
            if self._queue_is_ours:
                _refresh_lists()
                return
        with call_queue.queue_lock:
            _refresh_lists()

    def _checkpoints_on_disk(self) -> set[Path]:
        """The files at the top of the folder; those in others, or in subfolders, are not waited for."""
        folder = self.folders().checkpoints
        return {path for path in folder.glob("*") if _is_checkpoint(path)} if folder.is_dir() else set()


def _return_to_device(model: Any) -> None:
    """Move the WebUI's model back to the GPU. A failure doesn't turn a finished run into a failed one."""
    from modules import sd_models

    try:
        sd_models.send_model_to_device(model)
    except Exception:
        log.exception("The WebUI's model could not be moved back to the GPU. Choose its checkpoint again.")


def _refresh_lists() -> None:
    from modules import sd_models

    # The module "networks" belongs to the Lora extension, which can be disabled.
    optional = (("modules.sd_vae", "refresh_vae_list"), ("networks", "list_available_networks"))
    functions = [getattr(sys.modules.get(module), name, None) for module, name in optional]
    for refresh in (sd_models.list_models, *functions):
        try:
            if refresh:
                refresh()
        except Exception:  # a stale list must not stop the others
            log.warning("Could not refresh a file list of the WebUI", exc_info=True)


def _checkpoints() -> list[tuple[str, Path]]:
    from modules import sd_models

    found = [(info.title, Path(info.filename)) for info in list(sd_models.checkpoints_list.values())]
    return [(title, path) for title, path in found if path.suffix.lower() in CHECKPOINT_SUFFIXES]


def _vaes() -> list[tuple[str, Path]]:
    vae_dict = getattr(sys.modules.get("modules.sd_vae"), "vae_dict", {})
    return [(name, Path(path)) for name, path in list(vae_dict.items())]


def _is_checkpoint(path: Path) -> bool:
    return path.suffix.lower() in CHECKPOINT_SUFFIXES and not path.stem.lower().endswith(".vae")


def _without_hash(title: str) -> str:
    """A checkpoint's title without the short hash that the WebUI adds once it knows it: "name.ckpt [1234abcd]"."""
    return re.sub(r"\s*\[\w+\]$", "", str(title)).strip()


def _memory_manager() -> ModuleType | None:
    """The module that moves models to and from the GPU in Forge and its forks; None in A1111."""
    return next((sys.modules[name] for name in (FORGE, REFORGE) if name in sys.modules), None)


def _flags(*names: str) -> list[Path]:
    """The folders of the first of these command-line flags that is set. In Forge Neo they are lists."""
    from modules import shared

    for name in names:
        value = getattr(shared.cmd_opts, name, None)
        if value:
            return [Path(folder) for folder in (value if isinstance(value, (list, tuple)) else [value])]
    return []
