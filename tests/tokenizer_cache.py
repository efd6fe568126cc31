"""Tokenizers that were loaded once: building one of 49,408 word pieces takes longer here than a training step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def cached_tokenizers() -> Iterator[None]:
    """Folders with the same files share a tokenizer, which nothing that is asked of it changes."""
    from transformers import CLIPTokenizer

    load = CLIPTokenizer.from_pretrained
    loaded: dict[tuple[bytes, ...], Any] = {}

    def from_pretrained(*args: Any, **options: Any) -> Any:
        if len(args) != 1 or options != {"local_files_only": True} or not Path(args[0]).is_dir():
            return load(*args, **options)
        contents = tuple(path.name.encode() + path.read_bytes() for path in sorted(Path(args[0]).iterdir()))
        if contents not in loaded:
            loaded[contents] = load(*args, **options)
        return loaded[contents]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CLIPTokenizer, "from_pretrained", staticmethod(from_pretrained))
        yield
