"""The headline: what each run learnt and kept, as figures in words and as a table for page and terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from holdfast.evaluation.report.content import Cell
from holdfast.evaluation.report.records import Entry, RunRecord, number, percent, read_runs

SPACE = "\N{NO-BREAK SPACE}"
NOTHING = "\N{EN DASH}"
_PERCENT = f"{SPACE}%"
_GOOD, _BAD = "\N{CHECK MARK}", "\N{MULTIPLICATION X}"
MARKS = {
    "holds": _GOOD,
    "undecided": "?",
    "broken": _BAD,
    "kept": _GOOD,
    "improved": "\N{UPWARDS ARROW}",
    "forgot": _BAD,
}
TONES = {"holds": "green", "undecided": "yellow", "broken": "red"}


@dataclass(frozen=True)
class Headline:
    """The table: one row per run, as many cells in each as there are columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def signed(value: float, digits: int) -> str:
    """A figure with its sign, a true minus, and a dash where it is not known."""
    if math.isnan(value):
        return NOTHING
    text = "∞" if math.isinf(value) else f"{abs(value):,.{digits}f}"
    return ("\N{MINUS SIGN}" if value < 0 and text.strip("0.") else "+") + text


def nats(value: float) -> str:
    """Nats per token with three decimals."""
    return signed(value, 3)


def change(rise: float) -> str:
    """A loss rise in nats per token as the change of perplexity in per cent."""
    return share(percent(rise))


def share(value: float) -> str:
    """Per cent with its sign, with two decimals below 10, one below 100, none above."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return NOTHING if math.isnan(value) else signed(value, digits) + _PERCENT


def allowance(budget: float) -> str:
    """A budget of 0.02 as 2 %."""
    return f"{100 * budget:.4g}{_PERCENT}" if math.isfinite(budget) else NOTHING


def precise(value: float) -> str:
    """A loss or a ratio with four decimals."""
    return f"{value:,.4f}" if math.isfinite(value) else NOTHING if math.isnan(value) else "∞"


def plain(value: float) -> str:
    """A perplexity, or another positive figure: two decimals below 100, none above."""
    if math.isnan(value):
        return NOTHING
    return "∞" if math.isinf(value) else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def whole(value: float) -> str:
    """A count."""
    return f"{value:,.0f}" if math.isfinite(value) else NOTHING


def seconds(value: float) -> str:
    """A duration."""
    if math.isnan(value):
        return NOTHING
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}{SPACE}min{SPACE}{rest}{SPACE}s" if minutes else f"{value:.1f}{SPACE}s"


def between(low: float, high: float, form: Callable[[float], str]) -> str:
    """An interval in the form of its figure."""
    ends = [form(low), form(high)]
    unit = _PERCENT if all(end.endswith(_PERCENT) for end in ends) else ""
    return f"[{', '.join(end.removesuffix(unit) for end in ends)}]{unit}"


def bounded(value: float, low: float, high: float, upper: float, form: Callable[[float], str], of: str = "") -> Cell:
    """A figure with its interval and its one-sided bound."""
    bound = form(upper).removesuffix(_PERCENT) if of else form(upper)
    return Cell(form(value), (between(low, high, form), f"bound {bound}{of}"), exact=value)


def headline(runs: Sequence[RunRecord]) -> Headline:
    """The figures of each run's certificate; a dash stands where a run does not know one."""
    learnt = list(dict.fromkeys(str(e.get("text")) for run in runs for e in run.audited("learnt")))
    kept = list(dict.fromkeys(str(e.get("text")) for run in runs for e in run.audited("kept")))
    columns = ["run"]
    columns += [f"{what} {text}" for text in learnt for what in _asked(runs)]
    columns += [f"forgetting of {text}" for text in kept] + ["time", "certificate"]
    return Headline(tuple(columns), tuple(_row(run, learnt, kept, _asked(runs)) for run in runs))


