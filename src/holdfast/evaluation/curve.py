"""The forgetting curve of a run, fitted to its own looks, and what further training would cost by it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.stats import t as student

from holdfast._errors import BadInput
from holdfast.evaluation.statistics import Interval

Floats = NDArray[np.float64]
Form = Callable[..., Any]

LEAST = 5
"""Looks that a fit needs; with fewer the curves cannot be compared."""

EXPLAINED = 0.5
"""Share of the variance that a curve has to explain before anybody says what it foretells."""


def exponential(x: Floats, ceiling: float, scale: float) -> Floats:
    """ceiling * (1 - exp(-x / scale)): most is lost early, and no more than `ceiling` in the end."""
    curve: Floats = -ceiling * np.expm1(-x / scale)
    return curve


def power(x: Floats, factor: float, exponent: float) -> Floats:
    """factor * x ** exponent: the loss goes on for ever, ever slower where the exponent is below 1."""
    curve: Floats = factor * x**exponent
    return curve


def closed(x: Floats, rate: float) -> Floats:
    """rate * x: each step takes the same share of what is left, as in the closed formula of `ForgettingDynamicsModel`.

    With knowledge K as the probability of a token relative to the base, exp(-rise), and nothing gained meanwhile, its
    K (1 - r) ^ x is a rise of -x log(1 - r).
    """
    curve: Floats = rate * x
    return curve


FORMS: Mapping[str, tuple[Form, tuple[str, ...]]] = {
    "exponential": (exponential, ("ceiling", "scale")),
    "power": (power, ("factor", "exponent")),
    "closed": (closed, ("rate",)),
}
"""The curves by name, with the names of their parameters."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A curve through the rises of a run: its p `parameters` with their `covariance` [p, p], and how well it fits.

    `r2` is the share of the variance that it explains, `spread` the standard deviation of what is left (nats per
    token, on n - p degrees of freedom), `aicc` Akaike's criterion for small samples: lower fits better.
    """

    name: str
    parameters: Mapping[str, float]
    covariance: Floats
    r2: float
    spread: float
    aicc: float
    n: int

    def __call__(self, x: ArrayLike) -> Floats:
        """The rise in nats per token after `x` steps at the full learning rate."""
        return self._at(np.asarray(x, dtype=np.float64), tuple(self.parameters.values()))

    def predict(self, x: float, *, level: float = 0.95) -> Interval:
        """What a look after `x` full steps would show, with a prediction interval (Student, delta method).

        It tells how far the curve is known, not whether the curve is the right one: beyond twice the steps that it was
        fitted on, look at the other form as well.
        """
        values = np.array(list(self.parameters.values()))
        mean, slope = float(self(x)), self._slope(x, values)
        se = math.sqrt(max(float(slope @ self.covariance @ slope), 0.0) + self.spread**2)
        half, bound = (float(student.ppf(p, self.n - len(values))) * se for p in ((1 + level) / 2, level))
        return Interval(mean, mean - half, mean + half, mean + bound, se, self.n)

    def cost(self, x: float, further: float, *, level: float = 0.95) -> Interval:
        """How much more is lost by `further` full steps after the first `x`, in nats per token (delta method)."""
        values = np.array(list(self.parameters.values()))
        slope = self._slope(x + further, values) - self._slope(x, values)
        mean, se = float(self(x + further) - self(x)), math.sqrt(max(float(slope @ self.covariance @ slope), 0.0))
        half, bound = (float(student.ppf(p, self.n - len(values))) * se for p in ((1 + level) / 2, level))
        return Interval(mean, mean - half, mean + half, mean + bound, se, self.n)

    def _at(self, x: Floats, values: Sequence[float]) -> Floats:
        curve: Floats = FORMS[self.name][0](x, *values)
        return curve

    def _slope(self, x: float, values: Floats) -> Floats:
        """Derivatives by the parameters, from central differences."""
        steps = np.diag(1e-6 * np.maximum(np.abs(values), 1e-9))
        place = np.asarray(float(x))
        return np.array([(self._at(place, values + d) - self._at(place, values - d)) / (2 * d.sum()) for d in steps])


def fits(x: ArrayLike, rises: ArrayLike, se: ArrayLike | None = None) -> list[Fit]:
    """All curves through rises in nats per token after `x` > 0 full steps, the best one (by AICc) first.

    Weighted by 1 / se² where standard errors are given, by nonlinear least squares (scipy's `curve_fit`). A curve that
    cannot be fitted is left out. Raises BadInput for fewer than five looks, or an x that is not positive.
    """
    steps, values = np.asarray(x, dtype=np.float64), np.asarray(rises, dtype=np.float64)
    if len(steps) < LEAST or len(steps) != len(values) or not (steps > 0).all() or not np.isfinite(values).all():
        raise BadInput(
            f"A forgetting curve needs at least {LEAST} finite looks after the start; these are {len(steps)}."
        )
    sigma = None if se is None else np.maximum(np.asarray(se, dtype=np.float64), 1e-9)
    found = (_fitted(name, steps, values, sigma) for name in FORMS)
    return sorted((fit for fit in found if fit is not None), key=lambda fit: fit.aicc)


def crossing(fit: Fit, limit: float, now: float, *, reach: float = 20.0) -> dict[str, float | None]:
    """After how many full steps a curve crosses a rise of `limit`, and the bounds of that, from its prediction band.

    None where it does not within `reach` times the full steps done so far (`now`).
    """
    grid = np.geomspace(now / 50, reach * now, 300)
    foretold = [fit.predict(float(x)) for x in grid]
    sides = {"crossing": "mean", "low": "high", "high": "low"}
    return {n: _first_beyond(grid, [getattr(p, side) for p in foretold], limit) for n, side in sides.items()}


def _first_beyond(grid: Floats, values: Sequence[float], limit: float) -> float | None:
    beyond = np.flatnonzero(np.asarray(values) > limit)
    return float(grid[beyond[0]]) if len(beyond) else None


def full_steps(log: Sequence[Mapping[str, Any]]) -> Callable[[float], float]:
    """From a step of a run's log to steps at the full (peak) learning rate: the sum of rates divided by the peak.

    Under a rate that decays to zero a curve over plain steps levels off because the training does; further training
    starts from a rate again. Where the log has no rates, a step counts as one.
    """
    known = {line["step"]: line.get("learning_rate") for line in log if line.get("kind") == "train"}
    pairs = sorted((step, float(rate)) for step, rate in known.items() if isinstance(rate, int | float))
    if not pairs or max(rate for _, rate in pairs) <= 0:
        return float
    places, rates = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    grid = np.arange(0, places[-1] + 1)
    done = np.concatenate([[0.0], np.cumsum(np.interp(grid[1:], places, rates))]) / rates.max()
    return lambda step: float(np.interp(step, grid, done) + max(step - grid[-1], 0.0))


def forgetting_curve(log: Sequence[Mapping[str, Any]], text: str) -> list[Fit]:
    """`fits` to the "probe" lines of a run's log about one text; empty where there are too few looks.

    The governor's walks back and changes of strength are part of what is fitted: the curve says how this run forgets.
    """
    looks = {line["step"]: line for line in log if line.get("kind") == "probe" and line.get("text") == text}
    clock = full_steps(log)
    used = [(clock(step), line) for step, line in sorted(looks.items()) if step > 0 and _usable(line)]
    if len(used) < LEAST:
        return []
    errors = [(float(line["high"]) - float(line["low"])) / 3.92 for _, line in used]
    weighed = errors if all(error > 0 for error in errors) else None
    return fits([x for x, _ in used], [float(line["rise"]) for _, line in used], weighed)


def _usable(line: Mapping[str, Any]) -> bool:
    return all(isinstance(line.get(k), int | float) and math.isfinite(line[k]) for k in ("rise", "low", "high"))


def _fitted(name: str, x: Floats, y: Floats, sigma: Floats | None) -> Fit | None:
    form, names = FORMS[name]
    top, middle = max(float(np.abs(y).max()), 1e-9), float(np.median(x))
    sign = 1.0 if y.sum() >= 0 else -1.0
    begin, low = {
        "exponential": ((1.2 * sign * top, middle), (-np.inf, 1e-6 * middle)),
        "power": ((float(y.mean()) / middle or 1e-9, 1.0), (-np.inf, 0.0)),
        "closed": ((float(y.mean()) / middle or 1e-9,), (-np.inf,)),
    }[name]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", OptimizeWarning)
            best, covariance = curve_fit(
                form, x, y, p0=begin, sigma=sigma, bounds=(low, np.inf), method="trf", x_scale=np.abs(begin)
            )
    except RuntimeError:  # it did not converge
        return None
    return _judged(name, dict(zip(names, map(float, best), strict=True)), covariance, y - form(x, *best), y, sigma)


def _judged(
    name: str, parameters: dict[str, float], covariance: Any, left: Floats, y: Floats, sigma: Floats | None
) -> Fit:
    n, k = len(y), len(parameters) + 1  # the spread of what is left is a parameter too
    weights = np.ones(n) if sigma is None else (1 / sigma**2) / np.mean(1 / sigma**2)
    error = float((weights * left**2).sum())
    variance = float((weights * (y - np.average(y, weights=weights)) ** 2).sum())
    known = np.where(np.isfinite(covariance), covariance, 0.0)
    aicc = n * math.log(max(error / n, 1e-300)) + 2 * k + (2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.inf)
    return Fit(
        name,
        parameters,
        np.asarray(known, dtype=np.float64),
        r2=1 - error / variance if variance else math.nan,
        spread=math.sqrt(error / (n - len(parameters))),
        aicc=aicc,
        n=n,
    )
