"""The words of the command line and their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from dreambooth.cli import commands, dataset_commands
from dreambooth.cli.options import add_option, add_settings
from dreambooth.hosts.standalone import StandaloneHost
from dreambooth.settings import CREATE_OPTIONS
from dreambooth.settings.creation import PRECISIONS
from dreambooth.settings.tools import EXTRACT_OPTIONS, MERGE_OPTIONS, RESIZE_OPTIONS, SIZE


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="dreambooth",
        description="DreamBooth training for Stable Diffusion.",
        epilog="Also: demo (the whole job on the embedded model), ui (the page).",
    )
    words = whole.add_subparsers(required=True, metavar="WORD")

    create = _word(words, "create", commands.create, "extract a checkpoint into a model that can be trained")
    create.add_argument("name", metavar="NAME")
    create.add_argument(
        "--source",
        required=True,
        help="a .safetensors or .ckpt file, a diffusers folder, or a model of the Hugging Face hub",
    )
    for setting in CREATE_OPTIONS.values():
        add_option(create, setting)
    create.add_argument("--half", action="store_true", help="short for --precision fp16")
    create.add_argument("--replace", action="store_true", help="make an existing model anew")

    train = _word(words, "train", commands.train, "train a model; Ctrl-C once saves and stops, twice stops at once")
    train.add_argument("name", metavar="NAME")
    add_settings(train)
    train.add_argument("--resume", nargs="?", const="latest", default="", metavar="STEP",
                       help="go on from the snapshot of this step, or from the best one (best); without a "
                            "word: from the latest")  # fmt: skip

    classes = _word(words, "class-images", commands.class_images, "draw the class images that are missing")
    classes.add_argument("name", metavar="NAME")
    add_settings(classes)

    sample = _word(words, "sample", commands.sample, "draw pictures")
    sample.add_argument("name", metavar="NAME")
    sample.add_argument("--prompt", required=True)
    sample.add_argument("--negative", default="")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--steps", type=_positive, default=20)
    sample.add_argument("--cfg", type=float, default=7.5)
    sample.add_argument("--width", type=_positive)
    sample.add_argument("--height", type=_positive)
    sample.add_argument("--count", type=_positive, default=1, help="pictures, each with the next seed")
    _add_loras(sample)
    sample.add_argument("--out", required=True, metavar="DIR")

    generate = _word(words, "generate-ckpt", commands.generate, "write the model as one checkpoint file")
    generate.add_argument("name", metavar="NAME")
    _add_loras(generate)
    generate.add_argument("--half", action="store_true", help="short for --precision fp16")
    generate.add_argument("--precision", choices=[*PRECISIONS], help="default: as in the source, or as Half model says")
    generate.add_argument("--out", metavar="FILE")

    _add_lora_words(words)

    check = _word(words, "check", commands.check, "say what a run would do, or why it could not start")
    check.add_argument("name", metavar="NAME")
    add_settings(check)

    dataset_commands.add_words(words, _word)

    inspect = _word(words, "inspect", commands.inspect, "say what a model file is, and what is odd about it")
    inspect.add_argument("file", metavar="FILE", help="a checkpoint, LoRA, VAE or embedding; or a diffusers folder")
    inspect.add_argument("--against", metavar="BASE", help="a file of the same kind: say which tensors differ, how far")

    settings = _word(words, "settings", commands.settings, "list all settings")
    settings.add_argument("--markdown", action="store_true", help="as docs/settings.md, with all that is declared")
    return whole


def _add_lora_words(words: Any) -> None:
    extract = _word(
        words, "lora-extract", commands.lora_extract, "write what one checkpoint knows beyond another as a LoRA"
    )
    extract.add_argument("--base", required=True, help="a checkpoint, a diffusers folder, or a model's name")
    extract.add_argument("--tuned", required=True, help="the same, for the one that knows more")

    resize = _word(words, "lora-resize", commands.lora_resize, "write a LoRA with a smaller rank")
    resize.add_argument("lora", metavar="FILE")

    merge = _word(words, "lora-merge", commands.lora_merge, "write one LoRA that does what several do together")
    _add_loras(merge)
    for word, options in ((extract, EXTRACT_OPTIONS), (resize, RESIZE_OPTIONS), (merge, MERGE_OPTIONS)):
        for setting in options.values():
            if setting.group == SIZE:
                add_option(word, setting)
        word.add_argument("--out", required=True, metavar="FILE.safetensors")


def _word(words: Any, name: str, run: Callable[..., Any], help: str) -> argparse.ArgumentParser:
    parser = words.add_parser(name, help=help, description=help.capitalize() + ".")
    parser.add_argument("--models-dir", default=str(StandaloneHost().models_dir), metavar="DIR",
                        help="the WebUI's models folder (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=run, word=name)
    return parser


def _add_loras(parser: argparse.ArgumentParser) -> None:
    each = {"action": "append", "default": []}
    parser.add_argument("--lora", **each, metavar="FILE", help="may be given several times")
    parser.add_argument("--lora-weight", **each, type=float, metavar="X", help="once for each --lora, or not at all")
    parser.add_argument("--lora-text-weight", **each, type=float, metavar="X",
                        help="the same for the text encoder; not at all: as --lora-weight")  # fmt: skip


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
