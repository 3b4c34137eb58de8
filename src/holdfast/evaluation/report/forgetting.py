"""The section of the page about forgetting curves: all forms through each run's looks, and what they foretell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from holdfast.evaluation.curve import EXPLAINED, Fit, forgetting_curve, full_steps
from holdfast.evaluation.report.content import Cell, Note, Picture, Pictures, Section, Table
from holdfast.evaluation.report.drawing import FAINT, colour
from holdfast.evaluation.report.headline import between, change, plain
from holdfast.evaluation.report.records import RunRecord, number, percent
from holdfast.evaluation.report.tips import tell

_LINES = {"exponential": "-", "power": (0, (4, 1.6)), "closed": (0, (1, 1.6))}
_FORMULAS = {
    "exponential": "c (1 \N{MINUS SIGN} exp(\N{MINUS SIGN}x / s))",
    "power": "a x^b",
    "closed": "r x, the closed formula",
}


@dataclass(frozen=True)
class Curve:
    """The looks of one run at one text, over full steps, and the curves through them, the best one first."""

    place: int
    run: RunRecord
    text: str
    x: list[float]
    rises: list[float]
    fits: list[Fit]


def forgetting_section(runs: Sequence[RunRecord]) -> Section:
    """Each run's forgetting curve for each text that it was looked at often enough."""
    found = list(_curves(runs))
    if not found:
        few = "No run was looked at often enough for a curve: it takes five looks."
        return Section("Forgetting curves", [Note(few)])
    said = (
        "Change of perplexity over steps at the full learning rate (the sum of rates divided by the peak: under a rate "
        "that decays, fewer than the optimiser's steps). The curves go on for as long again: what further training of "
        "this kind would cost, if it went on as it did. Which curve fits better is for AICc to say (lower is better). "
        f"A curve that explains less than {EXPLAINED:.0%} of the variance is not drawn and foretells nothing: what is "
        "steered, or gets better again while the rate decays, does not follow one."
    )
    pictures = Pictures(lambda: [Picture(_name(curve), _drawn(curve)) for curve in found])
    columns = ("run and text", "curve", "R²", "spread, nats", "AICc", "foretold after twice the steps", "costs further")
    rows = [row for curve in found for row in _rows(curve)]
    figures = [entry for curve in found for entry in _figures(curve)]
    return Section("Forgetting curves", [Note(said), pictures, Table(columns, rows)], "forgetting_curves", figures)


def _curves(runs: Sequence[RunRecord]) -> Iterator[Curve]:
    for place, run in enumerate(runs):
        clock = full_steps(run.log)
        for text in run.texts("probe"):
            if fits := forgetting_curve(run.log, text):
                looks = [line for line in run.series("probe", text) if line["step"] > 0]
                x, rises = [clock(line["step"]) for line in looks], [number(line, "rise") for line in looks]
                yield Curve(place, run, text, x, rises, fits)


def _name(curve: Curve) -> str:
    return f"{curve.run.name}: {curve.text}"


def _drawn(curve: Curve) -> Figure:
    picture, hue = Figure(figsize=(4.8, 3.0), layout="constrained"), colour(curve.place)
    axes = picture.add_subplot()
    grid_of = np.linspace(0, 2 * max(curve.x), 160)[1:]
    sound = [fit for fit in curve.fits if fit.r2 >= EXPLAINED]
    for fit in sound:
        foretold = [percent(float(rise)) for rise in fit(grid_of)]
        axes.plot(grid_of, foretold, color=hue, linestyle=_LINES[fit.name], linewidth=1.4, label=_FORMULAS[fit.name])
    axes.plot(curve.x, [percent(rise) for rise in curve.rises], "o", color=hue, markersize=4)
    axes.axvline(max(curve.x), color=FAINT, linewidth=0.8)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set_xlabel("steps at the full learning rate")
    axes.set_ylabel("change of perplexity (%)")
    for x, rise in zip(curve.x, curve.rises, strict=True):
        tell(axes, x, percent(rise), f"{_name(curve)}, after {x:.4g} full steps: {change(rise)}")
    if sound:
        axes.legend(frameon=False, fontsize=8)
    return picture


def _figures(curve: Curve) -> Iterator[dict[str, object]]:
    for fit in curve.fits:
        told = {"curve": fit.name, "parameters": fit.parameters, "r2": fit.r2, "spread": fit.spread, "aicc": fit.aicc}
        yield {"run": curve.run.name, "text": curve.text, **told}


def _rows(curve: Curve) -> Iterator[list[Cell]]:
    last = max(curve.x)
    for fit in curve.fits:
        told = [(i, between(i.low, i.high, change)) for i in (fit.predict(2 * last), fit.cost(last, last))]
        parameters = ", ".join(f"{name} {value:.3g}" for name, value in fit.parameters.items())
        figures = (
            Cell(fit.name, (_FORMULAS[fit.name], parameters)),
            Cell(plain(fit.r2), exact=fit.r2),
            Cell(f"{fit.spread:.4f}", exact=fit.spread),
            Cell(f"{fit.aicc:.1f}", exact=fit.aicc),
            *(Cell(change(i.mean), (end,), exact=i.mean) if fit.r2 >= EXPLAINED else Cell("no fit") for i, end in told),
        )
        yield [Cell(curve.run.name, (curve.text,)), *figures]
