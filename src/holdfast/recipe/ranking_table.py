"""An evaluation of recommendations as a table for the terminal: a column for the model, and one for each baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text as Words

from holdfast.evaluation.report.headline import NOTHING, SPACE, between, change, signed
from holdfast.recipe.recommender import Recommended

NAMES = {"hr": "HR", "ndcg": "NDCG", "mrr": "MRR"}
SHOWN = (1, 5, 10)
"""K of which the terminal tells hit rates, if they were asked for; all of them stand in the JSON."""

PARTS = ("cold", "head", "tail")


def at_of(found: Mapping[str, Any]) -> int:
    """The K that segments and the picture are of: 10, or the largest below."""
    ks: list[int] = found["ks"]
    return max((k for k in ks if k <= 10), default=min(ks))


def interval_of(ranking: Mapping[str, Any], measure: str) -> tuple[float, float, float]:
    """Mean, low and high of a measure by item."""
    entry = ranking["by_item"][measure]
    return entry["mean"], entry["low"], entry["high"]


def render_ranking(found: Mapping[str, Any]) -> Table:
    """What `evaluate_items` gives, in per cent with 95 % intervals; below it, the language that was kept."""
    names, at = list(found["rankings"]), at_of(found)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("%", min_width=14, overflow="fold")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    shown = [k for k in found["ks"] if k in SHOWN] or [at]
    for measure in [f"hr@{k}" for k in shown] + [f"ndcg@{k}" for k in shown if k > 1]:
        _add(table, called(measure), [_interval(found["rankings"][name]["by_item"][measure]) for name in names])
    if all("by_id" in one for one in found["rankings"].values()):
        values = [_interval(found["rankings"][name]["by_id"][f"hr@{at}"]) for name in names]
        _add(table, f"HR@{at} by ID", values)
    table.add_section()
    for part in PARTS:
        entries = [found["rankings"][name]["segments"][part] for name in names]
        _add(table, f"HR@{at} {part}\n{entries[0]['cases']:,} cases", [_interval(e.get(f"hr@{at}")) for e in entries])
    table.add_section()
    for what in ("coverage", "diversity"):
        values = [_share(found["rankings"][name][f"exposure@{at}"][what]) for name in names]
        _add(table, f"{what}@{at}", values)
    _add(table, "valid items", [_share(found["rankings"][name]["valid"]) for name in names])
    _language(table, found["language"], len(names))
    table.caption = Words(_caption(found, at))
    return table


def render_recommended(query: str, found: Sequence[Recommended]) -> Table:
    """One list of recommendations."""
    table = Table("", "item", title=Words(query), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("title", overflow="fold", ratio=1)
    table.add_column("ID", no_wrap=True)
    table.add_column("probability", justify="right")
    for one in found:
        cells = (f"{one.rank}", one.item, one.title, one.sid, f"{one.probability:.3g}")
        table.add_row(*map(Words, cells))
    return table


def _add(table: Table, name: str, values: Sequence[str]) -> None:
    table.add_row(Words(name), *map(Words, values))


def _language(table: Table, language: Mapping[str, Any] | None, columns: int) -> None:
    """Rows of the language that the model kept; baselines have none."""
    if language is None:
        return
    table.add_section()
    empty = [""] * (columns - 1)
    for entry in language["texts"]:
        certified, old = entry["certificate"], entry["old_tokens"]
        if certified is not None:
            _add(table, f"{entry['text']}: perplexity", [_change(certified), *empty])
        _add(table, "… over old tokens", [_change(old), *empty])
        _add(table, "… largest change of an old logit", [f"{old['logit']:.3g}", *empty])
        _add(table, "… probability of new tokens", [f"{old['new_mass']:.2%}", *empty])
        _add(table, "… places where one is likeliest", [f"{old['overtaken']:.2%}", *empty])
    _add(table, "largest change of an old row", [f"{language['old_row']:.3g}", *empty])


def _caption(found: Mapping[str, Any], at: int) -> str:
    lines = []
    for measure in (f"hr@{at}", f"ndcg@{at}"):
        above = found["above"][measure]
        ends = between(above["low"], above["high"], lambda value: signed(100 * value, 2))
        lines.append(f"{called(measure)}: model − {above['baseline']} {signed(100 * above['mean'], 2)} {ends}")
    ranking = next(iter(found["rankings"].values()))
    unfit = f", {found['cases']['unfit']:,} more do not fit" if found["cases"]["unfit"] else ""
    seen = ", without what was seen" if found["exclude_seen"] else ""
    lines.append(
        f"{found['split']}: {ranking['cases']:,} of {found['cases']['of']:,} cases of {ranking['users']:,} users{unfit}"
        f", {found['beams']} beams{seen}"
    )
    return "\n".join([*lines, "below each figure its 95 % interval, over users; of texts, over documents"])


def called(measure: str) -> str:
    """`hr@10` as it is written in tables: HR@10."""
    name, _, k = measure.partition("@")
    return f"{NAMES[name]}@{k}"


def _interval(entry: Mapping[str, float] | None) -> str:
    if entry is None:
        return NOTHING
    return f"{100 * entry['mean']:.2f}\n{100 * entry['low']:.1f}–{100 * entry['high']:.1f}"


def _share(value: float) -> str:
    return NOTHING if value != value else f"{100 * value:.1f}"


def _change(entry: Mapping[str, float]) -> str:
    ends = ", ".join(change(entry[end]).removesuffix(f"{SPACE}%") for end in ("low", "high"))
    return f"{change(entry['rise'])}\n{ends}"
