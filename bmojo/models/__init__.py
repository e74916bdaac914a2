"""Memory in weights: models made of the layer."""

from bmojo.models.language_model import BMojoLM

__all__ = ["BMojoLM"]
