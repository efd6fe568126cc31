"""Options of auto-captioning, declared like all settings."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.settings.declare import declared, setting

LEAVE, APPEND, PREPEND, REPLACE = EXISTING = ("leave", "append", "prepend", "replace")
CONFIDENCE, ALPHABET, MODEL = ORDERS = ("confidence", "alphabet", "model")
AUTO, CPU = DEVICES = ("auto", "cpu")
PRECISIONS = (AUTO, "fp32", "fp16", "bf16")
TAGS, SENTENCES = "Tags", "Sentences"


@dataclass(frozen=True, kw_only=True)
class TagOptions:
    """How captions are generated, and what happens to existing ones."""

    # fmt: off
    model: str = setting("", "Model", "Tagger or captioner",
        "A model from the list, a folder, or a Hugging Face id (org/name). Supported: WD14 taggers, BLIP, GIT and "
        "vision-language models.", file_list="taggers", path=True)
    existing: str = setting(LEAVE, "Captions", "Existing captions",
        "leave: caption only images without a caption; append, prepend: add new text after or before the existing "
        "caption; replace: overwrite it.", choices=EXISTING)
    trigger_word: str = setting("", "Captions", "Trigger word",
        "Placed first in each written caption. Removed as a separate tag further on.")
    additional_tags: str = setting("", "Captions", "Additional tags",
        "Comma-separated tags added to each written caption, after the trigger word.")
    excluded_tags: str = setting("", "Captions", "Excluded tags",
        "Comma-separated tags that are never taken from the model. * matches anything: *hair excludes long hair.")
    remove_duplicates: bool = setting(True, "Captions", "Remove duplicates",
        "Duplicate tags are removed, keeping the first.")
    caption_extension: str = setting(".txt", "Captions", "Caption file extension",
        "Caption files are written next to the images, with the same name.", choices=(".txt", ".caption"))
    general_threshold: float = setting(0.35, TAGS, "Threshold",
        "Taggers only: minimum confidence of a tag. Larger values give fewer, more reliable tags.",
        low=0, high=1, step=0.01)
    character_threshold: float = setting(0.85, TAGS, "Character threshold",
        "Taggers only: minimum confidence of a character name.", low=0, high=1, step=0.01)
    tag_order: str = setting(CONFIDENCE, TAGS, "Tag order",
        "confidence: most confident first; alphabet: alphabetical; model: the order of the model's list.",
        choices=ORDERS)
    replace_underscores: bool = setting(True, TAGS, "Replace underscores",
        "Write long hair instead of long_hair. Emoticons such as ^_^ are kept.")
    escape_brackets: bool = setting(False, TAGS, "Escape brackets",
        "Write name \\(film\\) instead of name (film). Turn it on for training with Weighted captions, where brackets "
        "change the emphasis.")
    prompt: str = setting("", SENTENCES, "Prompt",
        "Captioners only: BLIP and GIT continue this text (a photo of), a vision-language model answers it. Empty "
        "uses the default, for vision-language models a request for one sentence.")
    max_length: int = setting(75, SENTENCES, "Maximum length",
        "Captioners only: longest caption in tokens of the model.", low=5, high=2000)
    batch_size: int = setting(4, "Performance", "Batch size",
        "Number of images captioned at once. Larger is faster on a GPU, until its memory is full.", low=1, high=256)
    device: str = setting(AUTO, "Performance", "Device",
        "auto: use the GPU if there is one; cpu: leave the GPU free, but much slower.", choices=DEVICES)
    precision: str = setting(AUTO, "Performance", "Precision",
        "auto: half precision on a GPU, fp32 on a CPU. ONNX models ignore it.", choices=PRECISIONS)
    token: str = setting("", "Performance", "Hugging Face token",
        "For gated or private models of the hub. It is used once and never saved.", secret=True)
    # fmt: on


TAG_OPTIONS = declared(TagOptions)
