#!/usr/bin/env python
"""Build an embedded model, its classifier and the demo subject. Needs nothing but this folder.

python tools/make_mini_model.py                      everything of the mini SD, about 85 minutes on two cores
python tools/make_mini_model.py --family zimage      the mini Z-Image, which has the same classifier and subject
python tools/make_mini_model.py make --only denoiser one stage; an interrupted stage continues
python tools/make_mini_model.py evaluate             evaluate how well the shipped model follows prompts
python tools/make_mini_model.py subject --seed 7 --token ohwx --out DIR    another subject for DreamBooth
"""

import argparse
import os
import sys
from pathlib import Path

# Before torch is imported: idle OpenMP threads must sleep, not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
sys.path.insert(0, str(ROOT))
EMBEDDED = ROOT / "dreambooth" / "embedded"
CHECKER = "checker.safetensors"


def family(options):
    from mini_model.families import MINI_FAMILIES

    return MINI_FAMILIES[options.family]


def stage_images(options):
    from mini_model.images import render_images

    render_images(options.work, family(options).toy_names(options.work), options.images, options.images // 5)


def stage_vae(options):
    from mini_model.images import load_images
    from mini_model.vae import train_vae

    train_vae(*load_images(options.work), options.vae_seconds, options.work / "vae.pt", family(options).vae)


def stage_latents(options):
    from mini_model.images import encode_images

    encode_images(options.work, family(options).vae)


def stage_denoiser(options):
    family(options).train(options.work, options.seconds, options.start_from)


def stage_convert(options):
    path = options.out / family(options).file
    n_tensors = family(options).convert(options.work, path)
    print(f"{n_tensors} tensors, {path.stat().st_size / 1e6:.2f} MB: {path}")


def stage_checker(options):
    from mini_model.classifier import train_checker

    train_checker(options.work, options.out / CHECKER, options.checker_steps)


def stage_subject(options):
    from mini_model.render import DEMO_SUBJECT
    from mini_model.subject import write_subject

    write_subject(DEMO_SUBJECT, "zwx", options.out)


def stage_evaluate(options):
    from mini_model.evaluate import evaluate

    generate = family(options).generator(options.out / family(options).file, options.work)
    evaluate(generate, EMBEDDED / CHECKER if options.family != "sd" else options.out / CHECKER, options.work)


STAGES = {
    "images": stage_images,
    "vae": stage_vae,
    "latents": stage_latents,
    "denoiser": stage_denoiser,
    "convert": stage_convert,
    "checker": stage_checker,
    "subject": stage_subject,
    "evaluate": stage_evaluate,
}
RESULTS = {"images": "captions.json", "vae": "vae.pt", "latents": "latents_{last}.pt"}
ON_ALL_WORKERS = ("vae", "latents", "denoiser")
ONLY_SD = ("checker", "subject")  # of all models, made with the first one


def make(options):
    """Run the stages in order. Stages with a result in the work folder are skipped unless --only names them."""
    from mini_model import parallel

    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    stages = [name for name in STAGES if options.family == "sd" or name not in ONLY_SD]
    for name in options.only or stages:
        result = RESULTS.get(name, "").format(last=options.workers - 1)
        if result and not options.only and (options.work / result).exists():
            print(f"{name}: already done", flush=True)
            continue
        print(f"{name} ...", flush=True)
        if name in ON_ALL_WORKERS:
            parallel.launch([__file__, "worker", "--stage", name, *forwarded(options)], options.workers)
        else:
            STAGES[name](options)


def forwarded(options):
    """Options of the worker processes, as arguments."""
    names = ("family", "work", "images", "vae_seconds", "seconds", "start_from")
    given = [(name, getattr(options, name)) for name in names if getattr(options, name) is not None]
    return [text for name, value in given for text in (f"--{name.replace('_', '-')}", str(value))]


def other_subject(options):
    from mini_model.render import random_subject
    from mini_model.subject import write_subject

    subject = random_subject(options.seed)
    write_subject(subject, options.token, options.out, options.seed)
    print(f"{options.out}: {subject}")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--family", choices=("sd", "zimage"), default="sd", help="which embedded model (default: sd)")
    common.add_argument("--work", type=Path, help="folder for images and weights (default: in build/)")
    common.add_argument("--out", type=Path, default=EMBEDDED, help="folder for the results")
    common.add_argument("--images", type=int, default=24000, help="number of captioned images")
    common.add_argument("--vae-seconds", type=float, default=600)
    common.add_argument("--seconds", type=float, default=3700, help="training time of UNet or transformer")
    common.add_argument("--start-from", type=Path, help="the model.pt of an earlier training to start from")
    common.add_argument("--checker-steps", type=int, default=5000)
    commands = parser.add_subparsers(dest="command")
    making = commands.add_parser("make", parents=[common], help="all stages (the default)")
    making.add_argument("--only", nargs="+", choices=STAGES, help="only these stages, even if already done")
    making.add_argument("--workers", type=int, default=2, help="number of single-threaded processes")
    worker = commands.add_parser("worker", parents=[common])
    worker.add_argument("--stage", choices=ON_ALL_WORKERS, required=True)
    commands.add_parser("evaluate", parents=[common], help="evaluate how well the shipped model follows prompts")
    subject = commands.add_parser("subject", help="write six images of a random subject")
    subject.add_argument("--seed", type=int, required=True)
    subject.add_argument("--token", default="ohwx")
    subject.add_argument("--out", type=Path, required=True)
    if not arguments or arguments[0].startswith("--fa"):
        arguments = ["make", *arguments]
    options = parser.parse_args(arguments)
    if options.command != "subject" and options.work is None:
        options.work = ROOT / "build" / ("mini-model" if options.family == "sd" else f"mini-{options.family}")
    return options


def main(arguments):
    options = parse(arguments)
    actions = {
        "make": make,
        "worker": lambda o: STAGES[o.stage](o),
        "evaluate": stage_evaluate,
        "subject": other_subject,
    }
    actions[options.command](options)


if __name__ == "__main__":
    main(sys.argv[1:])
