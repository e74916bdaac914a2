"""Memory in weights: models made of the layer, and layers made of other models' weights."""

from bmojo.models.attention_like import AttentionLike
from bmojo.models.conversion import ConversionError, convert_layer, convert_layers
from bmojo.models.generation import Generated
from bmojo.models.headwise import HeadwiseDeltaNet, HeadwiseKalmaNet, HeadwiseMamba2
from bmojo.models.language_model import BMojoLM as BMojoLM  # public as `bmojo.BMojoLM`
from bmojo.models.sampling import Sampler

__all__ = [
    "AttentionLike",
    "ConversionError",
    "Generated",
    "HeadwiseDeltaNet",
    "HeadwiseKalmaNet",
    "HeadwiseMamba2",
    "Sampler",
    "convert_layer",
    "convert_layers",
]
