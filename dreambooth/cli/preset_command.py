"""``preset``: list, show, apply, save, import, export and delete presets of settings."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from dreambooth.actions import presets
from dreambooth.cli.commands import folders
from dreambooth.paths import clean_path
from dreambooth.presets.changes import Change
from dreambooth.presets.own import delete_preset, export_preset, import_preset, own_presets
from dreambooth.presets.preset_file import Preset
from dreambooth.presets.shipped import shipped_presets
from dreambooth.settings import ModelFolder
from dreambooth.settings.creation import FAMILIES
from dreambooth.terminal import ProgressBar
from dreambooth.text import count


def add_command(subparsers: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    group = subparsers.add_parser("preset", help="list, show, apply, save and exchange presets of settings")
    commands = group.add_subparsers(required=True, metavar="COMMAND")
    add(commands, "list", list_presets, "list the presets").add_argument(
        "model", metavar="NAME", nargs="?", help="only those that this model can have"
    )
    show = add(commands, "show", show_preset, "show a preset: its settings and their reasons")
    _preset(show)
    show.add_argument("--model", metavar="NAME", help="show the changes that it would make to this model")
    applied = add(commands, "apply", apply, "change the settings of a model to those of a preset")
    applied.add_argument("model", metavar="NAME", help="name of the model")
    _preset(applied)
    applied.add_argument("--dry-run", action="store_true", help="only show what it would change")
    save = add(commands, "save", save_preset, "save the settings of a model as a preset")
    save.add_argument("model", metavar="NAME", help="name of the model")
    _preset(save)
    save.add_argument("--replace", action="store_true", help="overwrite an own preset of this name")
    imported = add(commands, "import", import_file, "copy a preset file into your presets")
    imported.add_argument("file", metavar="FILE", help="a preset file")
    imported.add_argument("--name", default="", metavar="PRESET", help="default: the name of the file")
    imported.add_argument("--replace", action="store_true", help="overwrite an own preset of this name")
    export = add(commands, "export", export_file, "write a preset to a file")
    _preset(export)
    export.add_argument("file", metavar="FILE", help="the new file")
    export.add_argument("--model", metavar="NAME", help="only the values for the family of this model")
    _preset(add(commands, "delete", delete, "delete an own preset"))


def _preset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", metavar="PRESET", help="name of the preset")


def list_presets(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any] | str:
    own, problems = own_presets(folders(args))
    listed = presets.for_model(_model(args)) if args.model else [*own, *shipped_presets()]
    if args.json:
        return {"state": "done", "presets": [_row(preset) for preset in listed], "problems": problems}
    width = max((len(preset.name) for preset in listed), default=0)
    lines = [f"{preset.name:{width}}  {preset.title}: {_for(preset)}" for preset in listed]
    return "\n".join([*lines, *(f"Not usable: {problem}" for problem in problems)])


def _row(preset: Preset) -> dict[str, Any]:
    return {"name": preset.name, "title": preset.title, "families": list(preset.families), "subject": preset.subject,
            "gpu_memory_gb": preset.gpu_memory, "own": preset.is_own}  # fmt: skip


def _for(preset: Preset) -> str:
    return ", ".join(FAMILIES.get(name, name) for name in preset.families) or "any family"


def show_preset(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any] | str:
    if args.model:
        model = ModelFolder(folders(args), args.model)
        changes = presets.preview(model, model.require().load(), args.preset)
        return _report(args, changes, f"{args.preset} would change")
    preset = presets.described(folders(args), args.preset)
    if args.json:
        return {"state": "done", **preset.as_dict(), "notes": preset.notes()}
    return "\n".join([json.dumps(preset.as_dict(), indent=2, ensure_ascii=False), *preset.notes()])


def apply(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any] | str:
    model = _model(args)
    if args.dry_run:
        return _report(args, presets.preview(model, model.require().load(), args.preset), f"{args.preset} would change")
    return _report(args, presets.apply_preset(model, args.preset), f"{args.preset} changed")


def _report(args: argparse.Namespace, changes: Sequence[Change], what: str) -> dict[str, Any] | str:
    from dreambooth.models.capabilities import repr_of

    if args.json:
        rows = [{"key": c.key, "label": c.label, "now": c.now, "then": c.then, "reason": c.reason} for c in changes]
        return {"state": "done", "changes": rows}
    lines = [f"  {c.key}: {repr_of(c.now)} -> {repr_of(c.then)}. {c.reason}".rstrip() for c in changes]
    return "\n".join([f"{what} {count(len(changes), 'setting')}{':' if lines else '.'}", *lines])


def save_preset(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    model = _model(args)
    saved = presets.save(model, model.require().load(), args.preset, args.replace)
    return {"state": "done", "preset": saved.name, "settings": len(saved.settings)}


def import_file(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    preset = import_preset(folders(args), clean_path(args.file), args.name, args.replace)
    return {"state": "done", "preset": preset.name, "settings": len(preset.settings), "notes": preset.notes()}


def export_file(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    model = ModelFolder(folders(args), args.model) if args.model else None
    path = clean_path(args.file)
    export_preset(presets.described(folders(args), args.preset, model), path)
    return {"state": "done", "file": str(path)}


def delete(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    delete_preset(folders(args), args.preset)
    return {"state": "done", "deleted": args.preset}


def _model(args: argparse.Namespace) -> ModelFolder:
    return ModelFolder(folders(args), args.model)
