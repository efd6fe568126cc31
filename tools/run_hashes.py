#!/usr/bin/env python
"""Short runs and hashes of what they leave: do weights, images and exported files stay the same, to the bit?

    python tools/run_hashes.py --json before.json       before a change that should not alter training
    python tools/run_hashes.py --compare before.json    after it; exits with 1 and names the results that differ
    python tools/run_hashes.py --only lora full-ema     some of the runs

The models have few channels and random weights; the images are generated here (tools/hashed_runs.py). Every run goes
through the command line, on the CPU, with one thread. The hash with a run's name covers the tensors (key, dtype,
shape, bytes) of the files that it leaves: the LoRA, the components in working/ with their EMA, the exported
checkpoint. Others cover the pixels of its images (previews, class images), the metadata of its files without the
times in it, and the results of commands after it, such as Generate Ckpt. Hashes are only comparable on the same
machine with the same libraries.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Before torch is imported: the order of additions depends on the number of threads, and the results on the device.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", MKL_CBWR="AUTO", CUDA_VISIBLE_DEVICES="")
# The environment of a distributed launcher would make this process wait for others.
for _variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(_variable, None)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors import safe_open  # noqa: E402

from dreambooth.cli import main as command_line  # noqa: E402
from tests.mini_models import make  # noqa: E402
from tools.hashed_runs import BASE, CHECKPOINTS, NAME, RUNS, Run, concepts, write_images  # noqa: E402

torch.set_num_threads(1)

RESUMED = " (resumed)"
TIMES = {"modelspec.date", "ss_training_started_at", "ss_training_finished_at"}  # in metadata


def main() -> int:
    args = _arguments()
    recorded = json.loads(args.compare.read_text(encoding="utf-8")) if args.compare else None
    hashes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, digest in _hashes(Path(folder), args.only or list(RUNS)):
            hashes[name] = digest
            print(f"{name:<40} {digest}", flush=True)
    if args.json:
        text = json.dumps({"environment": _environment(), "hashes": hashes}, indent=2)
        args.json.write_text(text + "\n", encoding="utf-8")
    problems = [
        f"{name}: the resumed run differs from the straight one"
        for name in RUNS
        if hashes.get(name) != hashes.get(name + RESUMED, hashes.get(name))
    ]
    if recorded:
        problems += _differences(recorded, hashes, complete=not args.only)
    for problem in problems:
        print(problem, file=sys.stderr)
    if recorded and not problems:
        common = recorded["hashes"].keys() & hashes.keys()
        new = f" {len(hashes) - len(common)} are new." if len(hashes) > len(common) else ""
        print(f"All {len(common)} recorded hashes are the same.{new}", file=sys.stderr)
    return 1 if problems else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=RUNS, metavar="NAME", help=f"some of {', '.join(RUNS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the hashes to this file")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="compare with the hashes in this file")
    return parser.parse_args()


def _differences(recorded: dict[str, Any], hashes: dict[str, str], complete: bool) -> list[str]:
    before, environment = recorded["hashes"], _environment()
    problems = [f"{name}: differs" for name, digest in hashes.items() if before.get(name, digest) != digest]
    if complete:
        problems += [f"{name}: recorded, but no longer run" for name in before if name not in hashes]
    if recorded["environment"] != environment:
        print(f"Recorded with {recorded['environment']}, now {environment}: hashes may differ.", file=sys.stderr)
    return problems


def _environment() -> dict[str, str]:
    """What may change the last bit of a result though the code is the same."""
    from importlib.metadata import version

    libraries = ("torch", "diffusers", "transformers", "numpy", "pillow")
    capability = torch.backends.cpu.get_cpu_capability()
    return {"machine": platform.machine(), "cpu": capability, **{name: version(name) for name in libraries}}


def _hashes(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Of the source checkpoints first: where one of them differs, so do all runs that start from it."""
    checkpoints = {}
    for model in dict.fromkeys(RUNS[name].model for name in names):
        checkpoints[model] = make(folder / f"{model}.safetensors", **CHECKPOINTS[model])
        yield f"checkpoint {model}", _digest({"": checkpoints[model]})
    write_images(folder)
    for name in names:
        run = RUNS[name]
        yield from _results_of(name, run, checkpoints[run.model], folder)
        if run.stop_at:
            yield name + RESUMED, _resumed(name, run, checkpoints[run.model], folder)


