"""The ``.yaml`` beside a checkpoint: the configuration with which the original code, and so a WebUI, builds the model.

A WebUI reads the file of the same name as the checkpoint. For models that predict velocity it is often the only place
that says so. Only what affects training is read here; the file itself is kept for the checkpoints that are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import as_user_error, read_bounded
from dreambooth.models.sd.keys import INPAINTING_CHANNELS

ENDING = ".yaml"
_ENDINGS = (ENDING, ".yml")  # WebUIs read only the first
_MAX_BYTES = 1_000_000

# What a UNet is trained to predict, as these files call it.
_PREDICTIONS = {"eps": "epsilon", "epsilon": "epsilon", "noise": "epsilon", "epsscaling": "epsilon",
                "v": "v_prediction", "v_prediction": "v_prediction", "v-prediction": "v_prediction",
                "vpred": "v_prediction", "v_pred": "v_prediction", "velocity": "v_prediction",
                "vscaling": "v_prediction"}  # fmt: skip
_ZERO_SNR_KEYS = {"zero_snr", "zero_terminal_snr", "use_zero_snr", "rescale_betas_zero_snr", "ztsnr", "zsnr"}
# The UNet's text embeddings: their width, and the model type (of the 768 px variant for Stable Diffusion 2).
_WIDTHS = {768: "v1x", 1024: "v2x", 2048: "SDXL"}
LDM_CONFIG = f"config{ENDING}"  # the name under which the configuration of a source is kept

_SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear"}  # the original code's names, those of diffusers
_DEFAULT_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000,
                     "beta_schedule": "scaled_linear"}  # fmt: skip


@dataclass(frozen=True)
class LdmConfig:
    """What a ``.yaml`` says about the model."""

    path: Path
    text: bytes
    prediction: str = ""  # "" if it doesn't say
    is_implied: bool = False  # the prediction type is only the default of the original code
    unsupported: str = ""  # the training target, if it is neither noise nor velocity
    model_type: str = ""  # "" if it doesn't say; "v2x" for all of Stable Diffusion 2
    in_channels: int = 0  # of the UNet; 0 if it doesn't say
    zero_snr: bool = False
    use_ema: bool = False
    schedule: Mapping[str, Any] = field(default_factory=dict)  # of the scheduler config, where it is not the usual one
    sample_size: int = 0  # side of the latents; 0 for the usual one
    problems: tuple[str, ...] = ()  # values that are not known


def read_ldm_config(checkpoint: Path) -> tuple[LdmConfig | None, list[str]]:
    """The configuration beside a checkpoint, None if there is none or it can't be used; and the reasons for that."""
    path = _config_path(checkpoint)
    if path is None:
        return None, []
    ignored = f"{path.name} beside the checkpoint was ignored: "
    try:
        text = read_bounded(path, _MAX_BYTES)
        config = parse_ldm_config(path, text)
    except UserError as error:
        return None, [f"{ignored}{error}"]
    except OSError as error:
        return None, [f"{ignored}{as_user_error(error, path, 'read')}"]
    except ValueError as error:
        return None, [f"{ignored}{error}. Correct it, or remove it: a WebUI reads it too."]
    notes = [f"{path.name} beside the checkpoint: {problem}" for problem in config.problems]
    if path.suffix != ENDING:
        notes.append(f"{path.name} beside the checkpoint: WebUIs read only {checkpoint.stem}{ENDING}. Rename it.")
    return config, notes


def mismatch(config: LdmConfig, model_type: str, in_channels: int) -> str:
    """Why the configuration can't be that of this checkpoint; "" if it can."""
    family = "v2x" if model_type.startswith("v2x") else model_type
    if config.model_type and config.model_type != family:
        titles = {"v1x": "Stable Diffusion 1.x", "v2x": "Stable Diffusion 2.x", "SDXL": "Stable Diffusion XL"}
        return f"it describes a {titles[config.model_type]} model"
    if config.in_channels and config.in_channels != in_channels:
        kind = {INPAINTING_CHANNELS: " (inpainting)"}.get(config.in_channels, "")
        return f"its UNet takes {config.in_channels} channels{kind}, that of the checkpoint {in_channels}"
    return ""


def ldm_config_path(source: Path) -> Path:
    """Where the configuration of a model's source is kept, in the folder ``NAME/source``."""
    return source / LDM_CONFIG


def parse_ldm_config(path: Path, text: bytes) -> LdmConfig:
    """The configuration in ``text``. ValueError that says what is wrong with it."""
    return _read(path, text, *_model_params(text))


