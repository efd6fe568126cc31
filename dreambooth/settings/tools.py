"""What can be chosen when files are looked at and LoRA files made of others, declared once as all settings are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dreambooth.settings.creation import PRECISIONS
from dreambooth.settings.declare import declared, setting

SIZE = "Size"  # the group of what says how large the new file is: options of the command line too
LARGEST_RANK = 4096  # wider than any layer: no limit in effect


def _rank() -> Any:
    return setting(32, SIZE, "Rank", "At most so many dimensions for each module; 0: no limit.", low=0,
                   high=LARGEST_RANK)  # fmt: skip


def _energy() -> Any:
    return setting(1.0, SIZE, "Energy to keep",
        "Take only as many dimensions as hold this share of the change; 1: all that the rank allows.",
        low=0.01, high=1, step=0.01)  # fmt: skip


def _precision() -> Any:
    choices = tuple(name for name, kind in PRECISIONS.items() if kind)
    return setting("fp16", SIZE, "Precision", "In which the LoRA is kept.", choices=choices)


def _name(made: str) -> Any:
    return setting("", "Result", "Name of the new LoRA", f"Empty: {made}. A file of that name is never replaced.")


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What one checkpoint knows beyond another, as a LoRA."""

    # fmt: off
    base: str = setting("", "Sources", "Base checkpoint",
        "What the other one was made from; the LoRA is for this one. A path may be typed.", listed="sources")
    tuned: str = setting("", "Sources", "Tuned checkpoint",
        "The one that knows more: its difference to the base becomes the LoRA.", listed="sources")
    rank: int = _rank()
    conv_rank: int = setting(0, SIZE, "Rank of 3x3 convolutions",
        "At most so many for these layers too; 0: they are left out.", low=0, high=LARGEST_RANK)
    energy: float = _energy()
    precision: str = _precision()
    name: str = _name("the tuned one's name with -lora")
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """A LoRA made smaller."""

    # fmt: off
    lora: str = setting("", "Sources", "LoRA", "One of the list; a path may be typed.", listed="loras")
    rank: int = _rank()
    energy: float = _energy()
    precision: str = _precision()
    name: str = _name("its name with -resized")
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the LoRAs that are merged."""

    # fmt: off
    lora: str = setting("", "Sources", "LoRA", "", listed="loras")
    weight: float = setting(1.0, "Weights", "Weight", "", low=-4, high=4)
    text_weight: float = setting(1.0, "Weights", "Text weight", "", low=-4, high=4)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Merging:
    """Several LoRAs made into one."""

    precision: str = _precision()
    name: str = _name("the names of all, joined by +")


@dataclass(frozen=True, kw_only=True)
class InspectionOptions:
    """A look at a file: what it is, what it says of itself, how far it is from another one."""

    # fmt: off
    file: str = setting("", "Sources", "File",
        "A checkpoint, LoRA, VAE or anything else: one of the list, or a path.", listed="files")
    against: str = setting("", "Sources", "Compare with",
        "Another file of its kind, such as what it was made from; empty: nothing.", listed="files")
    # fmt: on


EXTRACTION, RESIZING, PART, MERGING, LOOKING = map(declared, (Extraction, Resizing, Part, Merging, InspectionOptions))
