"""CUDA graphs: the kernels of a forward and backward pass are recorded once for each shape of a batch, and replayed.

Starting the kernels one by one takes Python longer than a fast GPU takes to compute them. A graph computes with the
same memory each time: inputs are copied to where it reads them, and the gradients that it adds to stay in place
(https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dreambooth.errors import UserError
from dreambooth.memory.out_of_memory import is_out_of_memory
from dreambooth.models.conditioning import Conditioning
from dreambooth.settings import Settings
from dreambooth.settings.components import is_fused_backward, offloads_blocks
from dreambooth.training.objective import BatchInputs, Losses

MAX_GRAPHS = 32  # batches of other shapes are computed without one
_Compute = Callable[[BatchInputs, Conditioning], Losses]


class CaptureError(Exception):
    """The passes can't be recorded: they wait for the GPU, or use what a graph can't contain."""


def unavailable_reason(settings: Settings, device: torch.device) -> str:
    """Why graphs can't be used, as the end of a sentence; empty if they can."""
    if device.type != "cuda":
        return f"it is not available on {device.type}"
    excluded = {
        "offload_fraction": offloads_blocks(settings),
        "offload_activations": settings.offload_activations,
        "fused_backward": is_fused_backward(settings),
        "lora_unet_dropout": settings.use_lora and settings.lora_unet_dropout > 0,
        "base_precision=nf4": settings.use_lora and settings.base_precision == "nf4",
        "use_dream": settings.use_dream,
        "train_imagic": settings.train_imagic,
        "prior_loss_scale": settings.prior_loss_scale,  # another weight in each epoch
    }
    keys = [key for key, is_used in excluded.items() if is_used]
    return f"it can't be combined with {' and '.join(keys)}" if keys else ""


class CudaGraph:
    """Kernels on ``device`` that are recorded by :meth:`capture` and started together by :meth:`replay`.

    All graphs of a ``pool`` share memory: they don't run at the same time, and nothing that a graph leaves there is
    used after the next one has begun.
    """

    def __init__(self, device: torch.device, pool: Any) -> None:
        self._device, self._pool, self._graph = device, pool, torch.cuda.CUDAGraph()

    @staticmethod
    def new_pool() -> Any:
        return torch.cuda.graph_pool_handle()

    def capture(self, function: Callable[[], Losses]) -> Losses:
        """``function``, of which nothing is computed yet; its result has its values after each :meth:`replay`.

        Other threads, such as those of the host, may go on using the GPU.
        """
        stream = torch.cuda.Stream(self._device)
        with (
            torch.cuda.device(self._device),
            torch.cuda.graph(self._graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"),
        ):
            return function()

    def replay(self) -> None:
        self._graph.replay()


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A graph with the memory that it reads and writes: the losses, and the gradients of ``parameters``."""

    graph: CudaGraph
    batch: BatchInputs
    conditioning: Conditioning
    losses: Losses
    parameters: Sequence[nn.Parameter]

    def set_inputs(self, batch: BatchInputs, conditioning: Conditioning) -> None:
        for own, new in ((self.batch.tensors(), batch.tensors()), (self.conditioning.state(), conditioning.state())):
            for name, tensor in own.items():
                tensor.copy_(new[name])


class StepGraphs:
    """The graphs of a run, by the shapes of a batch and what else is the same each time.

    The first batch of a shape is computed without a graph: libraries load and choose their kernels there.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], device: torch.device) -> None:
        self._parameters, self._device = parameters, device
        self._used: dict[Hashable, list[nn.Parameter]] = {}  # that get gradients
        self._graphs: dict[Hashable, _Recorded] = {}
        self._gradients: dict[nn.Parameter, torch.Tensor] = {}  # that graphs add to
        self._pool: Any = None

    def backward(
        self, batch: BatchInputs, conditioning: Conditioning, constants: Hashable, compute: _Compute
    ) -> Losses:
        """The forward and backward pass of ``compute``, which may be called or replayed.

        ``constants``: all other values that it depends on, besides weights. Raises CaptureError, after which the
        gradients of this step are incomplete.
        """
        key = (constants, conditioning.lengths, _shapes(batch, conditioning))
        if key not in self._used:
            if len(self._used) >= MAX_GRAPHS:
                return compute(batch, conditioning)
            losses, self._used[key] = self._compute_alone(lambda: compute(batch, conditioning))
            return losses
        self._place_gradients(self._used[key])
        if key not in self._graphs:
            self._graphs[key] = self._record(batch, conditioning, self._used[key], compute)
        recorded = self._graphs[key]
        recorded.set_inputs(batch, conditioning)
        recorded.graph.replay()
        return _copied(recorded.losses)

    def release(self) -> None:
        """Free the memory of all graphs, which are recorded again when they are needed."""
        self._graphs.clear()
        self._gradients.clear()
        self._pool = None

    def _compute_alone(self, compute: Callable[[], Losses]) -> tuple[Losses, list[nn.Parameter]]:
        """The losses, and which parameters get gradients; these are added to those of earlier batches."""
        earlier = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        losses = compute()
        used = [parameter for parameter in self._parameters if parameter.grad is not None]
        for parameter, gradient in zip(self._parameters, earlier, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)
        return losses, used

    def _place_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Let gradients be where graphs add to them. What is there already from earlier batches is kept."""
        empty = []
        for parameter in parameters:
            if parameter not in self._gradients:
                self._gradients[parameter] = torch.zeros_like(parameter)
            own = self._gradients[parameter]
            if parameter.grad is None:
                empty.append(own)
            elif parameter.grad is not own:
                own.copy_(parameter.grad)
            parameter.grad = own
        if empty:
            torch._foreach_zero_(empty)

    def _record(
        self,
        batch: BatchInputs,
        conditioning: Conditioning,
        parameters: Sequence[nn.Parameter],
        compute: _Compute,
    ) -> _Recorded:
        batch, conditioning = batch.map(torch.clone), _cloned(conditioning)
        self._pool = self._pool or CudaGraph.new_pool()
        graph = CudaGraph(self._device, self._pool)
        with _as_capture_error():
            losses = graph.capture(lambda: compute(batch, conditioning))
        return _Recorded(graph, batch, conditioning, losses, parameters)


@contextlib.contextmanager
def _as_capture_error() -> Iterator[None]:
    """Of the errors of a capture, those that say more than that it has failed are raised as they are."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause:  # the end of a capture that has failed is an error itself
            if is_out_of_memory(cause) or isinstance(cause, UserError):
                raise cause from None
            first, cause = cause, cause.__context__
        raise CaptureError(str(first)) from error


def _shapes(batch: BatchInputs, conditioning: Conditioning) -> Hashable:
    tensors = [*batch.tensors().items(), *conditioning.state().items()]
    return tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors)


def _cloned(conditioning: Conditioning) -> Conditioning:
    state = {name: tensor.clone() for name, tensor in conditioning.state().items()}
    return Conditioning.of_state(state, conditioning.lengths)


def _copied(losses: Losses) -> Losses:
    """The next replay writes to the tensors of a graph."""
    total = losses.total.clone()
    instance = total if losses.instance is losses.total else losses.instance.clone()
    return Losses(total, instance, None if losses.prior is None else losses.prior.clone())
