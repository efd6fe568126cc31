"""The state of a session, taken into a snapshot and restored from it."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import torch

from dreambooth.checkpoints.modules import fingerprint
from dreambooth.errors import UserError
from dreambooth.settings import SETTINGS, ModelFolder
from dreambooth.settings.legacy import REMOVED
from dreambooth.text import count
from dreambooth.training.optimizers import load_optimizer_state, optimizer_state
from dreambooth.training.session import Session
from dreambooth.training.snapshot import Snapshot

_EMA, _IMAGIC = "ema.", "imagic."  # prefixes of a snapshot's tensors that are not weights
_SPECTRAL = "spectral."  # prefix of spectral norms in older snapshots; not used any more
_NORMALIZATION = "dynamic_img_norm"  # a key of older snapshots' settings


def take_snapshot(session: Session, **facts: Any) -> Snapshot:
    """The current state. ``facts``: further values that a resumed run needs."""
    session.synchronize_weights()
    ema, scaler = session.ema, session.accelerator.scaler
    shadow_params = {f"{_EMA}{i}": t for i, t in enumerate(ema.shadow_params)} if ema else {}
    embedding = {_IMAGIC + key: t for key, t in session.imagic.state().items()} if session.imagic else {}
    return Snapshot(
        dataclasses.replace(session.position),
        {**session.trained_tensors(), **shadow_params, **embedding},
        optimizer_state(session.optimizer),
        dataclasses.asdict(session.settings),
        {
            **facts,
            "ema_updates": ema.updates if ema else 0,
            "scaler": scaler.state_dict() if scaler else {},
            "base": _base_fingerprint(session),
            "plan": session.plan.fingerprint(),
            "processes": session.process_group.world_size,
            "computed": _compute_environment(session),
            "origin": source_hash(session.model),
        },
    )


@torch.no_grad()
def restore_snapshot(session: Session, snapshot: Snapshot) -> list[str]:
    """Restore ``snapshot``. Returns the differences that keep the resumed run from equaling the original, as texts."""
    session.synchronize_weights()
    settings, ema, scaler = session.settings, session.ema, session.accelerator.scaler
    differences = _changes(snapshot.settings, dataclasses.asdict(settings)) + _removed(snapshot)
    current = session.trained_tensors()
    if {name: t.shape for name, t in current.items()} != _shapes_of_weights(snapshot.tensors):
        raise UserError(
            "The snapshot's weights don't match what these settings train. Use the settings that it was saved with."
        )
    for name, tensor in current.items():
        tensor.copy_(snapshot.tensors[name])
    if snapshot.settings["optimizer"] == settings.optimizer:  # the state of one is meaningless to another
        load_optimizer_state(session.optimizer, snapshot.optimizer)
    if ema and f"{_EMA}0" in snapshot.tensors:
        shadow_params = [snapshot.tensors[f"{_EMA}{i}"] for i in range(len(ema.shadow_params))]
        ema.load(shadow_params, snapshot.facts["ema_updates"])
    elif ema:  # switched on since: it starts from the trained weights
        ema.load(list(session.modules.denoiser.parameters()), 0)
    if session.imagic:
        session.imagic.load(_with_prefix(snapshot.tensors, _IMAGIC))
    if scaler and snapshot.facts["scaler"]:
        scaler.load_state_dict(snapshot.facts["scaler"])
    normalized = snapshot.settings.get(_NORMALIZATION)  # the fingerprint of such a plan differs in any case
    if not normalized and snapshot.facts["plan"] != session.plan.fingerprint():
        differences.append("images or captions have changed")
    processes = snapshot.facts.get("processes", 1)
    world_size = session.process_group.world_size
    if processes != world_size:
        differences.append(f"it ran in {count(processes, 'process', 'processes')} and now runs in {world_size}")
    computed = snapshot.facts.get("computed", _compute_environment(session))
    if computed != _compute_environment(session):
        differences.append(f"it ran on {computed} and now runs on {_compute_environment(session)}")
    if settings.use_lora and snapshot.facts["base"] != _base_fingerprint(session):
        differences.append("the base model of the LoRA has changed")
    session.position = dataclasses.replace(snapshot.position)
    return differences


def source_hash(model: ModelFolder) -> str:
    """Hash of the manifest of the model's source, which lists the hashes of all its tensors."""
    try:
        return hashlib.sha256((model.source / "manifest.json").read_bytes()).hexdigest()
    except OSError:
        return ""


def _base_fingerprint(session: Session) -> str:
    """The fingerprint of the weights that a LoRA is trained on; "" for full training."""
    if not session.settings.use_lora:
        return ""
    return fingerprint(session.model.working, session.modules.family.denoiser.name)


def _compute_environment(session: Session) -> str:
    """Device and precision. On others, results differ in their last bits."""
    device = session.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name} in {'fp32' if session.precision == 'no' else session.precision}"


# Prefixes of settings that have no influence on the trained weights.
_IRRELEVANT = (
    "save_",
    "preview_",
    "autosave_",
    "epoch_pause_",
    "validation_every",
    "sample_batch_size",
    "ema_on_cpu",
    "lora_start",
)


def _changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Settings that influence the trained weights and have changed, as texts."""
    relevant = [
        key
        for key, s in SETTINGS.items()
        if s.tab == "Settings" and s.group != "Image Generation" and not key.startswith(_IRRELEVANT)
    ]
    return [f"{key} was {then[key]!r} and is {now[key]!r}" for key in relevant if then.get(key, now[key]) != now[key]]


def _removed(snapshot: Snapshot) -> list[str]:
    """Features that this snapshot's run used and that were removed, as texts."""
    used = {
        "freeze_spectral_norm": any(name.startswith(_SPECTRAL) for name in snapshot.tensors),
        _NORMALIZATION: snapshot.settings.get(_NORMALIZATION, False),
    }
    return [f"{key} was on and no longer has an effect ({REMOVED[key]} was removed)" for key, on in used.items() if on]


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _shapes_of_weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items() if not name.startswith((_EMA, _SPECTRAL, _IMAGIC))}
