"""`gated_kalman_scan`: least squares against dense ridge regression, gradients against a direct solve."""

from __future__ import annotations

from itertools import pairwise

import bmojo_kernels as bk
import pytest
import torch
from bmojo_kernels.gated_kalman_scan import torch_op
from bmojo_kernels.gated_kalman_scan.naive import SMALLEST, chebyshev, kalman_solve_naive
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.strategies import seeds
from tests.tolerances import assert_close

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
NAMES = ("q", "k", "v", "log_decay", "alpha", "root", "U")
# (batch, length, heads, keys, values)
SHAPES = [(1, 1, 1, 1, 1), (2, 2, 2, 5, 3), (1, 63, 2, 5, 3), (1, 64, 1, 16, 16), (1, 65, 2, 64, 17)]
# Contraction 0.754 a step at ridge 0.02: below rounding in float64.
ENOUGH = 160


def inputs(batch, length, heads, keys, values, dtype=torch.float64, seed=0, grad=False):
    rng = torch.Generator().manual_seed(seed)
    wide = torch.float32 if dtype is torch.bfloat16 else dtype

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=rng)

    x = {
        "q": F.normalize(normal(batch, length, heads, keys), dim=-1).to(dtype),
        "k": F.normalize(normal(batch, length, heads, keys), dim=-1).to(dtype),
        "v": normal(batch, length, heads, values).to(dtype),
        "log_decay": (-0.3 * normal(batch, length, heads).abs()).to(wide),
        "alpha": torch.sigmoid(normal(batch, length, heads)).to(wide),
        "root": normal(batch, heads, keys, keys).to(wide),
        "U": normal(batch, heads, values, keys).to(wide),
    }
    return {name: value.requires_grad_(grad) for name, value in x.items()}


def scan(x, **options):
    """Outputs, H, U, innovations and weights; the first H is a root times itself, so that it is symmetric."""
    start = x["root"] @ x["root"].mT, x["U"]
    o, (H, U), e, weight = bk.gated_kalman_scan(
        *(x[name] for name in NAMES[:5]), start, innovations=True, **options
    )
    return o, H, U, e, weight


def written(x, ridge=0.02):
    """The same in float64 with direct solves, step by step."""
    q, k, v, log_decay, alpha, root, U = (x[name].double() for name in NAMES)
    solved, H = kalman_solve_naive(k, log_decay, torch.stack([q, k], 3), root @ root.mT, ridge, None)
    outputs, left = [], []
    for t in range(q.shape[1]):
        U = torch.exp(log_decay[:, t, :, None, None]) * U + v[:, t, :, :, None] * k[:, t, :, None, :]
        read, gain = solved[:, t, :, 0], solved[:, t, :, 1]
        query = q[:, t] + alpha[:, t, :, None] * (read - q[:, t])
        outputs.append((U @ query.unsqueeze(-1)).squeeze(-1))
        left.append(v[:, t] - (U @ gain.unsqueeze(-1)).squeeze(-1))
    weight = 1 - (k * solved[:, :, :, 1]).sum(-1)
    return torch.stack(outputs, 1), H, U, torch.stack(left, 1), weight


def gradients(outputs, weights, x):
    loss = sum((one.double() * weight).sum() for one, weight in zip(outputs, weights, strict=True))
    return torch.autograd.grad(loss, list(x.values()))


def ridge_regression(k, v, gamma, ridge):
    """Dense estimate at each step, all pairs weighted by how far they have faded: (T, V, K)."""
    estimates = []
    for t in range(1, len(k) + 1):
        weights = torch.stack([gamma[s + 1 : t].prod() for s in range(t)])
        keys, values = k[:t] * weights.sqrt()[:, None], v[:t] * weights.sqrt()[:, None]
        size = ridge * torch.linalg.matrix_norm(keys.T @ keys)
        rows = torch.cat([keys, size.sqrt() * torch.eye(k.shape[1], dtype=k.dtype)])
        wanted = torch.cat([values, torch.zeros(k.shape[1], v.shape[1], dtype=v.dtype)])
        estimates.append(torch.linalg.lstsq(rows, wanted, driver="gelsd").solution.T)
    return torch.stack(estimates)


