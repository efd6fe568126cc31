"""Masked loss of sd-scripts: masks in a folder of their own, and where they are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from dreambooth.dataset.pixels import load_mask
from dreambooth.dataset.planning import make_plan
from dreambooth.errors import UserError
from dreambooth.interop.input_kind import RecognizedInput, recognize_input
from dreambooth.interop.kohya.export import export_dataset
from dreambooth.models.sd.default_latents import DEFAULT_CODEC
from dreambooth.settings import Concept, Settings, parse
from dreambooth.training.loss_masks import LossMasks

TRAINING = "masked_loss = true\nnetwork_module = 'networks.lora'\nresolution = 64\nmax_train_epochs = 1\n"
DATASET = "[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = 'img'\nconditioning_data_dir = 'masks'\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images; the masks of 0 and 1: the left half white, gray, black in quarters of the rest."""
    for name in ("img", "named/5_zwx toy", "masks"):
        (tmp_path / name).mkdir(parents=True)
    for number in range(3):
        for name in ("img", "named/5_zwx toy"):
            Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / name / f"{number}.jpg")
    mask = Image.new("RGB", (64, 64), "black")
    mask.paste((255, 0, 0), (0, 0, 32, 64))  # the red channel counts
    mask.paste((127, 127, 127), (32, 0, 64, 32))
    for number in range(2):
        mask.save(tmp_path / "masks" / f"{number}.png")
    (tmp_path / "dataset.toml").write_text(DATASET)
    return tmp_path


def imported(folder: Path, text: str) -> RecognizedInput:
    (folder / "train.toml").write_text(text + TRAINING)
    return recognize_input(folder / "train.toml")


@pytest.mark.parametrize(
    "images", ["dataset_config = 'dataset.toml'\n", "train_data_dir = 'named'\nconditioning_data_dir = 'masks'\n"]
)
def test_masks_of_a_folder_weigh_the_loss(folder: Path, images: str) -> None:
    found = imported(folder, images)
    run = parse(Settings, found.settings)
    assert run.masked_loss and run.unmasked_weight == 0
    assert not [line for line in found.unsupported if "mask" in line or "conditioning" in line]
    plan = make_plan(found.concepts, run)
    assert [example.mask and example.mask.name for example in plan.examples] == ["0.png", "1.png", None]
    weights = LossMasks(run.unmasked_weight, DEFAULT_CODEC, torch.device("cpu")).batch(plan.examples)
    assert weights[:2, 0, 0, 0].tolist() == [1, 1] and weights[0, 0, 7, 7] == 0 and (weights[2] == 1).all()
    assert weights[0, 0, 0, 7].item() == pytest.approx(127 / 255, abs=1e-3)
    assert [issue.path.name for issue in plan.issues if issue.kind == "mask-missing"] == ["2.jpg"]
    assert any("Without a mask" in line for line in plan.warnings)


def test_odd_masks_are_reported(folder: Path) -> None:
    Image.new("L", (64, 32), 255).save(folder / "masks/2.webp")
    Image.new("L", (64, 64), 255).save(folder / "masks/9.png")
    Image.new("L", (32, 32), 255).save(folder / "masks/0.png")
    (folder / "masks/1.png").write_bytes(b"")
    plan = make_plan(imported(folder, "dataset_config = 'dataset.toml'\n").concepts, Settings(resolution=64))
    kinds = {(issue.path.name, issue.kind) for issue in plan.issues}
    assert {("0.jpg", "mask-size"), ("2.jpg", "mask-shape"), ("9.png", "mask-unused"), ("1.jpg", "empty")} <= kinds


def test_masked_loss_is_never_dropped_silently(folder: Path) -> None:
    without = imported(folder, "train_data_dir = 'named'\n")
    assert without.settings["masked_loss"] is False and "Masked loss is off" in "\n".join(without.unsupported)
    (folder / "dataset.toml").write_text(DATASET.replace("'masks'", "'gone'"))
    gone = imported(folder, "dataset_config = 'dataset.toml'\n")
    assert gone.settings["masked_loss"] and "gone does not exist on this machine" in "\n".join(gone.unsupported)
    with pytest.raises(UserError, match=r"mask_data_dir: .*gone"):
        make_plan(gone.concepts, Settings(resolution=64))
    (folder / "dataset.toml").write_text(DATASET)
    alone = recognize_input(folder / "dataset.toml")
    assert "masked_loss" not in alone.settings and "Switch on Masked loss" in "\n".join(alone.unsupported)
    (folder / "train.toml").write_text("dataset_config = 'dataset.toml'\nmasked_loss = false\n")
    off = recognize_input(folder / "train.toml")
    assert off.settings["masked_loss"] is False and "the masks are not used" in "\n".join(off.unsupported)


def test_alpha_masks_do_not_need_masked_loss(folder: Path) -> None:
    (folder / "train.toml").write_text("train_data_dir = 'named'\nalpha_mask = true\nmasked_loss = false\n")
    found = recognize_input(folder / "train.toml")
    assert found.settings["masked_loss"] is True and found.settings["unmasked_weight"] == 0


def test_masks_in_the_image_folder_are_not_trained(folder: Path) -> None:
    (folder / "masks").rename(folder / "img/masks")
    Image.new("L", (64, 64), 255).save(folder / "img/masks/spare.png")
    concept = Concept(instance_data_dir=str(folder / "img"), mask_data_dir=str(folder / "img/masks"))
    plan = make_plan([concept], Settings(resolution=64))
    assert len(plan.examples) == 3 and [bool(example.mask) for example in plan.examples] == [True, True, False]
    mask = load_mask(plan.examples[0])
    assert mask is not None and mask.unique().tolist() == pytest.approx([0, 127 / 255, 1])


def test_masks_are_exported(folder: Path) -> None:
    concept = Concept(instance_data_dir=str(folder / "img"), mask_data_dir=str(folder / "masks"))
    text, _ = export_dataset([concept], Settings(resolution=64, masked_loss=True))
    (folder / "out.toml").write_text(text)
    assert recognize_input(folder / "out.toml").concepts[0].mask_data_dir == str(folder / "masks")
    assert "conditioning_data_dir" not in export_dataset([concept], Settings(resolution=64))[0]
