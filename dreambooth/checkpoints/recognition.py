"""The family of a source, and what else there is to know of it before it is extracted."""

from __future__ import annotations

from dreambooth.errors import UserError
from dreambooth.models.family import Family
from dreambooth.models.recognition import Recognition
from dreambooth.models.registry import candidate_families
from dreambooth.settings.creation import AUTO
from dreambooth.tensor_files import Tensors
from dreambooth.text import with_article


def recognize(
    file: Tensors, model_type: str = AUTO, prediction: str = AUTO, *, of_checkpoint: bool = False
) -> Recognition:
    """Recognize an open source. UserError for one that can't be trained, or that is not ``model_type``.

    ``of_checkpoint``: components that have files of their own in this family may be missing.
    """
    families = candidate_families(file, of_checkpoint)
    if model_type != AUTO:
        chosen = [family for family in families if family.model_type.lower() == model_type.lower()]
        if not chosen:
            title = families[0].title
            raise UserError(
                f"model_type: {file.path} is {with_article(title)} checkpoint, not {model_type}: choose auto."
            )
        families = chosen
    return families[0].recognize(file, families, prediction)


def recognize_family(file: Tensors, model_type: str = AUTO, prediction: str = AUTO) -> tuple[Family, str]:
    """The family, and "epsilon" or "v_prediction". UserError as for :func:`recognize`."""
    recognition = recognize(file, model_type, prediction)
    return recognition.family, recognition.prediction
