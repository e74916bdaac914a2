"""Innovations forms in closed form: one state, one output, letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp

from realization.errors import DataError, RankError
from realization.symbolic.system import Matrix, as_matrix, numeric
from realization.systems import InnovationsModel

__all__ = ["SymbolicInnovations", "arma11_innovations", "innovations_form"]


@dataclass(frozen=True, eq=False)
class SymbolicInnovations:
    r"""Innovations form of a process with one state: $x_{t+1} = A x_t + K e_t,\ y_t = C x_t + e_t$.

    Attributes
    ----------
    A, C, K : expression
        State, read-out and Kalman gain.
    Re : expression
        Variance of the innovations.
    P : expression
        Variance of the state's one-step prediction error.

    Examples
    --------
    >>> import realization as rz
    >>> rz.symbolic.arma11_innovations(0, 2, 1).predictor_pole
    -1/2
    """

    A: sp.Expr
    C: sp.Expr
    K: sp.Expr
    Re: sp.Expr
    P: sp.Expr

    @property
    def predictor_pole(self) -> sp.Expr:
        """`A - K C`, of modulus below 1: how fast the predictor forgets its first state."""
        return sp.simplify(self.A - self.K * self.C)

    def to_numeric(
        self, substitutions: Mapping[Any, Any] | None = None, dt: float | None = None
    ) -> InnovationsModel:
        """The numeric model at given values of the letters.

        Parameters
        ----------
        substitutions : mapping from symbols to numbers, optional
            Every letter needs one.
        dt : float, optional
            Seconds between samples.
        """
        row = Matrix([[self.A, self.C, self.K, self.Re]]).subs(dict(substitutions or {}))
        A, C, K, Re = numeric(as_matrix(row, "the innovations form"), "to_numeric").ravel()
        return InnovationsModel([[A]], [[]], [[C]], dt=dt, K=[[K]], Re=[[Re]])


def innovations_form(A: Any, C: Any, Q: Any, R: Any, S: Any = 0) -> SymbolicInnovations:
    r"""Innovations form of a process with one state: the Riccati equation solved by its quadratic formula.

    $$P = A^2 P + Q - \frac{(A C P + S)^2}{C^2 P + R} \quad\Longleftrightarrow\quad
    C^2 P^2 + b P - (Q R - S^2) = 0, \qquad b = (1 - A^2) R - C^2 Q + 2 A C S$$

    The product of the roots is not positive ($Q R \ge S^2$), so the larger one is the variance; it is the one
    for which $|A - K C| \le 1$, with $R_e = C^2 P + R$ and $K = (A C P + S) / R_e$.

    Parameters
    ----------
    A, C : expression
        State and read-out.
    Q, R, S : expression
        Variances of process and measurement noise, and their covariance $E[w v]$.

    Returns
    -------
    SymbolicInnovations

    Raises
    ------
    RankError
        If `C` is zero: the output does not see the state.
    DataError
        If the noise's covariance is known not to be positive semidefinite.

    References
    ----------
    A. Lindquist, G. Picci, *Linear Stochastic Systems*, Springer 2015, section 6.9.

    Examples
    --------
    A random walk seen through noise of the same variance: the golden ratio.

    >>> import realization as rz
    >>> walk = rz.symbolic.innovations_form(1, 1, 1, 1)
    >>> walk.P, walk.K
    (1/2 + sqrt(5)/2, -1/2 + sqrt(5)/2)
    """
    (A, C, Q, R, S) = as_matrix([[A, C, Q, R, S]], "innovations_form: an argument")
    if C.is_zero:
        raise RankError("innovations_form: C is zero; the output does not see the state.")
    margin = sp.expand(Q * R - S**2)
    if Q.is_negative or R.is_negative or margin.is_negative:
        raise DataError("innovations_form: [[Q, S], [S, R]] must be positive semidefinite.")
    b = sp.expand((1 - A**2) * R - C**2 * Q + 2 * A * C * S)
    P = sp.simplify((sp.sqrt(sp.factor(b**2 + 4 * C**2 * margin)) - b) / (2 * C**2))
    Re = sp.simplify(C**2 * P + R)
    if Re.is_zero:
        raise RankError("innovations_form: there is no noise at all; the innovations vanish.")
    return SymbolicInnovations(A, C, sp.radsimp(sp.simplify((A * C * P + S) / Re)), Re, P)


def arma11_innovations(a: Any, c: Any, sigma2: Any) -> SymbolicInnovations:
    r"""Innovations form of an ARMA(1,1) process, whichever root its moving average has.

    $$y_t = a\, y_{t-1} + w_t + c\, w_{t-1}, \qquad \operatorname{var} w_t = \sigma^2$$

    With $x_t = y_t - w_t$ it is $x_{t+1} = a x_t + (a + c) w_t$, and $w$ is the innovation if $|c| \le 1$. If
    not, $w$ cannot be had from the past of $y$: the same covariances belong to the root $1/c$ with variance
    $c^2 \sigma^2$, and that is what a predictor meets.

    - $|c| \le 1$: $K = a + c$ and $R_e = \sigma^2$;
    - $|c| > 1$: $K = a + 1/c$ and $R_e = c^2 \sigma^2$.

    Parameters
    ----------
    a, c : expression
        Real; $|a| < 1$ for a stationary process.
    sigma2 : expression
        Variance of `w`, positive.

    Returns
    -------
    SymbolicInnovations
        With letters in `c`, piecewise by its modulus. `.P` is the variance of what stays unknown of `x`.

    Raises
    ------
    DataError
        If `sigma2` is known not to be positive.

    References
    ----------
    P. J. Brockwell, R. A. Davis, *Time Series: Theory and Methods*, 2nd ed., Springer 1991, sections 3.1 and
    4.4.

    Examples
    --------
    >>> import sympy as sp, realization as rz
    >>> a = sp.Symbol("a")
    >>> form = rz.symbolic.arma11_innovations(a, 2, 1)
    >>> form.K, form.Re, form.P
    (a + 1/2, 4, 3)
    """
    (a, c, sigma2) = as_matrix([[a, c, sigma2]], "arma11_innovations: an argument")
    if sigma2.is_nonpositive:
        raise DataError(f"arma11_innovations: sigma2={sigma2} came; a variance is positive.")
    invertible = sp.Abs(c) <= 1
    K = sp.Piecewise((a + c, invertible), (a + 1 / c if not c.is_zero else a, True))
    Re = sp.Piecewise((sigma2, invertible), (c**2 * sigma2, True))
    P = sp.Piecewise((0, invertible), ((c**2 - 1) * sigma2, True))
    return SymbolicInnovations(a, sp.Integer(1), K, Re, P)
