"""The picture of a learning-rate range test: the loss on the new text, and how much kept texts have risen."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from holdfast.evaluation.report.drawing import FAINT, INK, colour, dashes, picture_file, style, write
from holdfast.evaluation.report.records import Entry


def rates_picture(found: Entry, target: str | Path) -> Path:
    """Draw what `Rates.told` says: both over the learning rate, on a logarithmic axis."""
    target = picture_file(target)
    with style():
        figure = Figure(figsize=(8.0, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.plot(*zip(*found["learnt"], strict=True), color=colour(0), label="change of the loss on the new text")
        axes.axvline(found["suggested"], color=INK, linewidth=1.0)
        at = (found["suggested"], axes.get_ylim()[1])
        axes.annotate(f"{found['suggested']:.1e}", at, (4, -10), textcoords="offset points")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("learning rate")
        axes.axhline(0, color=FAINT, linewidth=0.8)
        axes.set_ylabel("change on the new text (nats per token)")
        if found["kept"]:
            beside = axes.twinx()
            beside.grid(visible=False)
            beside.axhline(0, color=FAINT, linewidth=0.8)
            for place, (name, pairs) in enumerate(found["kept"].items(), 1):
                label = f"rise of {name}"
                beside.plot(*zip(*pairs, strict=True), color=colour(place), linestyle=dashes(place), label=label)
            beside.set_ylabel("rise on kept texts (nats per token)")
            axes.plot([], [], color=INK, label="suggested")
        handles = [line for one in figure.axes for line in one.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, frameon=False, loc="outside upper left", ncols=len(handles))
        return write(figure, target)