def _config_path(checkpoint: Path) -> Path | None:
    for ending in _ENDINGS:
        for name in (checkpoint.with_suffix(ending), checkpoint.with_suffix(ending.upper())):
            if name.is_file():
                return name
    return None


def _model_params(text: bytes) -> tuple[dict[str, Any], str]:
    """``model.params`` and ``model.target``. ValueError that says what is wrong."""
    import yaml

    try:
        values = yaml.safe_load(text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not a text file in UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}: {getattr(error, 'problem', None)})" if mark else ""
        raise ValueError(f"it is not valid YAML{where}") from error
    model = values.get("model") if isinstance(values, dict) else None
    params = model.get("params") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(params, dict):
        raise ValueError("it is not the configuration of a checkpoint (it has no model.params)")
    return params, str(model.get("target", ""))


def _read(path: Path, text: bytes, params: dict[str, Any], target: str) -> LdmConfig:
    problems: list[str] = []
    unet = _section(params, "unet_config") or _section(params, "network_config")
    stated = _stated_target(params)
    is_implied = not stated and bool(unet or target)
    prediction = "epsilon" if is_implied else _PREDICTIONS.get(stated.lower(), "")
    is_unsupported = stated.lower() == "x0" or "EDM" in stated
    if stated and not prediction and not is_unsupported:
        problems.append(f'"{stated}" is not known as a training target. It was ignored.')
    return LdmConfig(
        path,
        text,
        prediction=prediction,
        is_implied=is_implied,
        unsupported=stated if is_unsupported else "",
        model_type=_model_type(params, unet, target),
        in_channels=_int(unet.get("in_channels")),
        zero_snr=any(_is_zero_snr(key, value) for key, value in _items(params)),
        use_ema=params.get("use_ema") is True,
        schedule=_schedule(params, problems),
        sample_size=_sample_size(params),
        problems=tuple(problems),
    )


def _section(params: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``NAME.params``; {} if there is none."""
    section = params.get(name)
    values = section.get("params") if isinstance(section, dict) else None
    return values if isinstance(values, dict) else {}


def _stated_target(params: Mapping[str, Any]) -> str:
    """What the UNet was trained to predict, as the file calls it: a parameterization, or a class that scales."""
    if params.get("parameterization") is not None:
        return str(params["parameterization"]).strip()
    scaling = _section(params, "denoiser_config").get("scaling_config")
    return str(scaling.get("target", "")).rpartition(".")[2] if isinstance(scaling, dict) else ""


def _model_type(params: Mapping[str, Any], unet: Mapping[str, Any], target: str) -> str:
    width = unet.get("context_dim")
    width = width[0] if isinstance(width, list) and width else width
    if isinstance(width, int) and width in _WIDTHS:
        return _WIDTHS[width]
    encoder = params.get("cond_stage_config")
    encoder_target = str(encoder.get("target", "")) if isinstance(encoder, dict) else ""
    if encoder_target.endswith("FrozenOpenCLIPEmbedder"):
        return "v2x"
    if encoder_target.endswith("FrozenCLIPEmbedder"):
        return "v1x"
    return "SDXL" if target.startswith("sgm.") and "adm_in_channels" in unet else ""


def _schedule(params: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """The values of the scheduler config that differ from the usual ones."""
    found: dict[str, Any] = {}
    for key, name in (("linear_start", "beta_start"), ("linear_end", "beta_end"), ("timesteps", "num_train_timesteps")):
        value = params.get(key)
        try:
            number = None if value is None else float(value)
        except (TypeError, ValueError):
            number = -1.0
        if number is None:
            continue
        if not 0 < number < (10_000 if name == "num_train_timesteps" else 1):
            problems.append(f"{key} {value!r} is not valid. It was ignored.")
        else:
            found[name] = int(number) if name == "num_train_timesteps" else number
    kind = params.get("beta_schedule")
    if kind in _SCHEDULES:
        found["beta_schedule"] = _SCHEDULES[kind]
    elif kind is not None:
        problems.append(f"beta_schedule {kind!r} is not supported. It was ignored.")
    return {name: value for name, value in found.items() if value != _DEFAULT_SCHEDULE[name]}


def _sample_size(params: Mapping[str, Any]) -> int:
    """image_size, if it is larger than what these files usually say, whatever the model."""
    size = _int(params.get("image_size"))
    return size if 64 < size <= 256 else 0


def _items(values: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > 8:
        return
    for key, value in values.items() if isinstance(values, dict) else ():
        yield str(key), value
        yield from _items(value, depth + 1)


def _is_zero_snr(key: str, value: Any) -> bool:
    return (key in _ZERO_SNR_KEYS and value is True) or (key == "target" and "ZeroSNR" in str(value))


def _int(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
