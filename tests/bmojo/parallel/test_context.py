"""One sequence over several processes: output, gradients, sets and bytes are those of one process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from bmojo import BMojoConfig
from bmojo.training.parallel import ContextParallel, message_bytes
from tests.layers import MIXERS, RULES, effective, perturbed, predictors_of, tokens
from tests.tolerances import assert_close

CASES = [(mixer, predictor, rule) for mixer in MIXERS for predictor in predictors_of(mixer) for rule in RULES]
QUICK = [("mamba2", "conv", "top"), ("gated_kalmanet", "kalman", "threshold"), ("none", "conv", "random")]
LENGTH = 33


def layer_of(mixer, predictor, rule, **options):
    """All memories; windows longer than a part on four processes."""
    chosen = {
        "d_model": 8,
        "heads": 2,
        "window": 5,
        "chunk": 3,
        "eidetic": 4,
        "state_size": 3,
        "write_gate": True,
        "eidetic_norm": True,
        "false_alarm": 0.5,
        "rotary": True,
    }
    given = chosen | {"mixer": mixer, "predictor": predictor, "rule": rule} | options
    layer = perturbed(BMojoConfig(**effective(given)), seed=3)
    if hasattr(layer.mixer, "steps"):
        layer.mixer.steps = 160  # gradients are those of the exact solution
    return layer.train()  # the predictor's loss is attached


def passed(context, layer, u, weights, **given):
    """Output and gradients of this process's part, those of parameters summed over the processes."""
    layer.zero_grad()
    with context.along(layer, **(given or {"length": LENGTH})) as part:
        own = u[:, part].clone().requires_grad_()
        output = layer(own)
        (output * weights[:, part]).sum().backward()
    gradients = {}
    for name, parameter in layer.named_parameters():
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        if context.size > 1:
            dist.all_reduce(found)
        gradients[name] = found
    return output.detach(), own.grad, gradients


def of_cases(cases, options):
    """In each process: the parts of all cases, as arrays."""
    found = []
    for case in cases:
        context = ContextParallel()
        output, input_gradient, gradients = passed(context, layer_of(*case, **options), *data())
        arrays = {name: g.numpy() for name, g in gradients.items()}
        found.append((output.numpy(), input_gradient.numpy(), arrays, dict(context.sent)))
    return found


def data():
    return tokens(2, LENGTH), tokens(2, LENGTH, seed=9)


def compare(cases, answers, options):
    for number, case in enumerate(cases):
        layer = layer_of(*case, **options)
        output, input_gradient, gradients = passed(ContextParallel(), layer, *data())
        parts = [answer[number] for answer in answers]
        what = " ".join(case)
        assert_close(torch.cat([torch.tensor(p[0]) for p in parts], 1), output, what=what)
        scale = float(input_gradient.abs().max())
        found = torch.cat([torch.tensor(p[1]) for p in parts], 1)
        assert_close(found, input_gradient, "recurrence", what=what)
        for name, wanted in gradients.items():
            largest = max(scale, float(wanted.abs().max()))
            assert_close(parts[0][2][name], wanted, "recurrence", scale=largest, what=f"{what} {name}")
        own = message_bytes(layer.init_state(2))
        for rank, (*_, sent) in enumerate(parts):
            last = rank == len(parts) - 1
            assert sent.get("forward bytes", 0) == (0 if last else own["forward"])
            assert sent.get("backward bytes", 0) == (0 if rank == 0 else own["backward"])


class TestLayer:
    @pytest.mark.parametrize("options", [{}, {"eidetic_position": "edge", "tie_projections": False}])
    def test_two_processes_give_what_one_gives(self, two, options):
        cases = [c for c in QUICK if c[0] != "none" or not options]
        compare(cases, two.run(of_cases, cases, options), options)

    @pytest.mark.slow
    @pytest.mark.parametrize("mixer", MIXERS)
    def test_every_mixer_predictor_and_rule(self, two, four, mixer):
        cases = [case for case in CASES if case[0] == mixer]
        for pool in (two, four):
            compare(cases, pool.run(of_cases, cases, {}), {})
