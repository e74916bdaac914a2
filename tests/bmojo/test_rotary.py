"""Rotary positions: their table is one operator to the compiler, and the same as without it."""

from __future__ import annotations

import pytest
import torch

from bmojo.rotary import rotate, table, turn


@pytest.mark.parametrize("shape", [(7,), (2, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_table_is_an_operator(shape, dtype):
    position = torch.randint(1_000_000, shape)
    torch.library.opcheck(torch.ops.bmojo.rotary_table, (position, 8, 10_000.0, dtype))
    for part, same in zip(
        torch.ops.bmojo.rotary_table(position, 8, 10_000.0, dtype),
        table(position, 8, dtype=dtype),
        strict=True,
    ):
        assert torch.equal(part, same)


def test_a_compiled_turn_is_the_same_and_works_out_no_angle_of_its_own():
    x, position, targets = torch.randn(2, 7, 3, 8), torch.arange(7), []

    def seen(graph, inputs):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(lambda x: rotate(x, position), backend=seen, fullgraph=True)
    assert torch.equal(compiled(x), rotate(x, position))
    assert "bmojo.rotary_table.default" in targets
    assert not {"cos", "sin", "<built-in method cos>"} & set(targets)


def test_turning_back_undoes_a_turn():
    x = torch.randn(2, 7, 3, 8, dtype=torch.float64)
    angles = table(torch.arange(7), 8, dtype=torch.float64)
    assert torch.allclose(turn(turn(x, angles), angles, back=True), x, atol=1e-14)
