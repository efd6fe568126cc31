"""A concept: one subject or style, with its images and prompts. Field names are the old extension's keys."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.json_text import parse_json
from dreambooth.paths import clean_path
from dreambooth.settings.declare import declared, parse, setting
from dreambooth.settings.old_concepts import images_per_instance, upgrade_concept
from dreambooth.settings.other_names import unknown_key

LINE_MODES = ("joined", "first", "random")
MAX_BYTES = 2**24  # of a concepts file; what people write is far smaller
AS_THE_RUN = "as the run"
OVERRIDE_CHOICES = (AS_THE_RUN, "on", "off")
READING_RULES = ("own", "kohya")


@dataclass(frozen=True, kw_only=True)
class Concept:
    """Images, captions and prompts of one subject or style."""

    # fmt: off
    instance_data_dir: str = setting("", "Directories", "Dataset directory",
        "Folder with the training images.", path=True)
    class_data_dir: str = setting("", "Directories", "Classification dataset directory",
        "Folder with class images for prior preservation, such as other dogs. Empty uses none, or a folder of the "
        "model if class images are generated.", path=True)
    validation_data_dir: str = setting("", "Directories", "Validation dataset directory",
        "Folder with images of the subject that are not used for training, to measure the validation loss. Empty uses "
        "the fraction set in Validation split.", path=True)
    mask_data_dir: str = setting("", "Directories", "Mask directory",
        "Folder with masks that have the names of the images, for Masked loss (white is trained, gray partly) and "
        "inpainting models. Empty uses masks next to the images (NAME_mask.png).", path=True)
    subfolders: bool = setting(True, "Directories", "Include subfolders",
        "Also use the images in subfolders. Off uses only the images directly in the folder, as sd-scripts do.")
    metadata_file: str = setting("", "Directories", "Metadata file",
        "File with image names and captions: a metadata.jsonl or .csv of a dataset, or the JSON of sd-scripts' "
        "fine-tuning tools. Only the images it lists are used, and caption files are ignored.", path=True)
    regularization: bool = setting(False, "Directories", "Regularization images",
        "These are class images, used as regularization as in sd-scripts: together as often as all instance images, "
        "with the prior loss weight.")
    num_repeats: int = setting(1, "Directories", "Repeats",
        "Number of times each image is used per epoch. Use more for a concept with fewer images.",
        low=1, high=10_000, step=1)
    max_steps: int = setting(0, "Directories", "Maximum training steps",
        "After its images were used this many times in a run, this concept is no longer sampled; the others continue. "
        "0 means no limit.", low=-1, high=10_000_000)
    instance_token: str = setting("", "Filewords", "Instance token",
        "Rare word that names the subject, such as zwx. It is added to captions that lack it.")
    class_token: str = setting("", "Filewords", "Class token",
        "General word for the subject, such as dog, person or toy. The instance token is placed before it.")
    instance_prompt: str = setting("[filewords]", "Training Prompts", "Instance prompt",
        "Prompt of each instance image. [filewords] is replaced by the image's caption.")
    class_prompt: str = setting("[filewords]", "Training Prompts", "Class prompt",
        "Prompt of each class image. [filewords] is replaced by the image's caption.")
    caption_extension: str = setting(".txt, .caption", "Captions", "Caption file extension",
        "Extensions of caption files, comma-separated; the first that exists is used. Empty ignores caption files.")
    default_caption: str = setting("[filename]", "Captions", "Default caption",
        "Caption of images without a caption file. [filename] is replaced by the image's file name; empty means an "
        "empty caption.")
    caption_lines: str = setting("joined", "Captions", "Multi-line captions",
        "joined: all lines form one caption; first: only the first line is used; random: one line is picked at random "
        "each time the image is used.", choices=LINE_MODES)
    reading_rule: str = setting("own", "Captions", "Caption parsing",
        "own: white space is normalized and tags with brackets stay whole; kohya: images and captions are read exactly "
        "as sd-scripts read them, for comparable runs.", choices=READING_RULES)
    wildcards: bool = setting(False, "Captions", "Wildcards",
        "{red|green|blue}: one is picked at random each time the image is used. {{ and }} are literal braces.")
    keep_separator: str = setting("", "Captions", "Keep-tags separator",
        "Such as |||: tags before it stay at the start of the caption, tags after a second one at the end. Captions "
        "that contain it ignore Keep tags.")
    second_separator: str = setting("", "Captions", "Tag group separator",
        "Such as ;;;: tags joined by it are shuffled as one tag. It becomes a comma afterwards.")
    shuffle_tags: str = setting(AS_THE_RUN, "Per-concept overrides", "Shuffle tags (override)",
        "Overrides Shuffle tags for this concept.", choices=OVERRIDE_CHOICES)
    keep_tokens: int = setting(-1, "Per-concept overrides", "Keep tags (override)",
        "Overrides Keep tags for this concept. -1 uses the run's value.", low=-1, high=255, step=1)
    tag_dropout: float = setting(-1.0, "Per-concept overrides", "Tag dropout (override)",
        "Overrides Tag dropout for this concept. -1 uses the run's value.", low=-1, high=1, step=0.05)
    caption_dropout: float = setting(-1.0, "Per-concept overrides", "Caption dropout (override)",
        "Overrides Caption dropout for this concept. -1 uses the run's value.", low=-1, high=1, step=0.05)
    hflip: str = setting(AS_THE_RUN, "Per-concept overrides", "Horizontal flip (override)",
        "Overrides Apply horizontal flip for this concept.", choices=OVERRIDE_CHOICES)
    num_class_images_per: int = setting(0, "Class Image Generation", "Class images per instance image",
        "Missing class images are generated from the class prompt before training and kept for the next run. 0 uses "
        "only the images in the classification dataset directory.", low=0, high=1000, step=1)
    class_negative_prompt: str = setting("", "Class Image Generation", "Classification negative prompt",
        "What generated class images should not show.")
    class_guidance_scale: float = setting(7.5, "Class Image Generation", "Classification CFG scale",
        "How strictly class images follow their prompt. Larger is stricter, with less variety.",
        low=1, high=30, step=0.1)
    class_infer_steps: int = setting(40, "Class Image Generation", "Classification steps",
        "Sampling steps of class images. More is slower and somewhat cleaner.", low=1, high=1000, step=1)
    save_sample_prompt: str = setting("[filewords]", "Sample Prompts", "Sample image prompt",
        "Prompt of the previews. [filewords] uses the captions of the instance images in turn.")
    save_sample_negative_prompt: str = setting("", "Sample Prompts", "Sample negative prompt",
        "What previews should not show.")
    n_save_sample: int = setting(1, "Sample Image Generation", "Number of samples to generate",
        "Images of this concept per preview. 0 generates none.", low=0, high=100, step=1)
    sample_seed: int = setting(-1, "Sample Image Generation", "Sample seed",
        "Seed of the first preview image; each further image uses the next seed. -1 uses the training seed.",
        low=-1, high=2**32 - 1)
    save_guidance_scale: float = setting(7.5, "Sample Image Generation", "Sample CFG scale",
        "How strictly previews follow their prompt. Larger is stricter, with less variety.", low=1, high=30, step=0.1)
    save_infer_steps: int = setting(20, "Sample Image Generation", "Sample steps",
        "Sampling steps of previews. More is slower and somewhat cleaner.", low=1, high=1000, step=1)
    # fmt: on


CONCEPT = declared(Concept)
_MOST_CLASS_IMAGES = int(CONCEPT["num_class_images_per"].high or 0)
_PATHS = [key for key, declaration in CONCEPT.items() if declaration.path]


def parse_concepts(
    values: Any, base_dir: Path | None = None, strict: bool = True
) -> tuple[tuple[Concept, ...], list[str]]:
    """Concepts from plain values, and a notice for each key of the old extension that has another or no effect.

    ``base_dir``: the folder that relative paths refer to (that of a concepts file). ``strict=False`` reports unknown
    keys and invalid values instead of refusing them.
    """
    if isinstance(values, Mapping) and values.keys() & {"concepts_list", "instance_data_dir"}:
        values = values.get("concepts_list", [values])  # else it is a single concept
    if not isinstance(values, Sequence) or not all(isinstance(value, Mapping) for value in values):
        raise UserError('Concepts must be a list of objects, such as [{"instance_data_dir": "photos", ...}].')
    concepts, notices, problems = [], [], []
    for number, value in enumerate(values, 1):
        where = f"concept {number}: "
        given, changed, total_class_images = upgrade_concept(value, where)
        if not strict:
            given, invalid = _valid(given, where)
            changed += invalid
        try:
            concept = _resolve(parse(Concept, _join_paths(given, base_dir), where=where), base_dir)
        except UserError as error:
            problems += error.problems
            continue
        if total_class_images:
            per_image, notice = images_per_instance(total_class_images, concept.instance_data_dir, where)
            concept = dataclasses.replace(concept, num_class_images_per=min(per_image, _MOST_CLASS_IMAGES))
            changed.append(notice)
        concepts.append(concept)
        notices += changed
    if problems:
        raise UserError.from_problems(problems)
    return tuple(concepts), notices


def read_concepts(source: str | Path) -> tuple[tuple[Concept, ...], list[str]]:
    """Concepts from a JSON file, or from JSON text."""
    if isinstance(source, str) and source.lstrip().startswith(("[", "{")):
        return parse_concepts(parse_json(source, "The concepts", by_hand=True))
    path = clean_path(source)
    return parse_concepts(read_json(path, MAX_BYTES, by_hand=True), base_dir=path.resolve().parent)


def _valid(values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """The known and valid values, and a notice for each other."""
    valid, notices = {}, []
    for key, value in values.items():
        if key not in CONCEPT:
            notices.append(f"{where}{key} has no effect: there is no such setting{unknown_key(key, CONCEPT)}.")
            continue
        try:
            CONCEPT[key].parse(value)
        except ValueError as error:
            notices.append(f"{where}{key}: {error}; the default {CONCEPT[key].default!r} is used instead.")
            continue
        valid[key] = value
    return valid, notices


def concept_values(concept: Concept) -> dict[str, Any]:
    return dataclasses.asdict(concept)


def _join_paths(values: Mapping[str, Any], base_dir: Path | None) -> dict[str, Any]:
    def join(value: Any) -> Any:
        return str(clean_path(value, base_dir or "")) if isinstance(value, str) and value.strip() else value

    return {key: join(value) if key in _PATHS and base_dir is not None else value for key, value in values.items()}


def _resolve(concept: Concept, base_dir: Path | None) -> Concept:
    changed = {}
    for key in _PATHS:
        folder = getattr(concept, key)
        if folder and base_dir is not None:
            changed[key] = str(Path(folder).resolve()) if os.path.isabs(folder) else folder
    return dataclasses.replace(concept, **changed)
