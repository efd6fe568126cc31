"""What a person can do, one function each; called by the command line and the page. Importing it loads no torch."""

from dreambooth.actions import captions, images, loras, model_images
from dreambooth.actions.models import configure, create, generate_checkpoint, native_resolution, opened
from dreambooth.actions.training import class_images, recommend, sample, train

__all__ = [
    "captions",
    "class_images",
    "configure",
    "create",
    "generate_checkpoint",
    "images",
    "loras",
    "model_images",
    "native_resolution",
    "opened",
    "recommend",
    "sample",
    "train",
]