def _results_of(name: str, run: Run, checkpoint: Path, folder: Path) -> Iterator[tuple[str, str]]:
    models = folder / name
    _create(models, run, checkpoint)
    if run.settings is not None:
        _train(models, run.settings, _concepts_file(folder, run))
    results = _results(models)
    yield name, _digest(results)
    yield f"{name} (metadata)", _metadata_digest(results.values(), models / "dreambooth" / NAME / "working")
    if images := sorted(models.glob("**/*.png")):
        yield f"{name} (images)", _images_digest(images)
    for what, command in run.then.items():
        out = models / what
        values = {"models": models, "lora": results.get("Lora/"), "source": checkpoint, "out": out}
        _command(*(word.format(**values) for word in command.split()))
        if out.is_dir():
            yield f"{name} ({what})", _images_digest(sorted(out.glob("*.png")))
        else:
            file = out.with_name(f"{what}.safetensors")
            yield f"{name} ({what})", _digest({"": file})
            yield f"{name} ({what}, metadata)", _metadata_digest([file])


def _resumed(name: str, run: Run, checkpoint: Path, folder: Path) -> str:
    models, concepts_file = folder / f"{name}-resumed", _concepts_file(folder, run)
    _create(models, run, checkpoint)
    settings = run.settings or {}
    stopped = {"max_train_steps": run.stop_at, "save_state_after": True, "save_lora_after": False}
    _train(models, {**settings, **stopped}, concepts_file)
    whole = {"max_train_steps": 0, "save_state_after": False, "save_lora_after": True}
    _train(models, {**settings, **whole}, concepts_file, "--resume")
    return _digest(_results(models))


def _concepts_file(folder: Path, run: Run) -> Path:
    path = folder / "concepts.json"
    path.write_text(json.dumps(concepts(run)), encoding="utf-8")
    return path


def _create(models: Path, run: Run, checkpoint: Path) -> None:
    _command("create", NAME, "--source", str(checkpoint), "--models-dir", str(models), *run.create)


def _train(models: Path, settings: Mapping[str, Any], concepts_file: Path, *more: str) -> None:
    values = [f"{key}={value}" for key, value in {**BASE, **settings}.items()]
    _command("train", NAME, "--models-dir", str(models), "--concepts", str(concepts_file), *more, "--set", *values)


_output = io.StringIO()  # one for all commands: loggers keep the stream they were made with


def _command(*words: str) -> None:
    begun = _output.tell()
    with contextlib.redirect_stdout(_output), contextlib.redirect_stderr(_output):
        code = command_line(list(words))
    if code:
        raise SystemExit(f"{_output.getvalue()[begun:]}\nexit code {code} of: {' '.join(words)}")


def _results(models: Path) -> dict[str, Path]:
    """All files of weights that are the result of a run, by a prefix for the keys in them."""
    model = models / "dreambooth" / NAME
    files = {
        f"{path.parent.name}/{path.stem if path.parent.name == 'embeddings' else ''}": path
        for pattern in ("working/*", "embeddings")
        for path in sorted(model.glob(f"{pattern}/*.safetensors"))
    }
    for kind in ("Lora", "Stable-diffusion"):
        found = list((models / kind).glob("**/*.safetensors"))
        if len(found) > 1:
            raise SystemExit(f"Expected one file in {kind}, found {len(found)}: {', '.join(p.name for p in found)}")
        files |= {f"{kind}/": path for path in found}
    return files


def _digest(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for prefix, path in sorted(files.items()):
        with safe_open(str(path), framework="pt") as file:
            for key in sorted(file.keys()):
                tensor = file.get_tensor(key)
                digest.update(f"{prefix}{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _images_digest(paths: Iterable[Path]) -> str:
    """Of the pixels, in the order of the names."""
    digest = hashlib.sha256()
    for path in paths:
        with Image.open(path) as image:
            digest.update(f"{image.mode} {image.size}\n".encode() + image.tobytes())
    return digest.hexdigest()


def _metadata_digest(files: Iterable[Path], working: Path | None = None) -> str:
    """Of the metadata in files of weights, and of the configs in working/."""
    metadata: dict[str, Any] = {}
    for path in files:
        with safe_open(str(path), framework="pt") as file:
            metadata[f"{path.parent.name}/{path.name}"] = file.metadata()
    for path in sorted(working.glob("**/*.json")) if working else ():
        if path.name != "fingerprint.json":  # it holds the time of the file next to it
            metadata[path.relative_to(path.parents[1]).as_posix()] = json.loads(path.read_text(encoding="utf-8"))
    for values in metadata.values():
        for key in TIMES & (values or {}).keys():
            del values[key]
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
