"""Every optimizer: resumes exactly from a snapshot, samples with the right weights, is refused if unavailable."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import inspect

import pytest
import torch

from dreambooth.runs.consistency import conflicts, likely_mistakes, too_short
from dreambooth.settings import Folders, ModelFolder, Settings
from dreambooth.settings.arguments import format_arguments, split_arguments
from dreambooth.settings.optimizer_arguments import ARGUMENTS
from dreambooth.training import optimizer_kinds
from dreambooth.training.optimizer_kinds import (
    OPTIMIZER_KINDS,
    missing_requirements,
    parse_arguments,
    unavailable_reason,
)
from dreambooth.training.optimizers import (
    Stepper,
    inference_weights,
    load_optimizer_state,
    optimizer_state,
    parameter_groups,
    set_learning_rates,
)
from dreambooth.training.snapshot import Position, Snapshot, read_snapshot, write_snapshot

CPU = torch.device("cpu")
STEPS, STOP_AT, TEXT_STOPS = 9, 4, 6


def made_here(name: str) -> bool:
    return name not in missing_requirements()


class Toy:
    """Two groups of weights with the same targets, trained through the real code."""

    def __init__(self, name: str, weights: list[torch.Tensor] | None = None) -> None:
        generator = torch.Generator().manual_seed(3)
        shapes = [(96, 64), (7,), (5000,), (64, 96), (3, 2, 3, 3)]
        start = weights or [torch.randn(shape, generator=generator) for shape in shapes]
        self.parameters = [torch.nn.Parameter(w.clone()) for w in start]
        rate = 1.0 if OPTIMIZER_KINDS[name].estimates_lr else 1e-2
        self.settings = Settings(
            optimizer=name, learning_rate=rate, txt_learning_rate=rate if OPTIMIZER_KINDS[name].estimates_lr else 3e-3,
            lr_scheduler="cosine", lr_warmup_steps=2, max_grad_norm=1.0,
        )  # fmt: skip
        groups = parameter_groups(self.settings, self.parameters[:3], self.parameters[3:])
        self.optimizer = optimizer_kinds.build_optimizer(name, groups)
        self.stepper = Stepper(self.optimizer, self.settings)

    def step(self, step: int) -> None:
        set_learning_rates(self.optimizer, self.settings, step, STEPS)
        generator = torch.Generator().manual_seed(step)
        for number, parameter in enumerate(self.parameters):
            noise = torch.randn(parameter.shape, generator=generator)
            if number < 3 or step < TEXT_STOPS:
                parameter.grad = parameter.detach() + 0.1 * noise
        self.stepper.step()


@pytest.mark.parametrize("name", OPTIMIZER_KINDS)
def test_goes_on_exactly_from_a_snapshot(name, tmp_path):
    if not made_here(name):
        pytest.skip(f"{OPTIMIZER_KINDS[name].library} is not installed")
    alone = Toy(name)
    begin = copy.deepcopy(alone.parameters)
    for step in range(STEPS):
        alone.step(step)
    stopped = Toy(name)
    for step in range(STOP_AT):
        stopped.step(step)
    model = ModelFolder(Folders(tmp_path), "toy")
    weights = {str(i): p.detach() for i, p in enumerate(stopped.parameters)}
    write_snapshot(model, 1, Snapshot(Position(), weights, optimizer_state(stopped.optimizer)), keep=0)
    found = read_snapshot(model)
    resumed = Toy(name, [found.tensors[str(i)] for i in range(len(weights))])
    load_optimizer_state(resumed.optimizer, found.optimizer)
    for step in range(STOP_AT, STEPS):
        resumed.step(step)
    for a, b, start in zip(alone.parameters, resumed.parameters, begin, strict=True):
        assert torch.equal(a, b)
        assert torch.isfinite(a).all() and not torch.equal(a, start)


@pytest.mark.parametrize("name", OPTIMIZER_KINDS)
def test_a_step_that_is_not_finite_changes_nothing(name):
    if not made_here(name):
        pytest.skip(f"{OPTIMIZER_KINDS[name].library} is not installed")
    toy = Toy(name)
    for step in range(3):
        toy.step(step)
    before = [p.detach().clone() for p in toy.parameters]
    for parameter in toy.parameters:
        parameter.grad = torch.full_like(parameter, float("nan"))
    assert not torch.isfinite(toy.stepper.step())
    assert all(torch.equal(a, b) for a, b in zip(toy.parameters, before, strict=True))


@pytest.mark.skipif("Schedule-Free AdamW" in missing_requirements(), reason="pytorch-optimizer is not installed")
def test_schedule_free_samples_with_its_average_and_continues_training():
    """arXiv:2405.15682: x is the average of the z, weighted by the square of the largest rate so far."""
    toy = Toy("Schedule-Free AdamW")
    zs, weights = [], []
    for step in range(STEPS):
        toy.step(step)
        zs.append(toy.optimizer.state[toy.parameters[0]]["z"].double().clone())
        weights.append(toy.optimizer.param_groups[0]["lr_max"] ** 2)
    average = sum(w * z for w, z in zip(weights, zs, strict=True)) / sum(weights)
    stepping = [p.detach().clone() for p in toy.parameters]
    storage = [p.data_ptr() for p in toy.parameters]
    with inference_weights(toy.optimizer):
        assert [p.data_ptr() for p in toy.parameters] == storage  # no second copy on the GPU
        torch.testing.assert_close(toy.parameters[0].double(), average, rtol=1e-4, atol=1e-5)
        assert not torch.equal(toy.parameters[0], stepping[0])
    assert all(torch.equal(a, b) for a, b in zip(toy.parameters, stepping, strict=True))
    assert all(group["train_mode"] for group in toy.optimizer.param_groups)


@pytest.mark.skipif("Prodigy" in missing_requirements(), reason="pytorch-optimizer is not installed")
@pytest.mark.parametrize("optimizer", ["Prodigy", "Schedule-Free AdamW"])
def test_a_disturbed_run_equals_one_left_alone(train, models_dir, created, optimizer):
    import shutil

    chosen = {
        "optimizer": optimizer, "lora_learning_rate": 1.0 if optimizer == "Prodigy" else 1e-2, "seed": 5,
        "stop_text_encoder": 0.5,
    }  # fmt: skip
    chosen["lora_txt_learning_rate"] = chosen["lora_learning_rate"]
    left_alone = train(**chosen).weights()
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)

    def disturb(event, controls):
        if event["kind"] == "step" and event["step"] == 2:
            controls.sample_now()
            controls.save_now()
            controls.cancel()

    train(on=disturb, **chosen)
    resumed = train(
        resume="latest", on=lambda e, c: e["kind"] == "step" and e["step"] == 3 and c.sample_now(), **chosen
    )
    assert "differs from the original" not in resumed.messages
    weights = resumed.weights()
    assert all(torch.equal(weights[key], left_alone[key]) for key in left_alone)


def test_what_is_not_there_is_not_listed_and_refused_in_words(monkeypatch):
    there = importlib.util.find_spec
    lacking = ("pytorch_optimizer", "bitsandbytes")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in lacking else there(name))
    assert set(OPTIMIZER_KINDS) - set(missing_requirements()) == {"Torch AdamW", "Adafactor", "SGD Nesterov"}
    (messages,) = conflicts(Settings(optimizer="CAME"), CPU)
    assert messages == (
        "optimizer: CAME can't be used: it needs pytorch-optimizer (pip install pytorch-optimizer). Choose Torch AdamW."
    )
    (messages,) = conflicts(Settings(optimizer="8bit Lion"), CPU)
    assert messages.startswith("optimizer: 8bit Lion can't be used: it needs bitsandbytes (pip install bitsandbytes).")


def test_a_library_that_does_not_work_says_so(monkeypatch):
    """In one sentence, without the advice and the lists that torch adds."""

    def unsupported(kind):
        raise NotImplementedError("Could not run 'aten::add' on the 'XPU' backend. This could be because\n[CPU, Meta].")

    monkeypatch.setattr(optimizer_kinds, "_optimizer_class", unsupported)
    optimizer_kinds._take_steps.cache_clear()
    reason = unavailable_reason("SGD Nesterov", CPU)
    says = "torch.optim does not work with this torch and cpu (Could not run 'aten::add' on the 'XPU' backend)."
    assert reason == says


def test_a_failure_is_not_remembered(monkeypatch):
    """A GPU that was full while an optimizer was tried has room for it later."""
    build, full = optimizer_kinds.build_optimizer, [True]

    def sometimes_full(*args, **kwargs):
        if full:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return build(*args, **kwargs)

    monkeypatch.setattr(optimizer_kinds, "build_optimizer", sometimes_full)
    optimizer_kinds._take_steps.cache_clear()
    for name in ("Torch AdamW", "SGD Nesterov"):
        (message,) = conflicts(Settings(optimizer=name), CPU)
        assert message.endswith("no memory is left on the device to try it. Close other programs, then try again.")
    full.clear()
    for name in ("Torch AdamW", "SGD Nesterov"):
        assert not conflicts(Settings(optimizer=name), CPU)
    monkeypatch.setattr(optimizer_kinds, "build_optimizer", lambda *args, **kwargs: pytest.fail("tried again"))
    assert not conflicts(Settings(optimizer="SGD Nesterov"), CPU)


STANDARD = {
    "Torch AdamW": ("weight_decay=0.1 betas=.9,.99 eps=1e-06", {"betas": (0.9, 0.99), "eps": 1e-6}),
    "Prodigy": (
        "decouple=True weight_decay=0.01 d_coef=2 use_bias_correction=True safeguard_warmup=False betas=0.9,0.99",
        {"d_coef": 2, "bias_correction": True, "safeguard_warmup": False, "betas": (0.9, 0.99)},
    ),
    "AdamW Dadaptation": (
        ["decouple=False", "use_bias_correction=True", "d0=1e-5", "growth_rate=1.02"],
        {"weight_decouple": False, "bias_correction": True, "d0": 1e-5, "growth_rate": 1.02},
    ),
    "Adan Dadaptation": ('["no_prox=True"]', {"weight_decouple": True}),
    "SGD Dadaptation": ("momentum=0.5;log_every=10", {"momentum": 0.5}),
    "Adafactor": (
        "relative_step=False, scale_parameter=False, warmup_init=False, eps=(1e-30, 1e-3)",
        {"scale_parameter": False, "eps": (1e-30, 1e-3)},
    ),
    "SGD Nesterov": ("momentum=0.8", {"momentum": 0.8}),
    "CAME": ("betas=0.9,0.999,0.9999 eps=1e-30,1e-16", {"betas": (0.9, 0.999, 0.9999), "eps1": 1e-30, "eps2": 1e-16}),
    "Lion": ({"betas": [0.95, 0.98], "use_triton": "False"}, {"betas": (0.95, 0.98)}),
    "Schedule-Free AdamW": ("warmup_steps=10 r=0.5", {"warmup_steps": 10, "r": 0.5}),
}


@pytest.mark.parametrize("name", STANDARD)
def test_arguments_of_sd_scripts_have_their_effect(name):
    """As people write them there, under the names of the libraries that are used there."""
    text, expected = STANDARD[name]
    more = format_arguments(split_arguments(text)[0]) if not isinstance(text, str) else text
    assert parse_arguments(name, more) == expected
    if not made_here(name):
        pytest.skip(f"{OPTIMIZER_KINDS[name].library} is not installed")
    assert unavailable_reason(name, CPU, more=more) == ""
    optimizer = optimizer_kinds.build_optimizer(name, [{"params": Toy(name).parameters}], more=more)
    group = optimizer.param_groups[0]
    assert {key: value for key, value in expected.items() if key in group and group[key] != value} == {}
    assert group.get("d", 0) == expected.get("d0", group.get("d", 0))


@pytest.mark.parametrize("name", OPTIMIZER_KINDS)
def test_every_listed_argument_exists(name):
    if not made_here(name):
        pytest.skip(f"{OPTIMIZER_KINDS[name].library} is not installed")
    kind = OPTIMIZER_KINDS[name]
    cls = optimizer_kinds.FusedAdamW if name == "Torch AdamW" else optimizer_kinds._optimizer_class(kind)
    assert ARGUMENTS[name].kinds.keys() | kind.fixed.keys() <= inspect.signature(cls).parameters.keys()


def test_a_weight_decay_among_the_arguments_replaces_both_settings():
    given = Settings(optimizer_args="decouple=True weight_decay=0.25", optimizer="Prodigy", learning_rate=1.0,
                     txt_learning_rate=1.0)  # fmt: skip
    weights = Toy("SGD Nesterov").parameters
    assert [group["weight_decay"] for group in parameter_groups(given, weights[:3], weights[3:])] == [0.25, 0.25]
    assert [line for line in likely_mistakes(given) if "weight_decay" in line] == [
        "weight_decay: weight_decay=0.25 in optimizer_args replaces 0.01.",
        "tenc_weight_decay: weight_decay=0.25 in optimizer_args replaces 0.01.",
    ]
    same = dataclasses.replace(given, weight_decay=0.25, tenc_weight_decay=0.25)
    assert not likely_mistakes(same)


def test_arguments_of_the_optimizers_own():
    assert parse_arguments("Torch AdamW", "betas=(0.8, 0.9), eps=1e-6") == {"betas": (0.8, 0.9), "eps": 1e-6}
    given = Settings(optimizer_args="betas=(0.8, 0.9)")
    optimizer = optimizer_kinds.build_optimizer(
        "Torch AdamW", [{"params": Toy("SGD Nesterov").parameters}], more="betas=(0.8, 0.9)"
    )
    assert optimizer.defaults["betas"] == (0.8, 0.9) and conflicts(given, CPU) == []


@pytest.mark.parametrize(
    ("more", "messages"),
    [
        ("beta=0.9", "does not support beta; it supports betas, eps"),
        ("lr=1", "set the learning rate under Learning Rate instead"),
        ("betas", "does not have the form"),
        ("betas=__import__('os')", "does not have the form"),
        ("**{}", "does not have the form"),
        ("eps='x'", "does not have the form"),
        ("eps=-1", "eps=-1 must be a number above 0"),
        ("betas=0.9", "betas=0.9 must be two numbers"),
        ("amsgrad=True", "amsgrad=True is not supported for Torch AdamW"),
    ],
)
def test_other_arguments_are_refused(more, messages):
    (problem,) = conflicts(Settings(optimizer_args=more), CPU)
    assert messages in problem and problem.startswith("optimizer")


def test_conflicting_settings_are_reported():
    no_rate = Settings(optimizer="Torch AdamW", lr_scheduler="adafactor")
    assert "needs the optimizer Adafactor" in conflicts(no_rate, CPU)[0]
    finds = Settings(optimizer="Prodigy", learning_rate=1.0, txt_learning_rate=0.5)
    assert any(
        messages.startswith("txt_learning_rate: Prodigy uses one learning rate") for messages in conflicts(finds, CPU)
    )
    assert "estimates the learning rate itself" in likely_mistakes(dataclasses.replace(finds, learning_rate=1e-4))[0]
    assert likely_mistakes(Settings()) == []
    assert "takes 500 of 100 steps" in too_short(Settings(lr_warmup_steps=500), 100)[0]
    assert too_short(Settings(lr_warmup_steps=0.5), 100) == []
    assert (
        "constant learning rate" in likely_mistakes(Settings(optimizer="Schedule-Free AdamW", lr_scheduler="cosine"))[0]
    )


def test_adafactor_chooses_its_own_rate_as_in_its_paper():
    """The schedule "adafactor" is transformers' own relative step, as a function of the step."""
    from transformers.optimization import Adafactor

    ours, theirs = Toy("Adafactor"), Toy("Adafactor")
    settings = dataclasses.replace(ours.settings, lr_scheduler="adafactor")
    groups = parameter_groups(settings, ours.parameters, [])
    optimizer = optimizer_kinds.build_optimizer("Adafactor", groups, "adafactor")
    reference = Adafactor(theirs.parameters, lr=None, relative_step=True, weight_decay=settings.weight_decay)
    for step in range(5):
        for a, b in zip(ours.parameters, theirs.parameters, strict=True):
            a.grad, b.grad = a.detach().clone(), b.detach().clone()
        set_learning_rates(optimizer, settings, step, 5)
        optimizer.step()
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters, theirs.parameters, strict=True))
