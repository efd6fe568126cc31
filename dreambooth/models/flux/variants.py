"""Which of FLUX.1's models a file is: what tensors don't show, its name does."""

from __future__ import annotations

import re

from dreambooth.models.sd.distilled import descriptions
from dreambooth.tensor_files import Tensors

# schnell, trained on until guidance works: OpenFLUX.1, LibreFLUX and others.
_UNDISTILLED = re.compile(r"open[-_ ]?flux|libre[-_ ]?flux|de[-_ ]?distill", re.IGNORECASE)


def is_undistilled(file: Tensors) -> bool:
    """Whether its name, or what is beside it, says that a distillation was undone."""
    return any(_UNDISTILLED.search(text) for _, text in descriptions(file))


def is_krea(file: Tensors) -> bool:
    """Whether its name, or what is beside it, says that it is FLUX.1 Krea-dev."""
    return any("krea" in text.lower() for _, text in descriptions(file))


def kontext_problem(file: Tensors) -> str:
    """Why it can't be trained, if its name says that it is FLUX.1 Kontext, which has dev's tensors; "" otherwise."""
    for place, text in descriptions(file):
        if "kontext" in text.lower():
            return (
                f"{file.path} is a FLUX.1 Kontext model, which edits images and can't be trained here ({place} says "
                "so): choose FLUX.1 dev or FLUX.1 Krea-dev."
            )
    return ""
