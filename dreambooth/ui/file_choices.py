"""The files that controls offer, as people know them, and which file was meant by what they chose or typed."""

from __future__ import annotations

from pathlib import Path

from dreambooth.files import expand
from dreambooth.hosts import Host
from dreambooth.settings import ModelFolder

OWN_VAE = "the checkpoint's own"


class FileChoices:
    """Asked anew each time: files come and go while pages are open."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def titles(self, kind: str) -> list[str]:
        """What a control that is ``listed`` as this kind offers."""
        own = [OWN_VAE] if kind == "vaes" else []
        return own + list(getattr(self, f"_{kind}")())

    def path(self, kind: str, chosen: str | None) -> str:
        """The path of what was chosen from the list; of what was typed, that."""
        chosen = (chosen or "").strip()
        if not chosen or (kind == "vaes" and chosen == OWN_VAE):
            return ""
        return str(getattr(self, f"_{kind}")().get(chosen) or expand(chosen))

    def working_choices(self) -> dict[str, list[str]]:
        """The choices that work on this machine, of the settings where not all do."""
        from dreambooth.training.optimizer_kinds import listed

        return {"optimizer": listed(self.host.device())}

    def _checkpoints(self) -> dict[str, Path]:
        return dict(self.host.checkpoints())

    def _vaes(self) -> dict[str, Path]:
        return dict(self.host.vaes())

    def _loras(self) -> dict[str, Path]:
        folder = self.host.folders().loras
        return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.safetensors"))}

    def _sources(self) -> dict[str, Path]:
        """What has a whole model's weights: models of ours too, as they are trained by now."""
        folders = self.host.folders()
        models = {f"{name} (model)": ModelFolder(folders, name).working for name in folders.model_names()}
        return self._checkpoints() | models

    def _files(self) -> dict[str, Path]:
        """Everything that can be looked at."""
        return self._sources() | self._loras() | self._vaes()

    def _taggers(self) -> dict[str, Path]:
        from dreambooth.captioning.model_files import models_in

        return models_in(self.host.folders().models)
