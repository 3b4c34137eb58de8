"""The section about recommended items: how the model ranks beside baselines, and whom it was asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.evaluation.report.content import Block, Cell, Heading, Note, Section, Table
from holdfast.evaluation.report.headline import SPACE
from holdfast.evaluation.report.records import Entry, RunRecord, number

MODEL = "model"
"""What the model's own ranking is called among those of the baselines."""


def items_section(runs: Sequence[RunRecord]) -> Section:
    """What each run recommends; empty where none has recommended anything."""
    found = [(i, run, run.recommendations) for i, run in enumerate(runs) if run.recommendations]
    blocks = [block for i, run, told in found for block in _blocks(i, run, told)]
    return Section("Recommendations", blocks, "recommendations", {run.name: dict(told) for _, run, told in found})


def _blocks(place: int, run: RunRecord, told: Entry) -> list[Block]:
    rankings = {name: r for name, r in _mapping(told.get("rankings")).items() if isinstance(r, Mapping)}
    measures = _measures(told, rankings)
    if MODEL not in rankings or not measures:
        return [Heading(run.name, place), Note("Its recommendations.json cannot be read.")]
    names = [MODEL, *sorted(rankings.keys() - {MODEL}, key=lambda n: -_mean(rankings[n], measures[0]))]
    rows = [[Cell(name), *(_cell(rankings[name], m) for m in measures)] for name in names]
    said = Note(_said(told, rankings[MODEL]), quiet=False)
    table = Table(("", *map(_called, measures)), rows)
    return [Heading(run.name, place), said, table, *_kept(told), *_examples(told)]


def _said(told: Entry, model: Entry) -> str:
    items = _mapping(told.get("items"))
    valid = number(model, "valid")
    return (
        f"{number(model, 'cases'):,.0f} cases of {number(model, 'users'):,.0f} users in the split "
        f"{told.get('split')!r} of {items.get('name')} ({items.get('source')}); {valid:.0%} of what the model "
        "recommends are items. In brackets: 95 % intervals over users."
    )


def _measures(told: Entry, rankings: Mapping[str, Entry]) -> list[str]:
    """Hit rate and gain at 10, or at the most that was looked at below."""
    ks = [k for k in told.get("ks") or [] if isinstance(k, int)]
    at = max((k for k in ks if k <= 10), default=min(ks, default=0))
    wanted = [f"hr@{at}", f"ndcg@{at}"]
    return wanted if all(m in _mapping(r.get("by_item")) for r in rankings.values() for m in wanted) else []


def _cell(ranking: Entry, measure: str) -> Cell:
    entry = _mapping(_mapping(ranking.get("by_item")).get(measure))
    mean, low, high = (number(entry, key) for key in ("mean", "low", "high"))
    return Cell(f"{mean:.3f}", (f"[{low:.3f},{SPACE}{high:.3f}]",), exact=mean)


def _mean(ranking: Entry, measure: str) -> float:
    return number(_mapping(_mapping(ranking.get("by_item")).get(measure)), "mean")


def _kept(told: Entry) -> list[Block]:
    """What is left of the language over the tokens that the base had, text by text."""
    language = _mapping(told.get("language"))
    texts = [entry for entry in language.get("texts") or [] if isinstance(entry, Mapping)]
    if not texts:
        return []
    rows = []
    for entry in texts:
        old, whole = _mapping(entry.get("old_tokens")), _mapping(entry.get("certificate"))
        figures = [number(whole, "rise"), *(number(old, key) for key in ("rise", "logit", "new_mass", "overtaken"))]
        forms = ("{:+.3f} nats", "{:+.3f} nats", "{:.2g}", "{:.2%}", "{:.2%}")
        cells = [form.format(x).replace(" ", SPACE) for form, x in zip(forms, figures, strict=True)]
        rows.append([Cell(str(entry.get("text"))), *(Cell(c, exact=x) for c, x in zip(cells, figures, strict=True))])
    moved = number(language, "old_row")
    note = Note(
        f"Largest change in the rows of old tokens: {moved:.2g}. Probability that went to new tokens counts as lost."
    )
    return [
        Table(
            (
                "language",
                "loss, all tokens",
                "loss, old tokens alone",
                "largest change of an old logit",
                "probability of new tokens",
                "places where one is likeliest",
            ),
            rows,
        ),
        note,
    ]


def _examples(told: Entry) -> list[Block]:
    """What a few users had, and what the model recommends to them."""
    rows = [
        [Cell(" · ".join(map(str, e.get("history") or ())), kind="wide"), Cell(str(e.get("target")), kind="wide"),
         Cell(" · ".join(map(str, e.get("recommended") or ())), kind="wide")]
        for e in told.get("examples") or [] if isinstance(e, Mapping)
    ]  # fmt: skip
    return [Table(("had", "then chose", "recommended"), rows, named=False, tall=True)] if rows else []


def _called(measure: str) -> str:
    return measure.replace("hr", "HR").replace("ndcg", "NDCG")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