@pytest.mark.parametrize("ridge", [0.02, 0.3])
def test_it_is_the_recursive_least_squares_estimator(ridge):
    x = inputs(1, 40, 1, 5, 3)
    q, k, v, g = (x[name][0, :, 0] for name in NAMES[:4])
    estimates = ridge_regression(k, v, torch.exp(g), ridge)
    o, _ = bk.gated_kalman_scan(*(x[name] for name in NAMES[:4]), ridge=ridge, steps=ENOUGH)
    assert_close(o[0, :, 0], (estimates @ q.unsqueeze(-1)).squeeze(-1), "iterative")


def test_innovations_are_prior_errors_weighted_by_the_prior_covariance():
    """`e = w (v - v̂)`, `w = 1 / (1 + kᵀ P k)`, with P and v̂ from before the step but with its ridge."""
    x = inputs(1, 40, 2, 5, 3)
    _, H, U, e, weight = scan(x, steps=ENOUGH)
    H, U = x["root"][0] @ x["root"][0].mT, x["U"][0]
    for t in range(40):
        decay, k, v = (x[name][0, t] for name in ("log_decay", "k", "v"))
        H, U = torch.exp(decay)[:, None, None] * H, torch.exp(decay)[:, None, None] * U
        after = H + k[:, :, None] * k[:, None, :]
        ridge = 0.02 * torch.linalg.matrix_norm(after)[:, None, None] * torch.eye(5).double()
        P = torch.linalg.inv(H + ridge)
        share = 1 / (1 + (k * (P @ k.unsqueeze(-1)).squeeze(-1)).sum(-1))
        error = v - (U @ P @ k.unsqueeze(-1)).squeeze(-1)
        assert_close(weight[0, t], share, "iterative")
        assert_close(e[0, t], share[:, None] * error, "iterative")
        H, U = after, U + v[:, :, None] * k[:, None, :]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_a_direct_solve(shape, dtype):
    x = inputs(*shape, DTYPES[dtype], grad=True)
    found, expected = scan(x, steps=ENOUGH), written(x)
    assert found[0].dtype == x["v"].dtype
    assert {one.dtype for one in found[1:]} == {x["U"].dtype}
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, "recurrence")
    weights = [
        torch.randn_like(one).to(other.dtype).double() for one, other in zip(expected, found, strict=True)
    ]
    wanted = gradients(expected, weights, x)
    for name, one, other in zip(NAMES, gradients(found, weights, x), wanted, strict=True):
        assert_close(one, other, "recurrence", dtype=dtype, what=name)


@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_so_many_steps_are_those_of_the_iteration(steps):
    x = inputs(1, 40, 2, 20, 3)
    found = scan(x, steps=steps)
    start = x["root"] @ x["root"].mT, x["U"]
    naive = bk.gated_kalman_scan(
        *(x[name] for name in NAMES[:5]), start, innovations=True, steps=steps, backend="naive"
    )
    for one, other in zip(found, (naive[0], *naive[1], *naive[2:]), strict=True):
        assert_close(one, other)


