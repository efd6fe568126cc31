"""Links to controls from the places where guides for the old extension have them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from dreambooth.settings import SETTINGS
from dreambooth.ui.links import concept_link, link, setting_link

EXTRAS = "Extras"  # a group of the old extension, whose controls are in other places here
CONCEPT_LIST = ""  # above the concepts
LORA_RATES = ("lora_learning_rate", "lora_txt_learning_rate")
LORA_RANKS = ("lora_unet_rank", "lora_txt_rank")

Line = tuple[str, Sequence[str]]  # a text, and the elem_ids of the controls that it links to, without "db_"

# By tab and group.
SIGNPOSTS: Mapping[tuple[str, str], Sequence[Line]] = {
    ("Settings", "General"): [
        ("With Use LoRA:", ("lora_unet_rank", "lora_learning_rate")),
    ],
    ("Settings", "LoRA"): [
        ("Learning rates of a LoRA, under Learning Rate:", LORA_RATES),
        ("Saved files and weight when merging, under Saving:", ("save_lora_after", "lora_weight")),
    ],
    ("Settings", "Tuning"): [
        ("Cache Latents: always on. Latents are encoded before the first step and cached on disk; later runs reuse "
         "them.", ()),
        ("Under General:", ("train_unet", "stop_text_encoder")),
        ("Under Objective:", ("offset_noise", "min_snr_gamma", "use_dream")),
    ],
    ("Settings", "Prior Loss"): [
        ("Prior preservation needs class images, under Concepts:", ("c1_num_class_images_per",)),
    ],
    ("Settings", "Image Generation"): [
        ("Prompts and numbers of samples and class images, under Concepts:",
         ("c1_n_save_sample", "c1_num_class_images_per", "class_images")),
    ],
    ("Settings", EXTRAS): [
        ("Under Concepts:", ("concepts_list",)),
        ("Under Create, More options:", ("vae",)),
        ("Instead of Debug Buckets and Bucket Cropping, under Concepts and Images:", ("check", "pictures_prepare")),
        ("Loss and learning rate are plotted during training, without Generate Graph. Updates, API key and webhook "
         "have no counterpart.", ()),
    ],
    ("Saving", "LoRA"): [
        ("LoRA rank, under Settings, LoRA:", LORA_RANKS),
        ("Learning rates of a LoRA, under Settings, Learning Rate:", LORA_RATES),
    ],
    ("Saving", "General"): [
        ("Checkpoints and LoRAs are always saved as .safetensors.", ()),
    ],
    ("Saving", "Checkpoints"): [
        ("Under Select:", ("half_model", "use_subdir")),
    ],
    ("Saving", "Diffusion Weights"): [
        ("Under Settings, Intervals:", ("autosave_minutes",)),
        ("Under Select:", ("snapshot",)),
    ],
    ("Concepts", CONCEPT_LIST): [
        ("Under Settings:", ("wizards",)),
    ],
}  # fmt: skip

# Controls that belong to no setting.
_OTHER_LINKS = {
    "class_images": link("Generate class images", "db_class_images", "concepts"),
    "concepts_list": link("Concepts list", "db_concepts_list", "concepts", "db_concepts_list"),
    "vae": link("VAE", "db_vae", "create", "db_more_options"),
    "check": link("Check and preview captions", "db_check", "concepts"),
    "pictures_prepare": link("Prepare", "db_pictures_prepare", "pictures", "db_pictures_prepare"),
    "snapshot": link("Snapshot to resume", "db_snapshot", "select"),
    "wizards": link("Training Wizard (Person) and (Object/Style)", "db_wizards", "settings"),
}


def signposts(tab: str) -> dict[str, str]:
    """HTML by group, for the groups of this tab that have signposts."""
    return {
        group: "".join(f'<p class="db_signpost">{_line(*line)}</p>' for line in lines)
        for (in_tab, group), lines in SIGNPOSTS.items()
        if in_tab == tab
    }


def _line(text: str, targets: Sequence[str]) -> str:
    return f"{html.escape(text)} {' · '.join(map(_link, targets))}".strip()


def _link(target: str) -> str:
    if target.startswith("c1_"):
        return concept_link(1, target.removeprefix("c1_"))
    return setting_link(target) if target in SETTINGS else _OTHER_LINKS[target]
