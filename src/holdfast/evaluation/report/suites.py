"""The sections about an evaluation: each suite before and after, the worst examples, what nobody guards, and drift."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Group
from rich.text import Text

from holdfast.evaluation.report.content import (
    Answers,
    Block,
    Cell,
    Folded,
    Heading,
    Listing,
    Note,
    Picture,
    Pictures,
    Section,
    Table,
    Verdicts,
)
from holdfast.evaluation.report.forest import forest
from holdfast.evaluation.report.headline import NOTHING, SPACE, between, marked, render_table, signed, whole
from holdfast.evaluation.report.records import Entry, RunRecord, number, read_runs

_COLUMNS = ("suite", "before", "after", "got worse by", "margin", "verdict", "p", "examples")
_TONES = {"forgot": "broken", "kept": "holds", "improved": "holds", "undecided": "undecided"}


@dataclass(frozen=True)
class Unit:
    """How figures of one unit are written: a level, a difference, and what a difference is counted in."""

    level: Callable[[float], str]
    difference: Callable[[float], str]
    counted: str
    times: float = 1.0


def unit(name: str) -> Unit:
    """Shares as per cent, with differences in percentage points; anything else with three decimals, as it is."""
    if name == "share":
        return Unit(_share, _points, "percentage points", 100.0)
    return Unit(_level, lambda value: signed(value, 3), name)


def _share(value: float) -> str:
    return f"{100 * value:.1f}{SPACE}%" if math.isfinite(value) else NOTHING


def _points(value: float) -> str:
    return signed(100 * value, 1)


def _level(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else NOTHING


def suites_section(runs: Sequence[RunRecord]) -> Section:
    """Each evaluation as a table and as a picture, with its verdicts in words."""
    found = [(i, run) for i, run in enumerate(runs) if run.suites()]
    parts: list[Block] = [Verdicts([(i, run.name, verdicts(run)) for i, run in found])] if found else []
    for i, run in found:
        parts += [Heading(f"{run.name}, against {_base(run)}", i), _table(run), Pictures(partial(_forests, run))]
        parts += [*_about(run), *_unguarded(run), *_drift(run), *_scores(run)]
    if found:
        parts.append(Note(_READING))
    return Section("What the suites say", parts, "evaluation", {run.name: run.evaluation for _, run in found} or None)


_READING = (
    "Got worse by: positive is worse, whichever way the metric counts, with its 95 % interval; in pictures, the margin "
    "is the red line and the metric's noise the grey band. Forgot, improved and kept are said where a one-sided 95 % "
    "bound says it of the margin; undecided where the examples do not suffice. Needs: so many would. Detects: the loss "
    "that they find four times in five. p: of no change at all; the second one allows for the number of suites (Holm). "
    "A suite at chance level is not judged."
)


def _base(run: RunRecord) -> str:
    return str((run.evaluation or {}).get("base") or "its base")


def verdicts(run: RunRecord) -> str:
    """What the suites say, in a sentence."""
    by_verdict: dict[str, list[str]] = {}
    for suite in run.suites():
        by_verdict.setdefault(str(suite.get("verdict") or "not judged"), []).append(str(suite.get("suite")))
    counts = Counter({verdict: len(names) for verdict, names in by_verdict.items()})
    order = (*_TONES, "not judged")
    said = [
        f"{verdict} {counts[verdict]}" + (f" ({', '.join(by_verdict[verdict])})" if verdict == "forgot" else "")
        for verdict in sorted(counts, key=lambda verdict: order.index(verdict) if verdict in order else len(order))
    ]
    number_of = len(run.suites())
    return f"was asked {number_of} suite{'s' * (number_of != 1)}: {', '.join(said)}."


def _table(run: RunRecord) -> Table:
    return Table(_COLUMNS, [_row(suite) for suite in run.suites()])


def _row(suite: Entry) -> list[Cell]:
    form, margin, p = unit(str(suite.get("unit"))), number(suite, "margin"), number(suite, "p")
    holm = number(suite, "p_holm")
    verdict = suite.get("verdict")
    told = (str(suite[key]) for key in ("dimension", "language", "role") if suite.get(key))
    return [
        Cell(str(suite.get("suite", NOTHING)), tuple(filter(None, (", ".join(told),)))),
        _measured(suite, "before", form),
        _measured(suite, "after", form),
        _worse(suite, form),
        Cell(form.difference(margin).lstrip("+"), exact=form.times * margin),
        Cell(marked(str(verdict or "")), tuple(_needs(suite, form)), _TONES.get(str(verdict))),
        Cell(_probability(p), (f"of all {_probability(holm)}",) if math.isfinite(holm) else (), exact=p),
        Cell(whole(_count(suite)), tuple(_turned(suite)), exact=_count(suite)),
    ]


def _measured(suite: Entry, key: str, form: Unit) -> Cell:
    return _interval(_of(suite, key), form.level, form.times)


def _worse(suite: Entry, form: Unit) -> Cell:
    found = _interval(_of(suite, "worse"), form.difference, form.times)
    counted = (form.counted, "no better or worse") if _neither(suite) else (form.counted,)
    return replace(found, details=(*found.details, *counted)) if found.details else found


def _neither(suite: Entry) -> bool:
    """Whether more of a figure is no better than less; its change is then a rise and nothing else."""
    return "higher" in suite and suite["higher"] is None


def _interval(entry: Entry, form: Callable[[float], str], times: float = 1.0) -> Cell:
    """A figure with its interval; sorted as it is written, whatever its unit."""
    mean = number(entry, "mean")
    if math.isnan(mean):
        return Cell(NOTHING)
    return Cell(form(mean), (between(number(entry, "low"), number(entry, "high"), form),), exact=times * mean)


def _of(entry: Entry, key: str) -> Entry:
    found = entry.get(key)
    return found if isinstance(found, Mapping) else {}


def _count(suite: Entry) -> float:
    return number(_of(suite, "after"), "n")


def _probability(p: float) -> str:
    return NOTHING if math.isnan(p) else f"{p:.3f}" if p >= 0.001 else "<0.001"


def _needs(suite: Entry, form: Unit) -> Iterator[str]:
    needs, detectable, chance = (number(suite, key) for key in ("needs", "detectable", "chance"))
    if not suite.get("verdict") and math.isfinite(chance):
        yield f"chance {form.level(chance)}"
    if math.isfinite(needs):
        yield f"needs {whole(needs)}"
    if math.isfinite(detectable):
        yield f"detects {form.difference(detectable).lstrip('+')}"


def _turned(suite: Entry) -> Iterator[str]:
    """How many examples went from right to wrong, and the other way."""
    lost, gained = number(suite, "lost"), number(suite, "gained")
    if math.isfinite(lost) and math.isfinite(gained):
        yield f"{whole(lost)} lost, {whole(gained)} gained"


def _forests(run: RunRecord) -> list[Picture]:
    """A picture for each unit: what is counted differently does not share an axis."""
    units: dict[str, list[Entry]] = {}
    for suite in run.suites():
        if math.isfinite(number(_of(suite, "worse"), "mean")) and not _neither(suite):
            units.setdefault(str(suite.get("unit")), []).append(suite)
    return [
        Picture(f"{run.name}: got worse by, {unit(name).counted}", forest(suites, unit(name).times))
        for name, suites in units.items()
    ]


def _about(run: RunRecord) -> list[Block]:
    """What each suite can show, and what it cannot, in its own words."""
    said = {str(suite.get("suite")): str(suite["about"]) for suite in run.suites() if suite.get("about")}
    return [Folded("What each suite can show, and what it cannot", [Listing(said)])] if said else []


def _unguarded(run: RunRecord) -> list[Block]:
    names = (run.evaluation or {}).get("unguarded")
    if not isinstance(names, list) or not names:
        return []
    return [Note(f"No suite guards {', '.join(map(str, names))}: about that, this says nothing.", quiet=False)]


def _drift(run: RunRecord) -> list[Block]:
    """How far the answers went from the base's, whether better or worse."""
    drift = _of(run.evaluation or {}, "drift")
    output = {f"output distribution, {name}": entry for name, entry in _of(drift, "output").items()}
    known = {**output, **_of(drift, "style")}
    rows = [_drifted(name, entry) for name, entry in known.items() if isinstance(entry, Mapping) and entry]
    return [Note("Drift: how far answers went from the base's, for better or worse."), _drifts(rows)] if rows else []


