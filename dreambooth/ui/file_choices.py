"""The files that dropdowns offer, by the titles they are shown under."""

from __future__ import annotations

from pathlib import Path

from dreambooth.hosts import Host
from dreambooth.paths import clean_path
from dreambooth.settings import ModelFolder

OWN = "the checkpoint's own"
_OPTIONAL = ("vaes", "text_encoders")  # kinds of files in place of those in a checkpoint


class FileChoices:
    """Choices and paths by kind: checkpoints, vaes, text_encoders, loras, sources, files, taggers. No cache."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def titles(self, kind: str) -> list[str]:
        """The choices of a dropdown for this kind of files."""
        own = [OWN] if kind in _OPTIONAL else []
        return own + list(getattr(self, f"_{kind}")())

    def path(self, kind: str, chosen: str | None) -> str:
        """The path of the choice with this title; of typed text, the text as a path. "" if nothing is chosen."""
        chosen = (chosen or "").strip()
        if not chosen or (kind in _OPTIONAL and chosen == OWN):
            return ""
        return str(getattr(self, f"_{kind}")().get(chosen) or clean_path(chosen))

    def _checkpoints(self) -> dict[str, Path]:
        return dict(self.host.checkpoints())

    def _vaes(self) -> dict[str, Path]:
        return dict(self.host.vaes())

    def _text_encoders(self) -> dict[str, Path]:
        return dict(self.host.text_encoders())

    def _loras(self) -> dict[str, Path]:
        folder = self.host.folders().loras
        return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.safetensors"))}

    def _sources(self) -> dict[str, Path]:
        """Everything with a whole model's weights: checkpoints, and the working copies of our models."""
        folders = self.host.folders()
        models = {f"{name} (model)": ModelFolder(folders, name).working for name in folders.model_names()}
        return self._checkpoints() | models

    def _files(self) -> dict[str, Path]:
        """Everything that can be inspected."""
        return self._sources() | self._loras() | self._vaes() | self._text_encoders()

    def _taggers(self) -> dict[str, Path]:
        from dreambooth.captioning.model_files import available_models

        return available_models(self.host.folders().models)
