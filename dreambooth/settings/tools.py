"""Options of the tools that inspect model files and extract, resize and merge LoRAs, declared like all settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dreambooth.settings.declare import declared, setting
from dreambooth.types import DTYPE_NAMES

SIZE = "Size"  # group of the settings that determine the new file's size; the command line has these as options
LARGEST_RANK = 4096  # wider than any layer, hence no limit in effect


def _rank() -> Any:
    return setting(32, SIZE, "Rank",
        "Maximum rank of each module. Larger is more exact and makes larger files; 0 means no limit.",
        low=0, high=LARGEST_RANK)  # fmt: skip


def _energy() -> Any:
    return setting(1.0, SIZE, "Energy to keep",
        "Use the smallest rank that keeps this fraction of the squared singular values. 1 keeps all that the rank "
        "allows; 0.9 to 0.99 makes smaller files.", low=0.01, high=1, step=0.01)  # fmt: skip


def _precision() -> Any:
    choices = tuple(DTYPE_NAMES)
    return setting("fp16", SIZE, "Precision", "Precision of the LoRA file. fp32 is exact and twice as large.",
                   choices=choices)  # fmt: skip


def _name(default: str) -> Any:
    return setting("", "Result", "New LoRA name", f"Empty uses {default}. Existing files are never overwritten.")


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """Extract the difference of two checkpoints as a LoRA."""

    # fmt: off
    base: str = setting("", "Sources", "Base checkpoint",
        "Checkpoint that the fine-tuned one was made from; the LoRA is used with it. A path may be entered.",
        file_list="sources", path=True)
    tuned: str = setting("", "Sources", "Fine-tuned checkpoint",
        "Fine-tuned checkpoint; its difference from the base becomes the LoRA.", file_list="sources", path=True)
    rank: int = _rank()
    conv_rank: int = setting(0, SIZE, "Convolution rank",
        "Maximum rank of 3x3 convolutions. 0 leaves them out of the LoRA.", low=0, high=LARGEST_RANK)
    energy: float = _energy()
    precision: str = _precision()
    name: str = _name("the fine-tuned checkpoint's name with -lora")
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class ResizeOptions:
    """Reduce the rank of a LoRA."""

    # fmt: off
    lora: str = setting("", "Sources", "LoRA", "A LoRA from the list; a path may be entered.", file_list="loras",
        path=True)
    rank: int = _rank()
    energy: float = _energy()
    precision: str = _precision()
    name: str = _name("the LoRA's name with -resized")
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class MergeInput:
    """One of the LoRAs to merge."""

    # fmt: off
    lora: str = setting("", "Sources", "LoRA", "", file_list="loras", path=True)
    weight: float = setting(1.0, "Weights", "Weight", "", low=-4, high=4)
    text_weight: float = setting(1.0, "Weights", "Text weight", "", low=-4, high=4)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Merge several LoRAs into one."""

    precision: str = _precision()
    name: str = _name("the names of all LoRAs, joined by +")


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Inspect a model file: type, metadata, issues, difference from another file."""

    # fmt: off
    file: str = setting("", "Sources", "File",
        "Checkpoint, LoRA, VAE or embedding: one from the list, or a path.", file_list="files", path=True)
    against: str = setting("", "Sources", "Compare with",
        "Another file of the same kind, such as the base checkpoint. Empty compares with nothing.", file_list="files",
        path=True)
    # fmt: on


EXTRACT_OPTIONS, RESIZE_OPTIONS, MERGE_INPUT, MERGE_OPTIONS, INSPECT_OPTIONS = map(
    declared, (ExtractOptions, ResizeOptions, MergeInput, MergeOptions, InspectOptions)
)
