"""Created models of full size without weights: configs from tables of tensor shapes, and files with holes for data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch

from dreambooth.checkpoints.modules import weights_path
from dreambooth.files import write_json
from dreambooth.models.registry import family_of
from dreambooth.settings import Folders, ModelConfig, ModelFolder, ModelInfo, Settings, parse
from dreambooth.tensor_files import TensorSpec, TensorWriter

KEYS = Path(__file__).resolve().parents[2] / "tests" / "data" / "keys"  # the published models' tensors


def create_hollow(folders: Folders, name: str, model_type: str, table: str) -> ModelFolder:
    """The model ``name`` of a family, with the shapes of one of the tables in tests/data/keys, and default settings."""
    family, model = family_of(model_type), ModelFolder(folders, name)
    rows = json.loads(gzip.decompress((KEYS / f"{table}.json.gz").read_bytes()))
    shapes = {key: tuple(shape) for key, (shape, _) in rows.items()}
    configs, working = family.configs(shapes, {}), model.working
    for component in family.component_names:
        write_json(working / component / "config.json", configs[component])
    write_json(working / "model_index.json", family.model_index(configs))
    scheduler = family.scheduler_config(family.default_prediction, shapes, {})
    write_json(working / "scheduler" / "scheduler_config.json", scheduler)
    family.write_tokenizers(working, configs)
    for component in family.component_names:
        module = family.make_module(component, configs[component])
        shapes = family.component(component).disk_shapes(module)
        _write_hollow(weights_path(working, component), shapes)
    settings = parse(Settings, family.default_settings(configs))
    model.save(ModelConfig(name, settings, (), ModelInfo(model_type=model_type, src=table)))
    return model


def _write_hollow(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A float16 file with zeros that take no space, and its fingerprint, so that it is not read to be hashed."""
    specs = {key: TensorSpec(shape, torch.float16) for key, shape in shapes.items()}
    TensorWriter(path, specs, {"format": "pt"})._file.close()
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + sum(spec.n_bytes for spec in specs.values()))
    state = path.stat()
    fingerprint = {"state": [state.st_size, state.st_mtime_ns], "sha256": "0" * 64}
    write_json(path.with_name("fingerprint.json"), fingerprint)