def _drifts(rows: list[list[Cell]]) -> Table:
    return Table(("drift of", "distance", "noise", "examples"), rows)


def _drifted(name: str, entry: Entry) -> list[Cell]:
    noise, n = number(entry, "noise"), number(entry, "n")
    return [
        Cell(name.replace("_", " ")),
        _interval(entry, _plain),
        Cell(_plain(noise), exact=noise),
        Cell(whole(n), exact=n),
    ]


def _plain(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def _scores(run: RunRecord) -> list[Block]:
    scores = _of(run.evaluation or {}, "scores")
    said = {name.replace("_", " "): _score(value) for name, value in scores.items() if not isinstance(value, Mapping)}
    return [Folded("As single figures", [Listing(said)])] if said else []


def _score(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return _plain(number({"value": value}, "value"))


def examples_section(runs: Sequence[RunRecord]) -> Section:
    """The examples that got worst, side by side, folded suite by suite."""
    parts: list[Block] = []
    for i, run in enumerate(runs):
        folded = [_worst(i, run, suite) for suite in run.suites() if suite.get("worst")]
        parts += [Heading(run.name, i), *folded] if folded else []
    return Section("The worst examples", parts)


def _worst(place: int, run: RunRecord, suite: Entry) -> Folded:
    examples = [example for example in suite["worst"] if isinstance(example, Mapping)]
    shown = [Answers(str(example.get("prompt", NOTHING)), [*_answers(place, run, example)]) for example in examples]
    return Folded(f"{suite.get('suite')}: the {len(shown)} that lost most", shown)


def _answers(place: int, run: RunRecord, example: Entry) -> Iterator[tuple[int | None, str, str]]:
    if example.get("expected") is not None:
        yield None, "expected", str(example["expected"])
    yield None, f"{_base(run)}{_scored(example, 'score_before')}", str(example.get("before") or NOTHING)
    yield place, f"{run.name}{_scored(example, 'score_after')}", str(example.get("after") or NOTHING)


def _scored(example: Entry, key: str) -> str:
    score = number(example, key)
    return f" ({score:.3g})" if math.isfinite(score) else ""


def render_runs(runs: Sequence[RunRecord | str | Path]) -> Group:
    """For the terminal: the table of the runs, and what the suites say in words."""
    records = read_runs(runs)
    trained = [run for run in records if run.trained]
    table = [render_table(trained)] if trained else []
    return Group(*table, *(Text(f"{run.name} {verdicts(run)}") for run in records if run.suites()))
