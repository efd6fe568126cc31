"""Outside models/sd, the code speaks of denoisers, text encoders and processes, not of Stable Diffusion's parts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dreambooth

PACKAGE = Path(dreambooth.__file__).parent
WORDS = re.compile(r"\b(unet|betas|cross_attention(_dim)?|77)\b", re.IGNORECASE)
# What is about Stable Diffusion by name, or about the betas of an optimizer or a noise schedule: file or folder, and
# what its lines may contain, with the reason.
ALLOWED = {
    "interop/": r".",  # keys of other programs
    "settings/old_extension.py": r".",  # keys of the old extension
    "settings/other_names.py": r".",  # keys of other programs
    "settings/training.py": r"Train UNET|LoRA UNET|the UNet|UNet's|UNet |betas=",  # labels and help
    "settings/objective.py": r"the UNet",  # help
    "settings/arguments.py": r"betas=",
    "settings/lora_ranks.py": r"unet\.down_blocks",  # an example
    "settings/optimizer_arguments.py": r'"betas"',
    "training/optimizer_kinds.py": r"betas=",
    "training/fused_adamw.py": r"betas",
    "training/stochastic_rounding.py": r"betas",
    "models/process.py": r"betas",  # of DDPM's noise schedule
    "training/imagic.py": r"train_imagic: the UNet is not trained",  # as its label, Train UNET
    "cli/arguments.py": r"UNet weight",  # help
    "ui/run_view.py": r'"unet": "Loading the UNet"',  # the phase's name in the logs of runs
    "ui/tools_tab.py": r"a weight for the UNet",  # help
    # Folders of the old extension, and LoRAs in all spellings.
    "checkpoints/adapters/names.py": r"unet.mid_block",  # an example
    "checkpoints/adopted_source.py": r".",
    "checkpoints/adoption.py": r".",
    "checkpoints/lora_tags.py": r".",  # A1111's tags
    "models/layout.py": r"unet weight",
}


def _uses() -> Iterator[tuple[str, int, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith("models/sd/"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if WORDS.search(line):
                    yield name, number, line


def _is_allowed(name: str, line: str) -> bool:
    return any(name.startswith(start) and re.search(pattern, line) for start, pattern in ALLOWED.items())


def test_other_code_does_not_name_parts_of_stable_diffusion() -> None:
    found = [f"dreambooth/{name}:{number}: {line.strip()}" for name, number, line in _uses()]
    assert len(found) > 100, "the words are looked for"
    refused = [use for use, (name, _, line) in zip(found, _uses(), strict=True) if not _is_allowed(name, line)]
    assert not refused, "\n".join(refused)


@pytest.mark.parametrize("line", ["def train(unet):", "betas = 1", "config['cross_attention_dim']", "ids[:, :77]"])
def test_such_a_line_would_be_found(line: str) -> None:
    assert WORDS.search(line) and not _is_allowed("training/loop.py", line)
    assert not WORDS.search("settings.train_unet and lora_unet_rank, 177")
