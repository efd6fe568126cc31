"""Files of Anima whose tensors have other prefixes, presented with those of WebUIs' checkpoints."""

from __future__ import annotations

from dreambooth.models.anima.names import ADAPTER
from dreambooth.models.dequantized import dequantized
from dreambooth.models.original_names import PREFIX
from dreambooth.models.prefixed import PrefixedTensors
from dreambooth.models.renamed import RenamedTensors
from dreambooth.tensor_files import Tensors
from dreambooth.text import count

MARKER = f"{ADAPTER}out_proj.weight"  # Cosmos-Predict2, whose other tensors have the same names, has none
_OTHER_PARTS = ("vae.", "text_encoders.")  # of a file with all components


def with_original_names(file: Tensors) -> Tensors:
    """``file`` itself if it has the names of checkpoints or is none of Anima, else a view of it that does.

    The transformer may have no prefix or another one, as ``net.`` in the published files. Weights with scales are
    dequantized.
    """
    prefix = next((key.removesuffix(MARKER) for key in file if key.endswith(MARKER)), None)
    if prefix is None:
        return file
    file = dequantized(file)
    if prefix == PREFIX:
        return file
    if all(key.startswith(prefix) and not key.startswith(_OTHER_PARTS) for key in file):
        return PrefixedTensors(file, PREFIX, prefix)
    sources = {_renamed(key, prefix): (key,) for key in file}
    n_renamed = sum(own != (new,) for new, own in sources.items())
    note = f"{count(n_renamed, 'tensor')} had other names. Checkpoints are written with the original names."
    return RenamedTensors(file, sources, {}, (note,))


def _renamed(key: str, prefix: str) -> str:
    is_transformer = key.startswith(prefix) and not key.startswith(_OTHER_PARTS)
    return PREFIX + key.removeprefix(prefix) if is_transformer else key
