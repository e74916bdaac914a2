"""`memory_attention`: compiled kernels against the gathered definition, for values and for every gradient."""

from __future__ import annotations

import itertools

import bmojo_kernels as bk
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.strategies import seeds
from tests.tolerances import assert_close

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
CASES = {
    "window alone": {"m": 0, "R": 0, "fading": False, "own": False},
    "length 1": {"T": 1},
    "length 2": {"T": 2, "window": 1, "chunk": 1},
    "length 63": {"T": 63, "window": 5, "chunk": 2},
    "length 64": {"T": 64, "window": 64, "chunk": 64, "own": False},
    "length 65, odd widths": {"T": 65, "window": 33, "chunk": 7, "d": 5, "d_v": 19},
    "one key head": {"T": 130, "H": 3, "G": 1, "B": 1, "m": 150, "window": 20},
    "values of the window": {"T": 90, "own": False, "bias": False, "d": 16, "d_v": 16},
    "later piece": {"T": 40, "before": 30, "start": 21},
    "packed": {"B": 1, "T": 150, "edges": (0, 3, 3, 70, 150)},
}


def inputs(
    B=2, T=20, H=4, G=2, d=8, d_v=8, window=9, chunk=4, m=5, R=3, dtype=torch.float64, start=0, before=0,
    edges=None, seed=0, own=True, fading=True, bias=True,
):  # fmt: skip
    """Arguments and options of a call; the last sets hold random positions that may be eligible."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)

    S, entries = T + before, B if edges is None else len(edges) - 1
    given = [draw(B, T, H, d), draw(B, S, G, d), draw(B, S, G, d_v)]
    options = {"window": window, "chunk": chunk, "start": start}
    if edges is not None:
        options["cu_seqlens"] = torch.tensor(edges)
    if fading:
        options["fading"] = (draw(B, S, G, d), draw(B, S, G, d_v))
    if own:
        options |= {name: draw(B, T, H, d) for name in ("q_fading", "q_eidetic", "q_retrieved")}
    if m:
        sets = []
        for low, high in itertools.pairwise((0, start + T) if edges is None else edges):
            scores = torch.rand(B, high - low, generator=rng, dtype=torch.float64)
            found = bk.innovation_topk(scores, budget=m, window=window, chunk=chunk)
            sets.append(torch.where(found >= 0, found + low, found))
        index = torch.cat(sets, 1)[:, start // chunk :]
        options["eidetic_index"] = torch.where(index < start + T - S, -1, index)
        if own:
            options["eidetic"] = (draw(B, S, G, d), given[2])
        if bias:
            options["eidetic_bias"] = -draw(B, S).abs()
            options["eidetic_bias"][:, ::3] = -torch.inf
    if R:
        options["retrieved"] = (draw(entries, R, G, d), draw(entries, R, G, d_v))
        if bias:
            added = draw(entries, R)
            added[:, 0] = -torch.inf
            options["retrieved"] += (added,)
    return given, options


def leaves(*found):
    """Every tensor of numbers in them, once, ready to be learned."""
    flat = []
    for x in found:
        if isinstance(x, torch.Tensor):
            flat += [x] if x.is_floating_point() else []
        elif isinstance(x, dict):
            flat += leaves(*x.values())
        elif isinstance(x, (list, tuple)):
            flat += leaves(*x)
    unique = list({id(x): x for x in flat}.values())
    return [x.requires_grad_() for x in unique]


def wide(x):
    """The same in float64, sharing what was shared."""
    known = {}

    def of(x):
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            return known.setdefault(id(x), x.detach().double())
        if isinstance(x, dict):
            return {name: of(value) for name, value in x.items()}
        return type(x)(of(value) for value in x) if isinstance(x, (list, tuple)) else x

    return of(x)


def written(arguments, options):
    return bk.memory_attention(*arguments, **options, backend="naive")


def same_normalizers(lse, expected, dtype):
    seen = torch.isfinite(expected)
    assert torch.equal(torch.isfinite(lse), seen)
    assert_close(lse[seen], expected[seen], dtype="float64" if dtype == "float64" else "float32")


@pytest.mark.parametrize("case", CASES)
def test_kernel_and_gradients_are_those_of_the_definition(case):
    arguments, options = inputs(**CASES[case])
    learned = leaves(arguments, options)
    out, lse = bk.memory_attention(*arguments, **options)
    expected, expected_lse = written(arguments, options)
    assert_close(out, expected)
    same_normalizers(lse, expected_lse, "float64")
    seen = torch.isfinite(expected_lse)
    weights = torch.randn_like(out), torch.randn_like(lse[seen])
    found = torch.autograd.grad((out, lse[seen]), learned, weights)
    wanted = torch.autograd.grad((expected, expected_lse[seen]), learned, weights, allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, torch.zeros_like(one) if other is None else other)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sizes", [{"T": 70, "window": 40, "d": 16, "d_v": 12}, {"T": 1000, "B": 1, "H": 1, "G": 1}]
)
def test_lower_precision(sizes, dtype):
    arguments, options = inputs(dtype=DTYPES[dtype], **sizes)
    learned = leaves(arguments, options)
    out, lse = bk.memory_attention(*arguments, **options)
    assert out.dtype == DTYPES[dtype]
    assert lse.dtype == torch.float32
    exact, exact_options = wide((arguments, options))
    exact_learned = leaves(exact, exact_options)
    expected, expected_lse = written(exact, exact_options)
    assert_close(out, expected, dtype=dtype)
    same_normalizers(lse, expected_lse, dtype)
    weight = torch.randn_like(out)
    found = torch.autograd.grad(out, learned, weight)
    wanted = torch.autograd.grad(expected, exact_learned, weight.double(), allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == DTYPES[dtype]
        assert_close(one, torch.zeros_like(one) if other is None else other, "recurrence", dtype=dtype)


def test_it_is_torchs_attention_under_the_same_mask():
    (q, k, v), _ = inputs(T=100, m=0, R=0, fading=False, own=False, G=4)
    back = torch.arange(100)[:, None] - torch.arange(100)
    expected = F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=(back >= 0) & (back < 17)
    ).transpose(1, 2)
    assert_close(bk.memory_attention(q, k, v, window=17)[0], expected)


def test_two_calls_joined_by_their_normalizers_are_one():
    arguments, options = inputs(m=0, R=0, own=False, T=50)
    out, lse = bk.memory_attention(*arguments, **options)
    retrieved = tuple(torch.randn_like(x[:, :7]) for x in arguments[1:])
    both, both_lse = bk.memory_attention(*arguments, **options, retrieved=retrieved)
    q, (kr, vr) = arguments[0], retrieved
    logits = torch.einsum("bthd,bjhd->bhtj", q, kr.repeat_interleave(2, 2)) * q.shape[-1] ** -0.5
    total = torch.logaddexp(lse, logits.logsumexp(-1))
    far = torch.einsum("bhtj,bjhd->bthd", (logits - total[..., None]).exp(), vr.repeat_interleave(2, 2))
    assert_close(both_lse, total)
    assert_close(both, out * (lse - total).exp().mT[..., None] + far)


def test_memories_with_all_hidden_are_none():
    arguments, options = inputs(T=30, m=2, own=False, fading=False)
    alone = bk.memory_attention(*arguments, window=9)
    hidden = options | {
        "eidetic_index": torch.full_like(options["eidetic_index"], -1),
        "retrieved": (*options["retrieved"][:2], torch.full((2, 3), -torch.inf, dtype=torch.float64)),
    }
    learned = leaves(arguments, hidden["retrieved"][:2], hidden["eidetic_bias"])
    found = bk.memory_attention(*arguments, **hidden)
    assert_close(found[0], alone[0])
    assert_close(found[1], alone[1])
    gradients = torch.autograd.grad(found[0].sum() + found[1].sum(), learned)
    assert all(torch.isfinite(g).all() for g in gradients[:3])
    assert not any(g.any() for g in gradients[3:])


@settings(max_examples=20)
@given(cut=st.integers(1, 29), seed=seeds)
def test_pieces_give_the_whole(cut, seed):
    arguments, options = inputs(B=1, T=30, seed=seed, window=6, chunk=4, dtype=torch.float64, own=False)
    q, k, v = arguments
    out, lse = bk.memory_attention(*arguments, **options)
    late = dict(options) | {"start": cut, "eidetic_index": options["eidetic_index"][:, cut // 4 :]}
    rest, rest_lse = bk.memory_attention(q[:, cut:], k, v, **late)
    assert_close(rest, out[:, cut:])
    assert_close(rest_lse, lse[..., cut:])


def test_a_pool_with_rows_of_its_own():
    arguments, options = inputs(T=40, own=False)
    _, k, v = arguments
    out, _ = bk.memory_attention(*arguments, **options)
    order = torch.randperm(40)
    rows = torch.argsort(order)[options["eidetic_index"].clamp_min(0)]
    pool = options | {"eidetic": (k[:, order], v[:, order]), "eidetic_rows": rows}
    pool["eidetic_bias"] = options["eidetic_bias"][:, order]
    assert_close(bk.memory_attention(*arguments, **pool)[0], out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_give_the_whole(dtype):
    T, window, m = 25, 4, 3
    arguments, options = inputs(T=T, window=window, chunk=1, m=m, R=2, dtype=DTYPES[dtype])
    q, k, v = arguments
    out, lse = bk.memory_attention(*arguments, **options)
    rings = [torch.zeros_like(x[:, : 2 * window]) for x in (k, v, *options["fading"])]
    for t in range(T):
        for ring, x in zip(rings, (k, v, *options["fading"]), strict=True):
            ring[:, t % len(ring[0])] = x[:, t]
        index = options["eidetic_index"][:, t]
        rows = index.clamp_min(0)[..., None, None]
        pool = [x.gather(1, rows.expand(-1, -1, *x.shape[2:])) for x in options["eidetic"]]
        given = {
            "window": window, "position": t, "fading": tuple(rings[2:]), "eidetic_index": index,
            "eidetic_bias": options["eidetic_bias"].gather(1, index.clamp_min(0)), "eidetic": tuple(pool),
            "retrieved": options["retrieved"],
        }  # fmt: skip
        given |= {name: options[name][:, t] for name in ("q_fading", "q_eidetic", "q_retrieved")}
        found, found_lse = bk.memory_attention_step(q[:, t], *rings[:2], **given)
        assert_close(found, out[:, t], dtype=dtype)
        assert_close(found_lse, lse[..., t], dtype="float64" if dtype == "float64" else "float32")
        learned, _ = bk.memory_attention_step(q[:, t].clone().requires_grad_(), *rings[:2], **given)
        assert_close(learned, found, dtype=dtype)


def test_gradcheck():
    arguments, options = inputs(B=1, T=5, H=2, G=1, d=2, d_v=3, window=2, chunk=2, m=2, R=1, bias=False)
    flat = [*arguments, *options["fading"], options["q_fading"], options["eidetic"][0], options["q_eidetic"]]
    flat += [options["q_retrieved"], *options["retrieved"], -torch.rand(1, 5, dtype=torch.float64)]

    def attend(q, k, v, kf, vf, qf, ke, qe, qr, kr, vr, bias):
        return bk.memory_attention(
            q, k, v, window=2, chunk=2, fading=(kf, vf), q_fading=qf, eidetic_index=options["eidetic_index"],
            eidetic=(ke, v), q_eidetic=qe, eidetic_bias=bias, retrieved=(kr, vr), q_retrieved=qr,
        )  # fmt: skip

    assert torch.autograd.gradcheck(attend, tuple(x.requires_grad_() for x in flat))


def test_torch_knows_the_operator():
    (q, k, v), options = inputs(T=9, G=4, own=False, bias=False)
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    kf, vf = options["fading"]
    nothing = [None] * 7
    given = (q, k, v, None, kf, vf, *nothing, None, options["eidetic_index"], None, None, 9, 4, 0, 0.5)
    torch.library.opcheck(torch.ops.bmojo.memory_attention.default, given)


@pytest.mark.slow
def test_compiles_as_one_graph_and_is_exported():
    (q, k, v), options = inputs(T=20, dtype=torch.float32, own=False, bias=False)

    class Model(torch.nn.Module):
        def forward(self, q, k, v, index):
            out, lse = bk.memory_attention(
                torch.tanh(q), k, v, window=9, fading=(2 * k, v), eidetic_index=index, chunk=4
            )
            return out.square().sum() + lse.sum()

    model, index = Model(), options["eidetic_index"]
    learned = leaves(q, k, v)
    expected = torch.autograd.grad(model(q, k, v, index), learned)
    found = torch.autograd.grad(torch.compile(model, fullgraph=True)(q, k, v, index), learned)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
    exported = torch.export.export(model, (q, k, v, index)).module()
    assert_close(exported(q, k, v, index), model(q, k, v, index))


def test_autocast_takes_the_queries_dtype():
    arguments, options = inputs(dtype=torch.float32, T=30)
    q, k, v = arguments
    with torch.autocast("cpu", torch.bfloat16):
        out, lse = bk.memory_attention(q.bfloat16(), k, v, **options)
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    assert_close(out, bk.memory_attention(q, k, v, **options)[0], dtype="bfloat16")


def test_layouts_and_threads_do_not_matter():
    arguments, options = inputs(B=1, T=700, H=2, G=1, window=60, chunk=60, dtype=torch.float32, bias=False)
    learned = leaves(arguments, options)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out, _ = bk.memory_attention(*arguments, **options)
            results.append([out, *torch.autograd.grad(out.square().sum(), learned)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in arguments]
    own = {name: value for name, value in options.items() if name != "eidetic"}
    own["eidetic"] = (options["eidetic"][0], turned[2])
    assert torch.equal(bk.memory_attention(*turned, **own)[0], results[0][0])


@pytest.mark.parametrize("size", [1e4, 1e18])
def test_extreme_logits_stay_finite(size):
    arguments, options = inputs(dtype=torch.float32, T=50, own=False, bias=False)
    arguments[0] = arguments[0] * size
    learned = leaves(arguments[1:])
    out, lse = bk.memory_attention(*arguments, **options)
    assert torch.isfinite(out).all()
    assert torch.isfinite(lse).all()
    assert torch.isfinite(torch.autograd.grad(out.sum(), learned[1])[0]).all()


def test_what_is_not_seen_does_not_matter():
    arguments, options = inputs(T=60, own=False, window=5, chunk=5, fading=False, R=0, bias=False)
    out, _ = bk.memory_attention(*arguments, **options)
    q, k, v = arguments
    for x in (k, v):
        x[:, 30:] = 1e30
    assert torch.equal(bk.memory_attention(q, k, v, **options)[0][:, :30], out[:, :30])


@pytest.mark.parametrize("sizes", [{"B": 0}, {"T": 0, "m": 0}])
def test_nothing_in_nothing_out(sizes):
    arguments, options = inputs(**sizes)
    learned = leaves(arguments)
    out, lse = bk.memory_attention(*arguments, **options)
    assert out.shape == arguments[0].shape
    assert lse.numel() == 0
    for gradient in torch.autograd.grad(out.sum() + lse.sum(), learned):
        assert not gradient.any()


def change(name, value):
    def changed(arguments, options):
        if name in ("q", "k", "v"):
            arguments["qkv".index(name)] = value(arguments["qkv".index(name)])
        else:
            options[name] = value(options.get(name))

    return changed


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (change("q", lambda q: q[0]), "q \\(20, 4, 8\\)"),
        (change("q", lambda q: q[:, :, :3]), "3 query heads and 2 key heads"),
        (change("k", lambda k: k[:, :9]), "k \\(2, 9, 2, 8\\)"),
        (change("v", lambda v: v[:1]), "must be the same"),
        (change("q", lambda q: q.float()), "float32"),
        (change("q", lambda q: q.half()), "float16"),
        (change("window", lambda w: 3), "window=3, chunk=4"),
        (change("start", lambda s: -1), "start=-1"),
        (change("scale", lambda s: 0.0), "scale=0.0"),
        (change("fading", lambda f: (f[0][:, :9], f[1][:, :9])), "fading with"),
        (change("q_fading", lambda q: q[:1]), "q_fading"),
        (change("retrieved", lambda r: r[:1]), "retrieved came with 1"),
        (change("retrieved", lambda r: tuple(x[:1] for x in r)), "1 sequences"),
        (change("eidetic_index", lambda i: i[:, 1:]), "eidetic_index"),
        (change("eidetic_index", lambda i: i.double()), "float64"),
        (change("eidetic_index", lambda i: None), "without eidetic_index"),
        (change("eidetic_index", lambda i: i + 100), "the eidetic set needs rows"),
        (change("eidetic_bias", lambda b: b[:, 1:]), "eidetic_bias"),
        (change("cu_seqlens", lambda c: torch.tensor([0, 20])), "cu_seqlens"),
        (change("backend", lambda b: "fast"), "backend='fast'"),
    ],
)
def test_what_does_not_fit_is_refused(fault, message):
    arguments, options = inputs()
    fault(arguments, options)
    with pytest.raises(ValueError, match=message):
        bk.memory_attention(*arguments, **options)
