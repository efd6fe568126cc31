"""The .yaml beside a checkpoint: what it says is trained, contradictions are reported, and exports have it again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
import yaml

from dreambooth.checkpoints.extract import extract
from dreambooth.checkpoints.inspection import inspect
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.recognition import recognize
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.checkpoints.sources import open_source
from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.models.sd.ldm_config import read_ldm_config
from tests.mini_models import make


def ldm(width: int = 768, in_channels: int = 4, **params: Any) -> bytes:
    """A configuration as the original code has it."""
    unet = {"target": "ldm.modules.x.UNetModel", "params": {"in_channels": in_channels, "context_dim": width}}
    model = {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": {**params, "unet_config": unet}}
    return yaml.safe_dump({"model": model}).encode()


def sgm(scaling: str) -> bytes:
    """A configuration of SDXL."""
    denoiser = {"params": {"scaling_config": {"target": f"sgm.modules.diffusionmodules.denoiser_scaling.{scaling}"}}}
    network = {"params": {"in_channels": 4, "context_dim": 2048, "adm_in_channels": 2816}}
    params = {"denoiser_config": denoiser, "network_config": network}
    return yaml.safe_dump({"model": {"target": "sgm.models.diffusion.DiffusionEngine", "params": params}}).encode()


class Row(NamedTuple):
    """``expected``: the prediction type, or a part of the refusal. ``said``: a part of the warnings, "" for none.

    ``is_kept``: whether the export has this .yaml; None if that is not tested.
    """

    kind: str
    config: bytes | None
    expected: str
    said: str = ""
    markers: tuple[str, ...] = ()
    metadata: dict[str, str] = {}  # noqa: RUF012 (never changed)
    selected: str = ""  # by the user
    is_kept: bool | None = None


V, EPS = "v_prediction", "epsilon"
ROWS = {
    "v": Row("v1x", ldm(parameterization="v"), V, is_kept=True),
    "with a BOM and Windows' line ends": Row(
        "v1x", b"\xef\xbb\xbf" + ldm(parameterization="v").replace(b"\n", b"\r\n"), V
    ),
    "nothing but the parameterization": Row("v1x", b'model:\n  params:\n    parameterization: "V"\n', V),
    "epsilon": Row("v1x", ldm(parameterization="eps"), EPS),
    "SD2, not stated: epsilon": Row("v2x", ldm(1024), EPS, is_kept=True),
    "SD2 v": Row("v2x", ldm(1024, parameterization="v"), V),
    "SDXL v": Row("SDXL", sgm("VScaling"), V, is_kept=True),
    "SDXL epsilon": Row("SDXL", sgm("EpsScaling"), EPS),
    "SDXL of EDM": Row("SDXL", sgm("EDMScaling"), 'gives its training target as "EDMScaling"'),
    "x0": Row("v1x", ldm(parameterization="x0"), 'model.yaml gives its training target as "x0"'),
    "x0, but selected": Row("v1x", ldm(parameterization="x0"), EPS, "epsilon was selected", selected=EPS,
                            is_kept=False),
    "not known": Row("v1x", ldm(parameterization="w"), EPS, '"w" is not known'),
    "of SD2": Row("v1x", ldm(1024, parameterization="v"), EPS, "another model: it describes a Stable Diffusion 2.x"),
    "of an inpainting model": Row("v1x", ldm(768, 9, parameterization="v"), EPS, "takes 9 channels"),
    "broken": Row("v1x", b"model: {params: [1\n", EPS, "not valid YAML .line 2"),
    "of something else": Row("v1x", b"job: extension\nconfig: {name: x}\n", EPS, "no model.params"),
    "no text": Row("v1x", b"\xff\xfe\x00", EPS, "not a text file in UTF-8"),
    "selected against it": Row(
        "v1x", ldm(parameterization="v"), EPS, "model.yaml says v-prediction, but epsilon was selected",
        selected=EPS, is_kept=False,
    ),
    "marker against it": Row(
        "v1x", ldm(parameterization="eps"), V, "says epsilon, but v-prediction is used, from the tensor v_pred",
        markers=("v_pred",), is_kept=False,
    ),
    "metadata against it": Row(
        "v1x", ldm(parameterization="v"), V, r"modelspec.prediction_type\) says epsilon",
        metadata={"modelspec.prediction_type": "epsilon"},
    ),
    "metadata states it, the .yaml doesn't": Row(
        "v1x", ldm(), V, "model.yaml says epsilon", metadata={"modelspec.prediction_type": "v"}
    ),
    "no .yaml, marker": Row("v1x", None, V, markers=("v_pred",)),
    "no .yaml, metadata of ComfyUI": Row("v1x", None, V, metadata={"modelspec.predict_key": "v"}, is_kept=False),
    "no .yaml, metadata of another target": Row(
        "v1x", None, r"its metadata \(modelspec.predict_key\) gives", metadata={"modelspec.predict_key": "edm"}
    ),
    "no .yaml, selected": Row("v1x", None, V, selected=V),
    "no .yaml, SD2's variant in the metadata": Row(
        "v2x", None, EPS, metadata={"modelspec.architecture": "stable-diffusion-v2-512"}
    ),
    "no .yaml, nothing stated": Row("v1x", None, EPS),
    "SD2, nothing stated": Row("v2x", None, V, "Could not detect"),
}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path, read_all: Callable[[Path], dict[str, torch.Tensor]]):
    def write(row: Row, name: str = "model") -> Path:
        path = make(tmp_path / f"{name}.safetensors", row.kind, declare_prediction=False)
        tensors = {**read_all(path), **{name: torch.empty(0) for name in row.markers}}
        with open_tensors(path) as file:
            safetensors.torch.save_file(tensors, path, {**file.metadata, **row.metadata})
        if row.config is not None:
            path.with_suffix(".yaml").write_bytes(row.config)
        return path

    return write


@pytest.mark.parametrize("what", ROWS)
def test_what_is_recognized_and_said(what, source):
    row = ROWS[what]
    with open_source(source(row)) as file:
        if row.expected not in (V, EPS):
            with pytest.raises(UserError, match=row.expected) as refusal:
                recognize(file)
            assert "\n" not in str(refusal.value)
            return
        found = recognize(file, prediction=row.selected or "auto")
    assert found.prediction == row.expected and _matches(row.said, "\n".join(found.warnings))
    assert not any("\n" in warning for warning in found.warnings)


@pytest.mark.parametrize("what", [what for what, row in ROWS.items() if row.is_kept is not None])
def test_what_is_trained_and_written(what, source, new, tmp_path, caplog):
    """The model that is created, and what a WebUI and Create take its export for, are what was recognized."""
    row = ROWS[what]
    path = source(row)
    facts = extract(path, new, prediction_type=row.selected or "auto")
    assert facts.prediction_type == row.expected
    assert read_json(new.working / "scheduler" / "scheduler_config.json")["prediction_type"] == row.expected
    assert _matches(row.said, facts.source_warnings) and _matches(row.said, caplog.text)
    if not row.selected:
        assert inspect(path).recognized == facts.recognized
    out = write_checkpoint(new, tmp_path / "out.safetensors")
    written = out.with_suffix(".yaml")
    assert written.exists() == (row.expected == V or row.is_kept is True)
    assert not row.is_kept or written.read_bytes() == row.config
    with open_source(out) as exported:
        assert recognize(exported).prediction == row.expected


def _matches(part: str, text: str) -> bool:
    return bool(re.search(part, text)) if part else not text.strip()


@pytest.mark.parametrize("inpainting", [False, True])
def test_the_configuration_that_is_made_describes_the_model(inpainting, new, tmp_path):
    """A WebUI builds the model from it."""
    extract(make(tmp_path / "a.safetensors", "v1x", inpainting=inpainting, v_pred=True), new)
    out = write_checkpoint(new, tmp_path / "out.safetensors")
    model = yaml.safe_load(out.with_suffix(".yaml").read_text())["model"]
    assert model["target"].endswith("LatentInpaintDiffusion" if inpainting else "LatentDiffusion")
    unet = model["params"]["unet_config"]["params"]
    assert (unet["in_channels"], unet["context_dim"], unet["model_channels"]) == (9 if inpainting else 4, 32, 16)
    assert (unet["channel_mult"], unet["num_res_blocks"], unet["attention_resolutions"]) == ([1, 2], 1, [2, 1])
    assert model["params"]["first_stage_config"]["params"]["ddconfig"]["ch_mult"] == [1, 1, 1, 1]
    config, notes = read_ldm_config(out)
    assert config and config.prediction == V and config.in_channels == unet["in_channels"] and not notes


def test_noise_schedule_and_size(source, new):
    """Zero terminal SNR, also from the schedule in the file; without v-prediction it is reported."""
    row = Row("v1x", ldm(parameterization="v", zero_snr=True, linear_end=0.02, image_size=96, timesteps="many"), V)
    facts = extract(source(row), new)
    scheduler = read_json(new.working / "scheduler" / "scheduler_config.json")
    assert scheduler["rescale_betas_zero_snr"] and scheduler["timestep_spacing"] == "trailing"
    assert scheduler["beta_end"] == 0.02 and scheduler["num_train_timesteps"] == 1000
    assert "timesteps 'many' is not valid" in facts.source_warnings
    assert read_json(new.working / "unet" / "config.json")["sample_size"] == 96
    with open_source(source(Row("v1x", None, V, markers=("v_pred", "ztsnr")), "marked")) as file:
        assert recognize(file).schedule["rescale_betas_zero_snr"]
    with open_source(source(Row("v1x", None, EPS, markers=("ztsnr",)), "half marked")) as file:
        found = recognize(file)
    assert not found.schedule and "zero terminal SNR, which needs v-prediction" in found.warnings[0]


def test_a_schedule_in_the_file_that_ends_without_signal(source, read_all):
    path = source(Row("v1x", None, V, markers=("v_pred",)))
    tensors = {**read_all(path), "alphas_cumprod": torch.linspace(0.999, 0, 1000)}
    with open_tensors(path) as file:
        safetensors.torch.save_file(tensors, path, file.metadata)
    with open_source(path) as file:
        assert recognize(file).schedule["rescale_betas_zero_snr"]


def test_names_that_suggest_more_than_the_file_says(source):
    for name, said in (
        ("noobaiXL_vPred10", "suggests v-prediction"),
        ("sdxl_lightning_4step", "distilled"),
        ("plain", ""),
    ):
        with open_source(source(Row("SDXL", None, EPS), name)) as file:
            found = recognize(file)
        assert found.prediction == EPS and _matches(said, "\n".join(found.warnings))


def test_other_endings(source):
    path = source(Row("v1x", None, EPS), "a.v2")
    path.with_name("a.v2.yml").write_bytes(ldm(parameterization="v"))
    config, notes = read_ldm_config(path)
    assert config and config.prediction == V and "WebUIs read only a.v2.yaml" in notes[0]
    path.with_name("a.v2.yaml").mkdir()
    assert read_ldm_config(path)[0] is not None
