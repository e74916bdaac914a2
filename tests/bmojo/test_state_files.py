"""A state comes back from a file, from another device, in another precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from bmojo import BMojo, BMojoConfig, BMojoState
from tests.layers import MIXERS, configs, perturbed, tokens
from tests.tolerances import assert_close


@given(config=configs())
def test_what_is_saved_goes_on_as_if_nothing_had_been(config, tmp_path_factory):
    layer, u, path = perturbed(config), tokens(2, 17), tmp_path_factory.mktemp("state") / "layer.safetensors"
    with torch.no_grad():
        _, state = layer(u[:, :11], layer.init_state(2))
        state.save(path)
        again = BMojoState.load(path)
        assert again.position == 11
        assert again.tensors().keys() == state.tensors().keys()
        assert_close(layer(u[:, 11:], again)[0], layer(u[:, 11:], state)[0], "bitwise")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("mixer", MIXERS[1:])
def test_sequences_of_several_lengths_are_saved_too(mixer, tmp_path):
    layer = perturbed(BMojoConfig(d_model=8, heads=2, window=3, eidetic=3, mixer=mixer, state_size=3))
    u, more = tokens(1, 12), tokens(2, 4, seed=1)
    _, state = layer(u, layer.init_state(2), cu_seqlens=torch.tensor([0, 8, 12]))
    state.save(tmp_path / "state")
    assert_close(layer(more, BMojoState.load(tmp_path / "state"))[0], layer(more, state)[0], "bitwise")


def test_another_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="holds no state"):
        BMojoState.load(tmp_path / "other")


def test_a_folder_that_is_not_there_leaves_nothing_behind(tmp_path):
    layer = BMojo(BMojoConfig(d_model=8, heads=2, window=3, eidetic=3, state_size=3))
    with pytest.raises(Exception, match="No such file"):
        layer.init_state(1).save(tmp_path / "nowhere" / "state")
    assert list(tmp_path.iterdir()) == []


def test_precision_is_that_of_keys_and_values():
    layer = perturbed(BMojoConfig(d_model=8, heads=2, window=3, eidetic=3, state_size=3), dtype=torch.float32)
    _, state = layer(tokens(1, 9, dtype=torch.float32), layer.init_state(1))
    moved = state.to(dtype=torch.bfloat16)
    assert moved.window.keys.dtype is moved.eidetic.values.dtype is torch.bfloat16
    assert moved.mixer[1].dtype is torch.float32
    assert moved.eidetic_priority.dtype is torch.float64
    assert moved.nbytes < state.nbytes
    assert state.to("cpu").nbytes == state.nbytes
