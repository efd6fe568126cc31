"""Benchmark of the dataset preview, compared with decoding each image once: ratios within one run.

    python tools/bench_images.py                     10,000 images, generated in a temporary folder
    python tools/bench_images.py --folder IMAGES     your own images
    python tools/bench_images.py --count 1000 --rounds 3

"decode" opens and loads each file with Pillow in as many threads as there are cores. "first" plans the folder with an
empty cache (`dreambooth.dataset.planning.make_plan`, as `plan`, `check` and `train` do); "again" repeats that with the
cache. Each measurement is a separate process, and peak memory is that of its process. They alternate, so that other
load slows all alike; on a very busy machine the ratio of CPU seconds, the second number, is more reliable.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
KINDS: dict[str, dict[str, Any]] = {
    "jpg": {"quality": 90},
    "png": {"compress_level": 1},
    "webp": {"quality": 85, "method": 0},
}


def main() -> None:
    args = _arguments()
    if args.one:
        return _one(args.one, Path(args.folder), Path(args.cache))
    with tempfile.TemporaryDirectory(dir=args.within) as temporary:
        folder = Path(args.folder) if args.folder else Path(temporary, "images")
        if not args.folder:
            _generate(folder, args.count)
            time.sleep(3)  # the metadata cache ignores files that were just written
        for number in range(args.rounds):
            cache = Path(temporary, f"cache {number}.sqlite")
            row: dict[str, Any] = {what: _in_process(what, folder, cache) for what in ("decode", "first", "again")}
            for over, under in (("first", "decode"), ("again", "first")):
                ratios = [round(row[over][unit] / row[under][unit], 4) for unit in ("seconds", "CPU")]
                row[f"{over} / {under}"] = ratios
            print(json.dumps(row), flush=True)


def _in_process(what: str, folder: Path, cache: Path) -> dict:
    command = [sys.executable, __file__, "--one", what, "--folder", str(folder), "--cache", str(cache)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def _one(what: str, folder: Path, cache: Path) -> None:
    started, worked = time.perf_counter(), time.process_time()
    images, issues = _decode(folder) if what == "decode" else _plan(folder, cache)
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    result = {"seconds": round(seconds, 2), "CPU": round(cpu, 2), "MB": round(memory)}
    print(json.dumps({**result, "images": images, "issues": issues}))


def _decode(folder: Path) -> tuple[int, int]:
    def load(path: Path) -> None:
        with Image.open(path) as image:
            image.load()

    paths = [path for path in sorted(folder.rglob("*")) if path.suffix[1:] in KINDS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return len(list(pool.map(load, paths))), 0


def _plan(folder: Path, cache: Path) -> tuple[int, int]:
    from dreambooth.dataset.planning import make_plan
    from dreambooth.settings import Concept, Settings

    concept = Concept(instance_data_dir=str(folder), instance_token="sks", class_token="toy")
    plan = make_plan([concept], Settings(), cache=cache)
    return len(plan.examples), len(plan.issues)


def _generate(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(_make, [folder] * count, range(count), chunksize=50))


def _make(folder: Path, number: int) -> None:
    """Colored blobs with grain, sides of 512 to 1500 pixels, each with a caption."""
    rng = random.Random(number)
    size = rng.randrange(512, 1501), rng.randrange(512, 1501)
    blobs = Image.frombytes("RGB", (9, 9), rng.randbytes(243)).resize(size, Image.Resampling.BICUBIC)
    grain = Image.effect_noise((256, 256), 30).convert("RGB").resize(size, Image.Resampling.BILINEAR)
    suffix = list(KINDS)[number % len(KINDS)]
    Image.blend(blobs, grain, 0.3).save(folder / f"{number}.{suffix}", **KINDS[suffix])
    (folder / f"{number}.txt").write_text(f"a sks toy, number {number}, soft light")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", help="folder with images, instead of generated ones")
    parser.add_argument("--count", type=int, default=10_000, help="number of generated images")
    parser.add_argument("--rounds", type=int, default=1, help="number of repetitions")
    parser.add_argument("--within", help="parent of the temporary folder")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
