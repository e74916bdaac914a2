"""B'MOJO in transformers: a model with its cache, and attention layers of other models replaced (priming).

Importing this module registers `BMojoModelConfig` and `BMojoForCausalLM` with `AutoConfig` and
`AutoModelForCausalLM`, so that `AutoModelForCausalLM.from_pretrained(folder)` finds them.
"""

try:
    from transformers import AutoConfig, AutoModelForCausalLM
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise ImportError("bmojo.hf needs transformers: pip install 'realization[hf]'") from None

from bmojo.hf.cache import BMojoCache, StateLayer
from bmojo.hf.causal_lm import BMojoForCausalLM
from bmojo.hf.configuration import BMojoModelConfig
from bmojo.hf.placing import install, load_primed
from bmojo.hf.primed import PrimedAttention
from bmojo.hf.priming import prime

__all__ = [
    "BMojoCache",
    "BMojoForCausalLM",
    "BMojoModelConfig",
    "PrimedAttention",
    "StateLayer",
    "install",
    "load_primed",
    "prime",
]

AutoConfig.register(BMojoModelConfig.model_type, BMojoModelConfig, exist_ok=True)
AutoModelForCausalLM.register(BMojoModelConfig, BMojoForCausalLM, exist_ok=True)
