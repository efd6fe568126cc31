"""What the person chose (settings, concepts) and where a model lies on disk. Imports no torch."""

from dreambooth.settings.concept import CONCEPT, Concept, concept_values, parse_concepts, read_concepts
from dreambooth.settings.creation import CREATION, Creation
from dreambooth.settings.declare import Setting, nearest, parse
from dreambooth.settings.model_folder import Facts, Folders, ModelConfig, ModelFolder
from dreambooth.settings.run import SETTINGS, Settings

__all__ = [
    "CONCEPT",
    "CREATION",
    "SETTINGS",
    "Concept",
    "Creation",
    "Facts",
    "Folders",
    "ModelConfig",
    "ModelFolder",
    "Setting",
    "Settings",
    "concept_values",
    "nearest",
    "parse",
    "parse_concepts",
    "read_concepts",
]
