"""A search in words: its result in a sentence, its candidates as a table, and all of it as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text as Words

from holdfast.evaluation.report.headline import between, change, nats
from holdfast.evaluation.statistics import Interval
from holdfast.search.storage import Candidate

if TYPE_CHECKING:
    from holdfast.search.outcome import Found

BEATS = {
    "yes": "It beats the recipe as given",
    "inside": "It keeps the budget, which the recipe as given breaks",
    "no": "It does not beat the recipe as given",
    "undecided": "It is undecided whether it beats the recipe as given",
}


def headline(found: Found) -> str:
    """The result in a sentence or two."""
    whole, made = found.whole, len(found.candidates)
    if found.best is None:
        if not whole:
            return f"{made} recipes were tried, and the time was up before one made all its steps."
        return f"None of {len(whole)} whole runs is inside the budget; {made} recipes were tried."
    rung = whole[found.best]
    budget = "inside the budget" if found.limits else "at the knee of the front"
    at = f"gain {nats(rung.choosing.gain.mean)} nats per token, forgetting {change(rung.choosing.forgetting)}"
    if found.best == 0:
        return f"The recipe as it was given is the best of {made} {budget}: {at}."
    return f"Trial {found.best} is the best of {made} recipes {budget}: {at}. {compared(found)}"


def compared(found: Found) -> str:
    """The best recipe beside the default one, in a sentence; empty where there is none."""
    if found.comparison is None:
        return ""
    told = found.comparison
    verdicts = " and ".join(word or "no budget" for word in told.verdicts)
    rises = "; ".join(f"{name} {_with(rise)}" for name, rise in told.rises.items())
    kept = f" Change of forgetting: {rises}." if rises else ""
    budget = f" Verdicts there, its own and the given one's: {verdicts}." if any(told.verdicts) else ""
    more = f"on text that chose nothing, its gain differs by {_with(told.gain)} nats per token."
    return f"{BEATS[told.better]}: {more}{kept}{budget}"


def settings(candidate: Candidate) -> str:
    """What a candidate is, in a line."""
    if not candidate.number:
        return "as given"
    rest = {key: value for key, value in candidate.params.items() if key != "method"}
    said = [f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in rest.items()]
    return f"{candidate.params['method']}: {', '.join(said)}"


def _with(interval: Interval) -> str:
    return f"{nats(interval.mean)} {between(interval.low, interval.high, nats)}"


def state(found: Found, candidate: Candidate) -> str:
    """How far a candidate came."""
    if candidate.failed:
        return "failed"
    return "whole" if candidate.whole(len(found.steps)) else f"{candidate.rungs[-1].steps} steps"


def _rows(found: Found) -> list[tuple[str, ...]]:
    """A line for each candidate: whole runs first, the best of each length on top, failures last."""

    def key(candidate: Candidate) -> tuple[int, float]:
        last = candidate.rungs[-1] if candidate.rungs else None
        steps = 0 if candidate.failed or last is None else last.steps
        return (-steps, -last.choosing.gain.mean if last is not None else 0.0)

    return [_row(found, candidate) for candidate in sorted(found.candidates.values(), key=key)]


def _row(found: Found, candidate: Candidate) -> tuple[str, ...]:
    mark = "best" if candidate.number == found.best else "front" if candidate.number in found.front else ""
    name = (str(candidate.number), mark, settings(candidate), state(found, candidate))
    if not candidate.rungs:
        return (*name, candidate.failed or "", "")
    figures = candidate.rungs[-1].choosing
    worst = max(figures.rises.values(), key=lambda rise: rise.mean, default=None)
    kept = "" if worst is None else f"{change(worst.mean)} {between(worst.low, worst.high, change)}"
    return (*name, _with(figures.gain), kept)


HEADINGS = ("trial", "", "settings", "steps", "gain [95 %]", "worst forgetting [95 %]")


def render_found(found: Found) -> Table:
    """The whole runs as a table for the terminal; where there is none yet, all of them."""
    table = Table(title=f"{len(found.candidates)} recipes tried", title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading == "trial" else "left")
    rows = _rows(found)
    shown = [row for row in rows if row[3] == "whole"] or rows
    for row in shown:
        table.add_row(*map(Words, row), style="bold" if row[1] == "best" else None)
    left = f"; {len(rows) - len(shown)} shorter runs stand in search.md" if len(rows) > len(shown) else ""
    table.caption = Words(f"gain in nats per token, forgetting as perplexity, on the texts that choose{left}")
    table.caption_justify = "left"
    return table


def markdown(found: Found) -> str:
    """The result as a page."""
    lines = ["# Which recipe?", "", headline(found), ""]
    if found.volumes is not None:
        lines += [
            f"Dominated volume: {found.volumes[0]:.4g} by the recipe as given, {found.volumes[1]:.4g} by all.",
            "",
        ]
    lines += ["|".join(("", *HEADINGS, "")), "|".join(("", *["---"] * len(HEADINGS), ""))]
    lines += ["|".join(("", *(cell.replace("|", "\\|") for cell in row), "")) for row in _rows(found)]
    lines += ["", "Gain in nats per token, forgetting as perplexity, on the texts that choose.", ""]
    if found.importance:
        lines += ["## What decides", "", "Share of each choice in being among the best after the shortest runs.", ""]
        lines += [f"- {name}: {_shares(shares)}" for name, shares in found.importance.items()] + [""]
    if found.guess:
        lines += [f"The proxies' order agrees with what was found by {_spearman(found.guess)}.", ""]
    if found.rungs:
        lines += [f"The gains of shortest and whole runs agree by {_spearman(found.rungs)}.", ""]
    lines += [f"Not searched: {name}, because {why}" for name, why in found.refused.items()]
    return "\n".join(lines).rstrip() + "\n"


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{choice} {share:.0%}" for choice, share in shares.items())


def _spearman(told: Mapping[str, float]) -> str:
    return f"{told['correlation']:+.2f} (Spearman, p = {told['p']:.2g}, {told['n']:.0f} recipes)"
