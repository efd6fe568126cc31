"""Commands of the command line and their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from dreambooth.cli import commands, dataset_commands, preset_command, queue_command, snapshot_command
from dreambooth.cli.options import add_option, add_settings
from dreambooth.hosts.standalone import StandaloneHost
from dreambooth.settings import CREATE_OPTIONS
from dreambooth.settings.creation import PRECISIONS, TEXT_ENCODER_OPTIONS
from dreambooth.settings.tools import EXTRACT_OPTIONS, MERGE_OPTIONS, RESIZE_OPTIONS, SIZE


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="dreambooth",
        description="DreamBooth and LoRA training for Stable Diffusion.",
        epilog="Also: demo (train and evaluate an embedded model), ui (serve the page).",
    )
    subparsers = whole.add_subparsers(required=True, metavar="COMMAND")

    create = _add_command(subparsers, "create", commands.create, "create a trainable model from a checkpoint")
    create.add_argument("name", metavar="NAME", help="name of the new model")
    create.add_argument(
        "--source",
        required=True,
        help="a .safetensors or .ckpt file, a diffusers folder, or a Hugging Face model (org/name)",
    )
    for key, setting in CREATE_OPTIONS.items():
        if key not in TEXT_ENCODER_OPTIONS:
            add_option(create, setting)
    create.add_argument("--text-encoder", action="append", default=[], metavar="FILE",
                        help=CREATE_OPTIONS["text_encoder"].help + " Give it twice for two text encoders")  # fmt: skip
    create.add_argument("--half", action="store_true", help="same as --precision fp16")
    create.add_argument("--replace", action="store_true", help="overwrite an existing model")

    train = _add_command(
        subparsers,
        "train",
        commands.train,
        "train a model; Ctrl-C or SIGTERM saves and stops (exit code 130), a second one stops immediately",
    )
    train.add_argument("name", metavar="NAME", help="name of the model")
    add_settings(train)
    train.add_argument("--resume", nargs="?", const="latest", default="", metavar="NAME",
                       help="resume from the snapshot of this name (its step; see the command snapshots), from the one "
                            "with the lowest validation loss (best), or without a value from the latest: the newest of "
                            "the run that was trained last. If nothing is left to train, it says so and "
                            "writes nothing")  # fmt: skip

    classes = _add_command(subparsers, "class-images", commands.class_images, "generate the missing class images")
    classes.add_argument("name", metavar="NAME", help="name of the model")
    add_settings(classes)

    sample = _add_command(subparsers, "sample", commands.sample, "generate images with a model")
    sample.add_argument("name", metavar="NAME", help="name of the model")
    sample.add_argument("--prompt", required=True, help="what the images show")
    sample.add_argument("--negative", default="", help="what the images should not show")
    sample.add_argument("--seed", type=int, default=0, help="seed of the first image (default: %(default)s)")
    sample.add_argument("--steps", type=_positive, default=20, help="sampling steps (default: %(default)s)")
    sample.add_argument("--cfg", type=float, default=7.5, help="CFG scale (default: %(default)s)")
    sample.add_argument("--width", type=_positive, help="in pixels (default: the model's resolution)")
    sample.add_argument("--height", type=_positive, help="in pixels (default: the model's resolution)")
    sample.add_argument("--count", type=_positive, default=1,
                        help="number of images; each uses the next seed (default: %(default)s)")  # fmt: skip
    _add_loras(sample)
    sample.add_argument("--out", required=True, metavar="DIR", help="folder for the images")

    generate = _add_command(
        subparsers, "generate-ckpt", commands.generate, "write the model, with LoRAs merged in, as one checkpoint file"
    )
    generate.add_argument("name", metavar="NAME", help="name of the model")
    _add_loras(generate)
    generate.add_argument("--half", action="store_true", help="same as --precision fp16")
    generate.add_argument(
        "--precision", choices=[*PRECISIONS], help="default: that of the source, or fp16 if half_model is on"
    )
    generate.add_argument("--out", metavar="FILE", help="default: a new file in the WebUI's checkpoint folder")

    _add_lora_commands(subparsers)

    check = _add_command(
        subparsers, "check", commands.check, "report what a training run would do, or everything that prevents it"
    )
    check.add_argument("name", metavar="NAME", help="name of the model")
    add_settings(check)
    check.add_argument("--verbose", action="store_true", help="also list each image with its caption, and all warnings")

    dataset_commands.add_commands(subparsers, _add_command)
    snapshot_command.add_command(subparsers, _add_command)
    queue_command.add_commands(subparsers, _add_command)
    preset_command.add_command(subparsers, _add_command)

    inspect = _add_command(subparsers, "inspect", commands.inspect, "report type, metadata and issues of a model file")
    inspect.add_argument("file", metavar="FILE", help="a checkpoint, LoRA, VAE or embedding; or a diffusers folder")
    inspect.add_argument("--against", metavar="BASE", help="a file of the same kind, to measure the difference from")

    settings = _add_command(subparsers, "settings", commands.settings, "list all settings")
    settings.add_argument("--markdown", action="store_true", help="print docs/settings.md, with full descriptions")
    return whole


def _add_lora_commands(subparsers: Any) -> None:
    extract = _add_command(
        subparsers, "lora-extract", commands.lora_extract, "extract the difference of two checkpoints as a LoRA"
    )
    source = "a checkpoint, a diffusers folder, or a model's name"
    extract.add_argument("--base", required=True, help=f"base checkpoint: {source}")
    extract.add_argument("--tuned", required=True, help=f"fine-tuned checkpoint: {source}")

    resize = _add_command(subparsers, "lora-resize", commands.lora_resize, "reduce the rank of a LoRA")
    resize.add_argument("lora", metavar="FILE", help="the LoRA")

    merge = _add_command(subparsers, "lora-merge", commands.lora_merge, "merge several LoRAs into one")
    _add_loras(merge)
    for command, options in ((extract, EXTRACT_OPTIONS), (resize, RESIZE_OPTIONS), (merge, MERGE_OPTIONS)):
        for setting in options.values():
            if setting.group == SIZE:
                add_option(command, setting)
        command.add_argument("--out", required=True, metavar="FILE.safetensors", help="the new LoRA")


def _add_command(
    subparsers: Any, name: str, run: Callable[..., Any], help: str, aliases: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """The parser of a new command, with the options that all commands share."""
    parser = subparsers.add_parser(name, aliases=aliases, help=help, description=help[0].upper() + help[1:] + ".")
    parser.add_argument("--models-dir", default=str(StandaloneHost().models_dir), metavar="DIR",
                        help="the WebUI's models folder (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=run, command=name)
    return parser


def _add_loras(parser: argparse.ArgumentParser) -> None:
    repeatable = {"action": "append", "default": []}
    parser.add_argument("--lora", **repeatable, metavar="LORA",
                        help="file, or name in the folder of LoRAs; may be given several times")  # fmt: skip
    parser.add_argument("--lora-weight", **repeatable, type=float, metavar="X",
                        help="UNet weight; once per --lora, or omit it")  # fmt: skip
    parser.add_argument("--lora-text-weight", **repeatable, type=float, metavar="X",
                        help="text encoder weight; once per --lora (default: --lora-weight)")  # fmt: skip


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
