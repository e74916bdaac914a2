"""The softmax of tiles of logits, (keys, lanes), whose lanes carry what they have seen so far.

The state of the lanes has four rows: highest logit, sum of weights, factor that corrects what was summed
before, and the base that logits are taken from. Logits are in base 2; minus infinity is hidden and weighs 0.
"""

from __future__ import annotations

import math

from bmojo_kernels.vectors import make_pass

__all__ = ["BASE", "FACTOR", "TOP", "TOTAL", "differentiate", "raise_top", "rescale", "weigh"]

TOP, TOTAL, FACTOR, BASE = range(4)


def _highest(write, entries, lanes, running):
    return [None], [write.larger(entries[0], running[0])]


def _correct(write, lanes, running):
    # While nothing has been seen any finite base serves.
    seen = write.builder.fcmp_ordered(">", running[0], write.every(-math.inf))
    base = write.builder.select(seen, running[0], write.every(0.0))
    factor = write.exp2(write.subtract(lanes[TOP], base))
    return {FACTOR: factor, BASE: base, TOTAL: write.times(lanes[TOTAL], factor)}


def _weight(write, entries, lanes, running):
    weight = write.exp2(write.subtract(entries[0], lanes[BASE]))
    return [weight], [write.add(running[0], weight)]


def _rescaled(write, entries, lanes, running):
    return [write.times(entries[0], lanes[FACTOR])], []


def _differential(write, entries, lanes, running):
    weight = write.exp2(write.subtract(entries[0], lanes[BASE]))
    return [weight, write.times(weight, write.subtract(entries[1], lanes[TOTAL]))], []


raise_top = make_pass(_highest, matrices=1, running=(TOP,), finish=_correct)
weigh = make_pass(_weight, matrices=1, running=(TOTAL,))
rescale = make_pass(_rescaled, matrices=1)
# Logits and their weights' derivatives become weights and the logits' derivatives; TOTAL holds what is
# common to a lane's derivatives.
differentiate = make_pass(_differential, matrices=2)
