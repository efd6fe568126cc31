"""What can be chosen when a model writes captions, declared once as all settings are."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.settings.declare import declared, setting

LEAVE, APPEND, PREPEND, REPLACE = EXISTING = ("leave", "append", "prepend", "replace")
CONFIDENCE, ALPHABET, MODEL = ORDERS = ("confidence", "alphabet", "model")
AUTO, CPU = DEVICES = ("auto", "cpu")
PRECISIONS = {AUTO: "", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
TAGS, SENTENCES = "Tags", "Sentences"


@dataclass(frozen=True, kw_only=True)
class Tagging:
    """How captions are made, and what becomes of those that are there."""

    # fmt: off
    model: str = setting("", "Model", "Tagger or captioner",
        "One of the list, a folder, or a model's id on Hugging Face (org/name): WD14 taggers, BLIP, GIT, or a vision-"
        "language model.", listed="taggers")
    existing: str = setting(LEAVE, "Captions", "Captions that are there",
        "leave: only pictures without a caption get one. append and prepend put what is new behind or before what is "
        "there, replace in its place.", choices=EXISTING)
    trigger_word: str = setting("", "Captions", "Trigger word first",
        "Begins each caption that is written; where it stands alone between commas further on, it goes.")
    additional_tags: str = setting("", "Captions", "Additional tags",
        "With commas between; in every caption that is written, after the trigger word.")
    excluded_tags: str = setting("", "Captions", "Excluded tags",
        "With commas between; never taken from the model. A star stands for anything: *hair leaves out long hair.")
    remove_duplicates: bool = setting(True, "Captions", "Remove duplicates",
        "Of what stands twice between commas, the first stays.")
    caption_extension: str = setting(".txt", "Captions", "Ending of caption files",
        "They lie beside the pictures, under the same name.", choices=(".txt", ".caption"))
    general_threshold: float = setting(0.35, TAGS, "Threshold",
        "Of taggers: tags that the model is surer of than this are taken.", low=0, high=1, step=0.01)
    character_threshold: float = setting(0.85, TAGS, "Threshold of characters",
        "The same for the names of characters.", low=0, high=1, step=0.01)
    tag_order: str = setting(CONFIDENCE, TAGS, "Order of tags",
        "The surest first, by alphabet, or as the model lists them.", choices=ORDERS)
    replace_underscores: bool = setting(True, TAGS, "Spaces for underscores",
        "long_hair becomes long hair; faces like ^_^ stay.")
    escape_brackets: bool = setting(False, TAGS, "Escape brackets",
        "name_(film) becomes name \\(film\\): for prompts and trainings where brackets weigh words.")
    prompt: str = setting("", SENTENCES, "Prompt",
        "Of captioners. BLIP and GIT go on from it (a photo of); a vision-language model answers it. Empty: their own "
        "beginning; for the latter, a question for one sentence.")
    max_length: int = setting(75, SENTENCES, "Longest answer",
        "Of captioners, in the model's tokens.", low=5, high=2000)
    batch_size: int = setting(4, "Work", "Batch size",
        "Pictures at once. More is faster on a GPU, until its memory is full.", low=1, high=256)
    device: str = setting(AUTO, "Work", "Device", "cpu leaves the GPU alone, and is slow.", choices=DEVICES)
    precision: str = setting(AUTO, "Work", "Precision",
        "auto: half on a GPU, fp32 on a processor. Of no effect with .onnx.", choices=tuple(PRECISIONS))
    token: str = setting("", "Work", "Hugging Face token",
        "For models of the hub that ask for one. It is used once and kept nowhere.", secret=True)
    # fmt: on


TAGGING = declared(Tagging)
