"""Simulation of a linear state-space model: 1e5 samples, order 8, against SciPy's `dlsim` in the same run."""

from __future__ import annotations

import numpy as np
import scipy.signal
from _results import Row, write_results
from _timing import seconds

import realization as rz

LENGTH = 100_000


def main() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for order in (2, 8, 32):
        A = rng.standard_normal((order, order))
        A *= 0.95 / np.abs(np.linalg.eigvals(A)).max()
        B, C = rng.standard_normal((order, 2)), rng.standard_normal((2, order))
        model, u = rz.StateSpace(A, B, C), rng.standard_normal((LENGTH, 2))
        peer = (A, B, C, np.zeros((2, 2)), 1.0)
        apart = np.abs(model.simulate(u[:1000]) - scipy.signal.dlsim(peer, u[:1000])[1]).max()
        assert apart < 1e-9, apart
        ours = seconds(lambda model=model, u=u: model.simulate(u), 21)
        theirs = seconds(lambda peer=peer, u=u: scipy.signal.dlsim(peer, u), 3)
        goal = 0.005 if order == 8 else None
        case = f"simulate, {LENGTH} samples, order {order}, 2 in, 2 out"
        rows.append(Row(case, ours, "s", "scipy dlsim", theirs, goal=goal, larger_is_better=False))
    write_results("lti_scan", rows)


if __name__ == "__main__":
    main()
