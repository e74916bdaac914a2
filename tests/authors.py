"""Random weights in the layout of the authors' B'MOJO-F layers."""

from __future__ import annotations

import torch

__all__ = ["GROUPS", "HEAD", "INNER", "MIXERS", "PREFIX", "D", "H", "state_dict"]

PREFIX = "model.layers.3.bmojo_f"
D, H, GROUPS, HEAD, TAPS = 12, 4, 2, 6, 4  # heads times their width is not the width of the tokens
INNER, SHARED = H * HEAD, GROUPS * HEAD

MIXERS = {
    "mamba": {
        "in_proj.weight": (2 * INNER + 2 * SHARED + H, D),
        "conv1d.weight": (INNER + 2 * SHARED, 1, TAPS),
        "conv1d.bias": (INNER + 2 * SHARED,),
        "norm.weight": (INNER,),
        "out_proj.weight": (D, INNER),
        "dt_bias": (H,),
        "A_log": (H,),
        "D": (H,),
    },
    "gdn": {
        "q_proj.weight": (INNER, D),
        "k_proj.weight": (SHARED, D),
        "v_proj.weight": (SHARED, D),
        "q_conv1d.weight": (INNER, 1, TAPS),
        "k_conv1d.weight": (SHARED, 1, TAPS),
        "v_conv1d.weight": (SHARED, 1, TAPS),
        "b_proj.weight": (H, D),
        "gk_proj.weight": (H, D),
        "g_proj.weight": (INNER, D),
        "o_norm.weight": (HEAD,),
        "o_proj.weight": (D, INNER),
        "dt_bias": (H,),
        "A_log": (H,),
    },
}
MIXERS["gka"] = {n: s for n, s in MIXERS["gdn"].items() if n != "gk_proj.weight"} | {
    "a_proj.weight": (H, D),
    "b_proj.bias": (H,),
    "alpha_proj.weight": (H, D),
    "alpha_proj.bias": (H,),
}


def state_dict(kind, *, tied=True, norms=True, bias=False, dtype=torch.float64, prefix=PREFIX):
    """Random weights of the authors' layout."""
    shapes = {f"{kind}.{name}": shape for name, shape in MIXERS[kind].items()}
    if kind == "mamba" and norms:
        shapes |= {f"mamba.{x}_norm.weight": (HEAD,) for x in "BC"}
    for suffix in ("",) if tied else ("", "_"):
        for x, rows in (("q", INNER), ("k", SHARED), ("v", SHARED)):
            shapes[f"bmojo_attn.{x}_proj{suffix}.weight"] = (rows, D)
            if bias:
                shapes[f"bmojo_attn.{x}_proj{suffix}.bias"] = (rows,)
        if norms:
            shapes |= {f"bmojo_attn.{x}_norm{suffix}.weight": (HEAD,) for x in "qk"}
    shapes["bmojo_attn.o_proj.weight"] = (D, INNER)
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, shape in shapes.items():
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        found[f"{prefix}.{name}"] = (1 + 0.3 * x if "norm" in name else 0.4 * x).to(dtype)
    return found
