"""Data parallelism of single-threaded workers that average gradients (gloo).

On CPUs this takes far less time per image than one process with two threads, which spin at the barriers of small
layers.
"""

import os
import subprocess
import sys
import time

import torch
import torch.distributed as dist

RANK = int(os.environ.get("RANK", 0))
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", 1))
# glibc keeps freed memory for the next step instead of returning it to the system.
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000"}


def join():
    """Join the process group as one of the workers."""
    torch.set_num_threads(1)
    if WORLD_SIZE > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://127.0.0.1:{os.environ['MASTER_PORT']}",
            rank=RANK,
            world_size=WORLD_SIZE,
        )


def broadcast_parameters(parameters):
    """Copy rank 0's weights to all workers."""
    if WORLD_SIZE > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, 0)


def average_gradients(parameters, progress):
    """Average .grad over the workers. Returns rank 0's `progress`, so that all stop at the same step."""
    if WORLD_SIZE == 1:
        return progress
    gradients = [parameter.grad for parameter in parameters]
    # float32 is precise enough for the progress, and one message is cheaper than two.
    flat = torch.cat([g.reshape(-1) for g in gradients] + [torch.tensor([progress if RANK == 0 else 0.0])])
    dist.all_reduce(flat)
    averaged = (flat[:-1] / WORLD_SIZE).split([g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [a.view_as(g) for a, g in zip(averaged, gradients, strict=True)])
    return flat[-1].item()


def launch(command, workers, port=29611):
    """Run `command` (without the interpreter) once per worker; SystemExit if one fails."""
    environment = {
        **os.environ,
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "OMP_NUM_THREADS": "1",
        **KEPT_MEMORY,
        "WORLD_SIZE": str(workers),
        "MASTER_PORT": str(port),
    }
    processes = [
        subprocess.Popen([sys.executable, *command], env={**environment, "RANK": str(rank)}) for rank in range(workers)
    ]
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            break  # the others would wait for it forever
        time.sleep(0.5)
    failed = any(process.poll() for process in processes)
    for process in processes:
        if failed and process.poll() is None:
            process.terminate()
    if failed:
        raise SystemExit(f"a worker of {' '.join(command)} failed")


class MovingAverage:
    """Exponential moving average of parameters, with a decay that warms up."""

    def __init__(self, parameters, decay):
        self.parameters, self.decay, self.steps = parameters, decay, 0
        self.values = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self):
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.values, self.parameters, 1 - decay)

    @torch.no_grad()
    def swap(self):
        """Exchange parameters and averages. Twice is a no-op."""
        current = [parameter.detach().clone() for parameter in self.parameters]
        torch._foreach_copy_(self.parameters, self.values)
        torch._foreach_copy_(self.values, current)
