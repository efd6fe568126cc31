"""Models that are distilled for few steps without guidance: their tensors don't show it, only names do."""

from __future__ import annotations

import re

from dreambooth.models.sd.distilled import descriptions, kind_in
from dreambooth.tensor_files import Tensors

STEPS = "_distilled_steps"  # in scheduler_config.json: those of the sampler, of a distilled model
_UNDONE = re.compile(r"de[-_ ]?(turbo|distill)\w*", re.IGNORECASE)  # made from a distilled one to be trained


def turbo_warning(file: Tensors, instead: str) -> str:
    """What to know before training, in one line, if something says that the model is distilled; "" otherwise.

    ``instead``: sentences that say what to train on.
    """
    for place, text in descriptions(file):
        if kind := kind_in(_UNDONE.sub(" ", text)):
            return (
                f"{place} says that it is distilled for few steps ({kind}): training undoes that after a few hundred "
                f"steps. {instead}"
            )
    return ""
