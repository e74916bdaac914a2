"""The main job: from a measured signal to its realization, its innovations, and a layer that remembers."""

from bmojo.demo.contenders import CONTENDERS, Contender, Outcome, compete

__all__ = ["CONTENDERS", "Contender", "Outcome", "compete"]