def test_thirty_steps_are_as_near_as_the_condition_number_says():
    x = inputs(1, 64, 1, 32, 3)
    k, q, g = (x[name] for name in ("k", "q", "log_decay"))
    H0 = torch.zeros(1, 1, 32, 32).double()
    exact, H = kalman_solve_naive(k, g, q.unsqueeze(3), H0, 0.02, None)
    found, _ = torch_op.kalman_solve(k, g, q.unsqueeze(3), H0, None, 0.02, 30)
    condition = (1 + 0.02) / 0.02
    rate = (condition**0.5 - 1) / (condition**0.5 + 1)
    norms = (found - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert norms.max() < 2 * rate**30 * condition**0.5
    assert_close(chebyshev(H, 0.02, q[:, -1].unsqueeze(2), 30)[:, :, 0], found[:, -1, :, 0])


def test_alpha_goes_from_linear_attention_to_regression():
    x = inputs(1, 40, 2, 5, 3)
    arguments = [x[name] for name in NAMES[:4]]
    none = bk.gated_kalman_scan(*arguments, torch.zeros_like(x["alpha"]))[0]
    assert_close(none, bk.ssd_scan(x["v"], x["log_decay"], x["k"], x["q"])[0])
    whole = bk.gated_kalman_scan(*arguments, torch.ones_like(x["alpha"]))[0]
    assert_close(whole, bk.gated_kalman_scan(*arguments)[0])


def test_gradcheck():
    x = inputs(1, 6, 1, 3, 2, grad=True)
    assert torch.autograd.gradcheck(
        lambda *v: scan(dict(zip(NAMES, v, strict=True)), steps=ENOUGH), [*x.values()]
    )


def test_torch_knows_the_operator():
    x = inputs(2, 36, 2, 3, 2, grad=True)
    H = torch.zeros(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    arguments = (x["k"], x["log_decay"], x["q"].detach().unsqueeze(3).requires_grad_(), H)
    torch.library.opcheck(torch.ops.bmojo.kalman_solve.default, (*arguments, None, 0.02, ENOUGH, True))
    packed = [m.detach().flatten(0, 1).unsqueeze(0).requires_grad_() for m in arguments[:3]]
    H = torch.zeros(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    bounds = torch.tensor([0, 5, 5, 72])
    torch.library.opcheck(torch.ops.bmojo.kalman_solve.default, (*packed, H, bounds, 0.02, ENOUGH, True))


@pytest.mark.slow
def test_compiles_and_exports_as_one_graph():
    x = inputs(1, 9, 2, 3, 4, torch.float32, grad=True)

    def model(*v):
        return sum(one.square().sum() for one in scan(dict(zip(NAMES, v, strict=True))))

    found = torch.autograd.grad(torch.compile(model, fullgraph=True)(*x.values()), list(x.values()))
    for one, other in zip(found, torch.autograd.grad(model(*x.values()), list(x.values())), strict=True):
        assert_close(one, other, "recurrence")

    class Model(torch.nn.Module):
        def forward(self, *v):
            return model(*v)

    values = tuple(v.detach() for v in x.values())
    assert_close(torch.export.export(Model(), values).module()(*values), model(*values))


@given(cut=st.integers(0, 60), seed=seeds)
@settings(max_examples=15)
def test_chunks_of_a_sequence_give_the_full_pass(cut, seed):
    x = inputs(1, 60, 2, 7, 3, torch.float32, seed)
    full = scan(x)
    arguments = [x[name] for name in NAMES[:5]]
    start = x["root"] @ x["root"].mT, x["U"]
    head, carried = bk.gated_kalman_scan(*(m[:, :cut] for m in arguments), start)
    tail, (H, U) = bk.gated_kalman_scan(*(m[:, cut:] for m in arguments), carried)
    assert_close(torch.cat([head, tail], 1), full[0])
    assert_close(H, full[1])
    assert_close(U, full[2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_give_the_full_pass(dtype):
    x = inputs(2, 40, 2, 5, 4, DTYPES[dtype])
    full = scan(x)
    state, found = (x["root"] @ x["root"].mT, x["U"]), []
    for t in range(40):
        before = [m.clone() for m in state]
        *now, alpha = (x[name][:, t] for name in NAMES[:5])
        o, after, e, weight = bk.gated_kalman_step(*now, state, alpha)
        assert all(torch.equal(one, other) for one, other in zip(state, before, strict=True))
        found.append((o, e, weight))
        state = after
    for one, other in zip(zip(*found, strict=True), (full[0], *full[3:]), strict=True):
        assert_close(torch.stack(one, 1), other)
    assert_close(state[0], full[1])
    assert_close(state[1], full[2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_sequences_are_as_each_alone(dtype):
    lengths = [5, 0, 32, 1, 40]
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    x = inputs(1, sum(lengths), 2, 5, 4, DTYPES[dtype], grad=True)
    x |= {name: inputs(5, 1, 2, 5, 4, DTYPES[dtype], 3, True)[name] for name in ("root", "U")}
    found = scan(x, cu_seqlens=bounds)
    parts = [
        scan(
            {name: x[name][:, low:high] for name in NAMES[:5]}
            | {name: x[name][i : i + 1] for name in NAMES[5:]}
        )
        for i, (low, high) in enumerate(pairwise(bounds.tolist()))
    ]
    expected = [
        torch.cat(piece, axis) for piece, axis in zip(zip(*parts, strict=True), (1, 0, 0, 1, 1), strict=True)
    ]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    weights = [torch.randn_like(one).double() for one in expected]
    wanted = gradients(expected, weights, x)
    for name, one, other in zip(NAMES, gradients(found, weights, x), wanted, strict=True):
        assert_close(one, other, what=name)


def test_numbers_of_threads_do_not_matter():
    x = inputs(1, 60, 6, 16, 16, torch.float32, grad=True)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outputs = scan(x)
            found.append([*outputs, *torch.autograd.grad(sum(m.sum() for m in outputs), list(x.values()))])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert_close(two, one)


def test_every_output_is_written(monkeypatch):
    """Memory that was not asked to be anything holds NaN here."""
    x = inputs(2, 40, 2, 5, 4, grad=True)
    monkeypatch.setattr(torch_op, "empty_like", lambda m: torch.full(m.shape, torch.nan, dtype=m.dtype))
    found, expected = scan(x, steps=ENOUGH), written(x)
    weights = [torch.randn_like(one) for one in expected]
    for one, other in zip(gradients(found, weights, x), gradients(expected, weights, x), strict=True):
        assert_close(one, other, "recurrence")


@pytest.mark.parametrize("shape", [(2, 0, 3, 4, 2), (0, 5, 3, 4, 2)])
def test_nothing_in_nothing_out(shape):
    x = inputs(*shape, grad=True)
    o, H, U, e, weight = scan(x)
    assert o.shape == e.shape == (*shape[:3], shape[4])
    assert weight.shape == shape[:3]
    assert_close(H, x["root"] @ x["root"].mT, "bitwise")
    assert_close(U, x["U"], "bitwise")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gates_that_are_shut_or_open_and_keys_that_are_zero(dtype):
    x = inputs(1, 70, 3, 5, 4, DTYPES[dtype])
    x["log_decay"][:, :, 0] = -1e4
    x["log_decay"][:, :, 1] = 0
    x["log_decay"][:, ::7, 2] = -1e4
    x["k"][:, ::5] = 0
    x = {name: value.requires_grad_() for name, value in x.items()}
    found = scan(x)
    assert all(torch.isfinite(one).all() for one in found)
    weights = [torch.randn_like(one).double() for one in found]
    assert all(torch.isfinite(one).all() for one in gradients(found, weights, x))
    assert_close(
        found[0][:, ::35, 0], torch.zeros_like(found[0][:, ::35, 0]) + x["alpha"][:, ::35, 0, None] * 0
    )


def test_where_nothing_was_seen_the_ridge_has_a_floor():
    zero = torch.zeros(1, 3, 1, 2).double()
    q, g = torch.ones(1, 3, 1, 1, 2).double(), torch.zeros(1, 3, 1).double()
    x, _ = torch_op.kalman_solve(zero, g, q, torch.zeros(1, 1, 2, 2).double(), None, 0.02, 30)
    assert_close(x, q / SMALLEST)


def test_autocast_takes_the_dtype_of_q():
    x = inputs(1, 20, 2, 5, 4, torch.float32)
    x["q"] = x["q"].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        o, (H, _) = bk.gated_kalman_scan(*(x[name] for name in NAMES[:4]))
    assert o.dtype is torch.bfloat16
    assert H.dtype is torch.float32
    expected, _ = bk.gated_kalman_scan(*(x[name].bfloat16() for name in NAMES[:3]), x["log_decay"])
    assert torch.equal(o, expected)


@pytest.mark.parametrize("name", NAMES[1:5])
def test_shapes_that_do_not_fit_are_refused(name):
    x = inputs(2, 9, 4, 3, 3)
    x[name] = x[name][:, :-1]
    with pytest.raises(ValueError, match="gated_kalman_scan"):
        scan(x)


@pytest.mark.parametrize("options", [{"steps": 0}, {"ridge": 0.0}, {"cu_seqlens": torch.tensor([0, 9])}])
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError, match="gated_kalman_scan"):
        scan(inputs(2, 9, 4, 3, 3), **options)
