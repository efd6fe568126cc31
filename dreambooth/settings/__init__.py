"""Settings of runs, concepts and tools, and the layout of a model's folder. Imports no torch."""

from dreambooth.settings.concept import CONCEPT, Concept, concept_values, parse_concepts, read_concepts
from dreambooth.settings.creation import CREATE_OPTIONS, CreateOptions
from dreambooth.settings.declare import Setting, parse
from dreambooth.settings.model_folder import Folders, ModelConfig, ModelFolder, ModelInfo
from dreambooth.settings.run import SETTINGS, Settings

__all__ = [
    "CONCEPT",
    "CREATE_OPTIONS",
    "SETTINGS",
    "Concept",
    "CreateOptions",
    "Folders",
    "ModelConfig",
    "ModelFolder",
    "ModelInfo",
    "Setting",
    "Settings",
    "concept_values",
    "parse",
    "parse_concepts",
    "read_concepts",
]
