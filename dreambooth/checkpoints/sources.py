"""Sources of Create: a single file or a diffusers folder, optionally with text encoders and a VAE from other files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dreambooth.checkpoints.folder_source import FolderSource
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.source_set import with_component_files
from dreambooth.models.registry import with_original_names
from dreambooth.tensor_files import Tensors


def open_source(path: Path, vae: Path | None = None, text_encoders: Sequence[Path] = ()) -> Tensors:
    """Open a single file or a diffusers folder. ``vae`` and ``text_encoders`` (files or folders) replace its own.

    UserError when it is neither, a folder of an unsupported family, or when the other files don't fit.
    """
    path = Path(path)
    source = FolderSource(path) if os.path.isdir(path) else with_original_names(open_tensors(path))
    return with_component_files(source, [Path(file) for file in text_encoders], Path(vae) if vae else None)
