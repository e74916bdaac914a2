"""`torch.vmap` over the operators: what is mapped joins the batch, forward and for gradients."""

from __future__ import annotations

from functools import partial

import bmojo_kernels as bk
import pytest
import torch

from tests.tolerances import assert_close


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def recurrence(a, b, h0):
    return bk.linear_scan(torch.sigmoid(a), b, h0)[0]


def state_space(x, log_decay, B, C):
    return bk.ssd_scan(x, -log_decay.exp(), B, C, chunk=4)[0]


def delta_rule(q, k, v, log_decay, beta):
    k = torch.nn.functional.normalize(k, dim=-1)
    return bk.gated_delta_scan(q, k, v, -log_decay.exp(), beta.sigmoid())[0]


def attention(q, k, v, kf, vf):
    index = torch.tensor([[[-1, -1], [-1, 0], [1, 3]]]).expand(len(q), -1, -1)
    return bk.memory_attention(q, k, v, window=3, fading=(kf, vf), eidetic_index=index, chunk=3)[0]


CASES = {
    "linear_scan": (recurrence, [(2, 7, 3), (2, 7, 3), (2, 3)]),
    "ssd_scan": (state_space, [(2, 9, 2, 3), (2, 9, 2), (2, 9, 4), (2, 9, 4)]),
    "gated_delta_scan": (delta_rule, [(2, 9, 2, 4)] * 2 + [(2, 9, 2, 3), (2, 9, 2), (2, 9, 2)]),
    "memory_attention": (attention, [(2, 8, 2, 4)] + [(2, 8, 1, 4)] * 4),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shared", [False, True])
def test_mapped_is_one_after_the_other(name, shared):
    call, shapes = CASES[name]
    inputs = [numbers(5, *shape) for shape in shapes]
    axes = [0] * len(inputs)
    if shared:  # the first is the same for all
        inputs[0], axes[0] = inputs[0][0], None
    found = torch.vmap(call, in_dims=tuple(axes))(*inputs)
    for i in range(5):
        one = [x if axis is None else x[i] for x, axis in zip(inputs, axes, strict=True)]
        assert_close(found[i], call(*one))


# The gradients of attention come as a list, for which torch takes no rule.
@pytest.mark.parametrize("name", [name for name in CASES if name != "memory_attention"])
def test_many_gradients_at_once(name):
    call, shapes = CASES[name]
    inputs = [numbers(*shape).requires_grad_() for shape in shapes]
    out = call(*inputs)
    weights = numbers(3, *out.shape)
    found = torch.autograd.grad(out, inputs, weights, is_grads_batched=True, retain_graph=True)
    for i, weight in enumerate(weights):
        expected = torch.autograd.grad(out, inputs, weight, retain_graph=True)
        for x, y in zip(found, expected, strict=True):
            assert_close(x[i], y)


def test_packed_sequences_are_refused():
    bounds = torch.tensor([0, 3, 7])
    call = partial(bk.linear_scan, cu_seqlens=bounds)
    with pytest.raises(ValueError, match="packed"):
        torch.vmap(call)(numbers(2, 1, 7, 3), numbers(2, 1, 7, 3))
