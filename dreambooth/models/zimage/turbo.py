"""Z-Image-Turbo, which is distilled for few steps without guidance: its tensors don't show it, only names do."""

from __future__ import annotations

import re

from dreambooth.models.sd.distilled import descriptions, kind_in
from dreambooth.tensor_files import Tensors

STEPS = 8  # of the sampler, as published
_DE_TURBO = re.compile(r"de[-_ ]?(turbo|distill)\w*", re.IGNORECASE)  # made from it to be trained


def turbo_warning(file: Tensors) -> str:
    """What to know before training, in one line, if something says that the model is distilled; "" otherwise."""
    for place, text in descriptions(file):
        if kind := kind_in(_DE_TURBO.sub(" ", text)):
            return (
                f"{place} says that it is distilled for few steps ({kind}): training undoes that after a few hundred "
                "steps. Train on Z-Image or Z-Image-De-Turbo instead; the LoRA also works with Z-Image-Turbo, if need "
                "be at a higher weight."
            )
    return ""