def _asked(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """What is told of what was learnt; of labels, which any run may have learnt, their accuracy too."""
    labels = any("accuracy" in entry for run in runs for entry in run.audited("learnt"))
    return ("gain on", "perplexity on", *(["accuracy on"] if labels else []))


def _row(run: RunRecord, learnt: Sequence[str], kept: Sequence[str], asked: Sequence[str]) -> tuple[Cell, ...]:
    new = {str(e.get("text")): e for e in run.audited("learnt")}
    old = {str(e.get("text")): e for e in run.audited("kept")}
    cells = [Cell(run.name)]
    for text in learnt:
        cells += [make(new.get(text)) for make in (_gain, _perplexity, accuracy)[: len(asked)]]
    cells += [_forgetting(old.get(text)) for text in kept]
    spent = number(run.certificate or {}, "seconds")
    return (*cells, Cell(seconds(spent), exact=spent), _judged(run))


def _gain(entry: Entry | None) -> Cell:
    if entry is None:
        return Cell(NOTHING)
    interval = between(number(entry, "low"), number(entry, "high"), nats)
    gain = number(entry, "gain")
    return Cell(f"{nats(gain)}{SPACE}nats", (interval,), exact=gain)


def _perplexity(entry: Entry | None) -> Cell:
    if entry is None:
        return Cell(NOTHING)
    interval = between(number(entry, "perplexity_low"), number(entry, "perplexity_high"), plain)
    base = number(entry, "base_loss")
    before = f"base {plain(math.exp(min(base, 700)))}" if math.isfinite(base) else ""
    perplexity = number(entry, "perplexity")
    return Cell(plain(perplexity), tuple(filter(None, (interval, before))), exact=perplexity)


def portion(value: float) -> str:
    """A share in per cent."""
    return f"{100 * value:.1f}{SPACE}%" if math.isfinite(value) else NOTHING


def accuracy(entry: Entry | None) -> Cell:
    """The accuracy of a certificate's entry, with its interval."""
    if entry is None or "accuracy" not in entry:
        return Cell(NOTHING)
    low, high = (number(entry, f"accuracy_{end}") for end in ("low", "high"))
    majority = f"most frequent label {portion(number(entry, 'majority'))}"
    return Cell(
        portion(number(entry, "accuracy")), (between(low, high, portion), majority), exact=number(entry, "accuracy")
    )


def _forgetting(entry: Entry | None) -> Cell:
    if entry is None:
        return Cell(NOTHING)
    allowed = number(entry, "budget")
    of = f" of {allowance(allowed)}" if math.isfinite(allowed) else ""
    rise, low, high, upper = (number(entry, key) for key in ("rise", "low", "high", "upper"))
    return bounded(rise, low, high, upper, change, of)


def _judged(run: RunRecord) -> Cell:
    if run.verdict is None:
        return Cell("none" if run.certificate is None else "no budget")
    return Cell(marked(run.verdict), tuple(f"needs {said}" for said in _needs(run)), run.verdict)


def marked(verdict: str) -> str:
    """A verdict behind its sign, or a dash."""
    return f"{MARKS.get(verdict, '')}{SPACE}{verdict}".strip() or NOTHING


def _needs(run: RunRecord) -> list[str]:
    """How many sequences of which text would decide."""
    return [
        f"{whole(number(entry, 'needs'))} of {entry.get('text')}"
        for entry in run.audited("kept")
        if math.isfinite(number(entry, "needs"))
    ]


def verdict_sentence(run: RunRecord) -> str:
    """What the certificate says, in one or two sentences of plain text."""
    if run.certificate is None:
        return f"has no certificate. {run.missing.get('certificate.json', '')}".strip()
    said = {
        "holds": "holds its certificate.",
        "undecided": "is undecided: the measured rise is inside the budget, its bound is not.",
        "broken": "breaks its certificate.",
    }.get(run.verdict or "", "was given no budget, so nothing is judged.")
    return " ".join(filter(None, (said, _worst_sentence(run), *_stopped_sentence(run))))


def _worst_sentence(run: RunRecord) -> str:
    kept = run.audited("kept")
    entry = run.worst(kept)
    if entry is None:
        return ""
    among = f", the worst of {len(kept)} guarded texts," if len(kept) > 1 else ""
    allowed, rise = number(entry, "budget"), change(number(entry, "rise"))
    went = f"{'rose' if rise[0] == '+' else 'fell'} by {rise[1:]}"
    most = f"its one-sided 95{SPACE}% bound is {change(number(entry, 'upper'))}"
    of = f", and {allowance(allowed)} was allowed" if math.isfinite(allowed) else ""
    needs = f" Sequences that would decide it: {', '.join(_needs(run))}." if _needs(run) else ""
    return f"On {entry.get('text')}{among} perplexity {went}; {most}{of}.{needs}"


def _stopped_sentence(run: RunRecord) -> list[str]:
    stopped = (run.certificate or {}).get("stopped")
    return [f"The run was stopped before its end: {str(stopped).rstrip('.')}."] if stopped else []


def render_table(runs: Sequence[RunRecord | str | Path]) -> Table:
    """The headline table for the terminal: a column per run, so that three runs fit into 80 characters."""
    found = headline(read_runs(runs))
    note = "[…] 95 % interval; bound: one-sided 95 %; audit texts"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=note)
    table.add_column("")
    for row in found.rows:
        table.add_column(Text(row[0].value))
    for i, name in enumerate(found.columns[1:], start=1):
        said = "\n".join(name.rsplit(" ", 1)) if len(name) > 18 else name
        table.add_row(Text(said), *(_rich(row[i]) for row in found.rows))
        table.add_section()
    return table


def _rich(cell: Cell) -> Text:
    text = Text(cell.value, style=f"bold {TONES.get(cell.tone or '', '')}".strip())
    for detail in cell.details:
        text.append(f"\n{detail}", style="not bold dim")
    return text
