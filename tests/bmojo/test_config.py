"""Options: what is filled in, what is refused and in which words."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given

from bmojo import BMojo, BMojoConfig
from tests.layers import configs


def test_what_is_left_out_is_filled_in():
    config = BMojoConfig(d_model=64)
    assert (config.heads, config.kv_heads, config.head_dim) == (4, 4, 16)
    assert (config.window, config.chunk) == (64, 64)
    assert BMojoConfig(d_model=10, heads=4, head_dim=6, mixer="none").head_dim == 6
    assert BMojoConfig(d_model=8, window=0, eidetic=0).chunk == 1


@given(config=configs())
def test_plain_values_make_the_same_options(config):
    assert BMojoConfig(**config.to_dict()) == config
    assert dataclasses.replace(config) == config


def test_options_cannot_be_changed_unchecked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BMojoConfig(d_model=8).window = 3
    with pytest.raises(TypeError):
        BMojoConfig(8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": "mamba3"}, "mixer='mamba3' came; the choices are 'mamba2', 'mamba', 'gated_deltanet', "),
        ({"rule": "oracle"}, "rule='oracle' came"),
        ({"rule": "best"}, "rule='best' came; the choices are 'top', 'threshold', 'fifo', 'random', 'norm'"),
        (
            {"predictor": "none"},
            "predictor='none' came; the choices are 'conv', 'state', 'kalman', 'residual'",
        ),
        ({"eidetic_position": "far"}, "eidetic_position='far' came"),
        ({"fading_readout": "gate"}, "fading_readout='gate' came"),
        ({"d_model": 0}, "d_model=0 came; it must be at least 1"),
        ({"heads": 0}, "heads=0 came"),
        ({"window": -1}, "window=-1 came; it must be at least 0"),
        ({"state_size": 0}, "state_size=0 came"),
        ({"eidetic": -1}, "eidetic=-1 came"),
        ({"short_conv": -1}, "short_conv=-1 came"),
        ({"heads": 3, "mixer": "lti"}, "heads=3 does not divide d_model=8; give head_dim too"),
        ({"heads": 3, "head_dim": 4}, "mixer='mamba2' needs heads=3 to divide d_model=8"),
        ({"head_dim": 0}, "head_dim=0 came"),
        ({"head_dim": 3}, "head_dim=3 must be even"),
        ({"kv_heads": 3}, "kv_heads=3 does not divide heads=4"),
        ({"kv_heads": 0}, "kv_heads=0 does not divide heads=4"),
        ({"window": 0, "eidetic": 4}, "window=0 leaves no attention"),
        ({"window": 0, "eidetic": 0, "mixer": "none"}, "window=0 leaves no attention"),
        ({"window": 0, "eidetic": 0, "fading_readout": "none"}, "leaves nothing to put out"),
        ({"window": 4, "chunk": 5}, "chunk=5 came with window=4; 1 <= chunk <= window"),
        ({"window": 4, "chunk": 0}, "chunk=0 came with window=4"),
        ({"rule": "threshold", "false_alarm": 0.0}, "false_alarm=0.0"),
        ({"rule": "threshold", "false_alarm": 1.0}, "false_alarm=1.0"),
        ({"rotary_base": 1.0}, "rotary_base=1.0 came; it must be above 1"),
        ({"predictor": "residual"}, "mixer='mamba2', which does not tell what its state failed to predict"),
        ({"predictor": "state", "mixer": "none"}, "there is no state to read"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": -0.1}, "dropout=-0.1"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        BMojoConfig(**{"d_model": 8} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"false_alarm": 0.1}, "false_alarm=0.1 came with a rule that is not 'threshold'"),
        ({"eidetic": 0, "rule": "fifo"}, "rule='fifo' came with eidetic=0"),
        ({"eidetic": 0, "predictor": "kalman"}, "predictor='kalman' came with eidetic=0"),
        ({"eidetic": 0, "chunk": 3}, "chunk=3 came with eidetic=0"),
        ({"eidetic": 0, "write_gate": True}, "write_gate=True came with eidetic=0"),
        ({"eidetic": 0, "eidetic_norm": True}, "eidetic_norm=True came with eidetic=0"),
        ({"mixer": "none", "state_size": 4}, "state_size=4 came with mixer='none'"),
        ({"mixer": "none", "tie_projections": False}, "tie_projections=False came with mixer='none'"),
        ({"mixer": "none", "fading_readout": "none"}, "fading_readout='none' came with mixer='none'"),
        ({"mixer": "none", "eidetic": 0, "eidetic_position": "edge"}, "eidetic_position='edge' came with no"),
        ({"rotary": False, "eidetic_position": "edge"}, "eidetic_position='edge' came with rotary=False"),
        ({"rotary": False, "rotary_base": 5e5}, "rotary_base=500000.0 came with rotary=False"),
        ({"window": 0, "eidetic": 0, "qk_norm": False}, "qk_norm=False came with window=0"),
        ({"window": 0, "eidetic": 0, "kv_heads": 2}, "kv_heads=2 came with window=0"),
        ({"window": 0, "eidetic": 0, "short_conv": 2}, "short_conv=2 came with window=0"),
    ],
)
def test_options_without_effect(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BMojoConfig(**{"d_model": 8} | options)


def test_an_odd_head_needs_no_rotary_positions():
    assert BMojoConfig(d_model=8, head_dim=3, rotary=False).head_dim == 3
    assert BMojoConfig(d_model=12, window=0, eidetic=0).head_dim == 3


def test_parameters_that_are_not_needed_are_not_there():
    names = {
        name.split(".")[0]
        for name, _ in BMojo(
            BMojoConfig(d_model=8, mixer="none", eidetic=0, short_conv=0, qk_norm=False)
        ).named_parameters()
    }
    assert names == {"in_proj", "out_proj"}
    bare = BMojo(BMojoConfig(d_model=8, window=0, eidetic=0)).named_parameters()
    assert {name.split(".")[0] for name, _ in bare} == {"mixer"}
