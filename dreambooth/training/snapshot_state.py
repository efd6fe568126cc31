"""A session's state into a snapshot and back."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import torch

from dreambooth.checkpoints.modules import fingerprint
from dreambooth.errors import UserError
from dreambooth.settings import SETTINGS, ModelFolder
from dreambooth.settings.legacy import REMOVED
from dreambooth.training.optimizers import load_state, state_of
from dreambooth.training.session import Session
from dreambooth.training.snapshot import Snapshot

_EMA, _IMAGIC = "ema.", "imagic."  # prefixes of a snapshot's tensors that are not weights
_SPECTRAL = "spectral."  # prefix of spectral norms: older snapshots hold them, nothing uses them
_NORMALIZATION = "dynamic_img_norm"  # a key of older snapshots' settings


def take(session: Session, **facts: Any) -> Snapshot:
    """Where the run stands. ``facts``: what else is to be known when it is resumed."""
    ema, scaler = session.ema, session.accelerator.scaler
    averages = {f"{_EMA}{i}": t for i, t in enumerate(ema.averages)} if ema else {}
    embedding = {_IMAGIC + key: t for key, t in session.imagic.state().items()} if session.imagic else {}
    return Snapshot(
        dataclasses.replace(session.position),
        {**session.trained_tensors(), **averages, **embedding},
        state_of(session.optimizer),
        dataclasses.asdict(session.settings),
        {
            **facts,
            "ema_updates": ema.updates if ema else 0,
            "scaler": scaler.state_dict() if scaler else {},
            "base": fingerprint(session.model.working, "unet") if session.settings.use_lora else "",
            "plan": session.plan.fingerprint(),
            "processes": session.process_group.size,
            "computed": _computed(session),
            "origin": origin_of(session.model),
        },
    )


@torch.no_grad()
def restore(session: Session, snapshot: Snapshot) -> list[str]:
    """Go back to ``snapshot``. Returns what is different now, in words: then the run is no longer the same one."""
    settings, ema, scaler = session.settings, session.ema, session.accelerator.scaler
    notes = _changes(snapshot.settings, dataclasses.asdict(settings)) + _removed(snapshot)
    mine = session.trained_tensors()
    if {name: t.shape for name, t in mine.items()} != _shapes_of_weights(snapshot.tensors):
        raise UserError(
            "The snapshot holds other weights than these settings train: use the settings it was made with."
        )
    for name, tensor in mine.items():
        tensor.copy_(snapshot.tensors[name])
    if snapshot.settings["optimizer"] == settings.optimizer:  # moments of one mean nothing to another
        load_state(session.optimizer, snapshot.optimizer)
    if ema and f"{_EMA}0" in snapshot.tensors:
        averages = [snapshot.tensors[f"{_EMA}{i}"] for i in range(len(ema.averages))]
        ema.load(averages, snapshot.facts["ema_updates"])
    elif ema:  # switched on since: it starts from what was learnt
        ema.load(list(session.modules.unet.parameters()), 0)
    if session.imagic:
        session.imagic.load(_named(snapshot.tensors, _IMAGIC))
    if scaler and snapshot.facts["scaler"]:
        scaler.load_state_dict(snapshot.facts["scaler"])
    normalized = snapshot.settings.get(_NORMALIZATION)  # such a plan's fingerprint differs in any case
    if not normalized and snapshot.facts["plan"] != session.plan.fingerprint():
        notes.append("pictures or captions have changed")
    processes = snapshot.facts.get("processes", 1)
    if processes != session.process_group.size:
        notes.append(f"it ran in {processes} processes and now runs in {session.process_group.size}")
    computed = snapshot.facts.get("computed", _computed(session))
    if computed != _computed(session):
        notes.append(f"it ran on {computed} and now runs on {_computed(session)}")
    if settings.use_lora and snapshot.facts["base"] != fingerprint(session.model.working, "unet"):
        notes.append("the model under the LoRA has changed")
    session.position = dataclasses.replace(snapshot.position)
    return notes


def origin_of(model: ModelFolder) -> str:
    """What the model was made of: a hash of the list of all tensors of its source, with theirs."""
    try:
        return hashlib.sha256((model.source / "manifest.json").read_bytes()).hexdigest()
    except OSError:
        return ""


def _computed(session: Session) -> str:
    """Device and precision: on another one, sums come out differently in their last bits."""
    device = session.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name} in {'fp32' if session.precision == 'no' else session.precision}"


# Groups and names of settings that say what is shown and kept, not what is learnt.
_ASIDE = (
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
    """Settings that decide the weights and are not what they were, in words."""
    decisive = [
        key
        for key, s in SETTINGS.items()
        if s.tab == "Settings" and s.group != "Image Generation" and not key.startswith(_ASIDE)
    ]
    return [f"{key} was {then[key]!r} and is {now[key]!r}" for key in decisive if then.get(key, now[key]) != now[key]]


def _removed(snapshot: Snapshot) -> list[str]:
    """Features that decided the weights of this snapshot's run and no longer exist, in words."""
    used = {
        "freeze_spectral_norm": any(name.startswith(_SPECTRAL) for name in snapshot.tensors),
        _NORMALIZATION: snapshot.settings.get(_NORMALIZATION, False),
    }
    return [f"{key} was on and no longer has an effect ({REMOVED[key]} was removed)" for key, on in used.items() if on]


def _named(tensors: dict[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _shapes_of_weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items() if not name.startswith((_EMA, _SPECTRAL, _IMAGIC))}
