"""The dial: a run's frontier between learning and forgetting, and the model at the place that a budget allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text as Words

from holdfast._errors import BadInput, Unsupported
from holdfast.adapters.method import methods
from holdfast.base import Base
from holdfast.budget import Guard
from holdfast.dial.line import Fractions, Line, Way, in_turn, merged, together
from holdfast.dial.measuring import Measure, Point, Text
from holdfast.dial.writing import write_model
from holdfast.evaluation.certificate import Audited, certify
from holdfast.evaluation.loss import sequence_losses
from holdfast.evaluation.plain import write_json
from holdfast.evaluation.report import frontier_picture
from holdfast.evaluation.report.headline import between, change, marked, nats
from holdfast.governor import Governor
from holdfast.recipe.checking import settings_of
from holdfast.recipe.loading import load
from holdfast.recipe.model import opened
from holdfast.recipe.outcome import model_card, versions
from holdfast.recipe.schema import Recipe
from holdfast.recipe.texts import Guarded, Texts

Progress = Callable[[Mapping[str, Any]], None]

WAYS = {"together": "all blocks together", "in turn": "one block after the other"}
"""The ways from before to after, and what they are."""


@dataclass(frozen=True)
class Dialled:
    """What the dial found: `frontiers` by way; `chosen` and `certificate` are None without a budget.

    `way` and `fractions` say where the chosen model stands.
    """

    folder: Path
    frontiers: Mapping[str, Sequence[Point]]
    way: str | None = None
    chosen: Point | None = None
    fractions: Fractions | None = None
    certificate: Mapping[str, Any] | None = None

    @property
    def verdict(self) -> str | None:
        """ "holds", "undecided" or "broken"; None without a budget."""
        return None if self.certificate is None else self.certificate["verdict"]


def dial(
    run: str | Path,
    *,
    budget: float | None = None,
    points: int = 10,
    layers: bool = False,
    output: str | Path | None = None,
    texts: Texts | None = None,
    progress: Progress | None = None,
) -> Dialled:
    """Interpolate between the model before a run and the one it left, and write the furthest inside a budget.

    `budget` is the allowed rise of perplexity on every guarded text; without one the run's own counts, and where it
    has none nothing is chosen. Control rows choose; frontier and certificate are measured on audit rows. With `layers`
    blocks may also go back one after the other, in the order of what each takes back for what it costs, and the way on
    which more of the learning is left is taken. `texts` are those of a task of a sequence. All goes to `output`, by
    default `dial` in the run's folder: frontier.png, dial.json, and certificate.json, recipe.yaml and final/ where a
    model was chosen. Raises BadInput for a folder without a finished run, and for a budget that cannot be resolved.
    """
    run, say = Path(run), progress or (lambda line: None)
    target = Path(output) if output is not None else run / "dial"
    recipe, base, line = _opened(run)
    say({"kind": "stage", "text": "preparing texts"})
    texts = texts or Texts(recipe, base)
    guarded = _budgeted(texts.guarded, budget)
    measure = _measure(recipe, base, line, guarded, texts)
    learnt = _text(base, texts.learn[1].rows)
    kept = {name: _text(base, text.audit.rows, text, "audit") for name, text in guarded.items()}
    ways = {"together": together(list(line.blocks))}
    if layers:
        say({"kind": "stage", "text": "weighing blocks"})
        ways["in turn"] = in_turn(measure.order())
    frontiers = {}
    for name, way in ways.items():
        say({"kind": "stage", "text": f"measuring the frontier, {WAYS[name]}"})
        frontiers[name] = [measure.point(i / points, way(i / points), learnt, kept) for i in range(points + 1)]
    found = Dialled(target, frontiers)
    if not measure.guards:
        return _told(found, budget)
    say({"kind": "stage", "text": "looking for the furthest place inside the budget"})
    name, setting = _best(measure, ways)
    fractions = ways[name](setting)
    found = replace(found, way=name, chosen=measure.point(setting, fractions, learnt, kept), fractions=fractions)
    audited = [Audited(text.audit, kept[n].before, text.budget) for n, text in guarded.items()]
    with line.at(fractions) as model:
        judged = certify(model, audited, [Audited(texts.learn[1], learnt.before)], pad_id=base.pad_id)
    found = replace(found, certificate={**judged, **_facts(recipe, base, found)})
    card = partial(model_card, found.certificate or {}, (run / "recipe.yaml").read_text("utf-8"))
    write_model(run, base, recipe, line, fractions, card, target)
    return _told(found, budget, run)


def _opened(run: Path) -> tuple[Recipe, Base, Line]:
    if not (run / "final").is_dir() or not (run / "recipe.yaml").is_file():
        raise BadInput(f"{run} holds no finished run: the dial needs its recipe.yaml and its final/. Train it first.")
    recipe = load(run / "recipe.yaml")
    traits = methods.traits(recipe.method.name)
    if not traits.merges or traits.loading is not None:
        raise Unsupported(
            f"What `{recipe.method.name}` learnt is no difference of weights, so there is no line to go back along. "
            "Train it again with less: fewer steps, or stronger rules."
        )
    before = opened(recipe)
    base = Base(merged(before.model), before.tokenizer, before.name, before.digest)  # type: ignore[arg-type]
    return recipe, base, Line(base.model, opened(recipe, run / "final").model)


def _budgeted(guarded: Mapping[str, Guarded], budget: float | None) -> dict[str, Guarded]:
    """The guarded texts under the budget that was asked for."""
    if not guarded:
        raise BadInput(
            "This run guards no text, so there is nothing that the dial could keep. Set `keep` in its recipe."
        )
    if budget is None:
        return dict(guarded)
    return {name: replace(text, budget=budget) for name, text in guarded.items()}


def _measure(recipe: Recipe, base: Base, line: Line, guarded: Mapping[str, Guarded], texts: Texts) -> Measure:
    """What chooses; refuses a budget that the probes cannot resolve."""
    limited = {name: text for name, text in guarded.items() if text.budget is not None}
    control = {name: _text(base, text.control.rows, text, "control") for name, text in limited.items()}
    confidence = recipe.keep.settings.get("confidence", settings_of(Governor)["confidence"])
    guards = [Guard(n, t.control.rows, t.audit.documents, t.budget or 0.0) for n, t in limited.items()]
    for guard in guards:
        guard.refuse(confidence)
    return Measure(line, guards, control, texts.learn[0], confidence=confidence, pad_id=base.pad_id)


def _text(base: Base, rows: Sequence[Any], text: Guarded | None = None, part: str = "") -> Text:
    """Rows with the losses before: those that the text brings, else the base's."""
    given = None if text is None else text.before.get(part)
    return Text(rows, given or sequence_losses(base.model, rows, pad_id=base.pad_id))


def _best(measure: Measure, ways: Mapping[str, Way]) -> tuple[str, float]:
    """The way, and the setting on it, that leaves most of the learning inside the budget."""
    found = {name: measure.largest(way) for name, way in ways.items()}
    name = min(found, key=lambda name: measure.taught_loss(ways[name](found[name])))
    return name, found[name]


def _facts(recipe: Recipe, base: Base, dialled: Dialled) -> dict[str, Any]:
    assert dialled.chosen is not None and dialled.way is not None
    return {
        "base": {"name": base.name, "digest": base.digest},
        "method": f"{recipe.method.name}, dialled to {dialled.chosen.setting:.3f} ({WAYS[dialled.way]})",
        "seed": recipe.seed,
        "steps": 0,
        "stopped": None,
        "seconds": None,
        "versions": versions(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _told(dialled: Dialled, budget: float | None, run: Path | None = None) -> Dialled:
    """Write what was found; the recipe goes with a chosen model, so that its folder can be read like a run's."""
    folder = dialled.folder
    folder.mkdir(parents=True, exist_ok=True)
    plain = {
        "budget": budget,
        "way": dialled.way,
        "setting": dialled.chosen and dialled.chosen.setting,
        "fractions": dialled.fractions,
        "frontiers": {name: [_plain(point) for point in points] for name, points in dialled.frontiers.items()},
        "chosen": dialled.chosen and _plain(dialled.chosen),
    }
    write_json(plain, folder / "dial.json")
    if run is not None:
        (folder / "recipe.yaml").write_text((run / "recipe.yaml").read_text("utf-8"), encoding="utf-8")
        write_json(dialled.certificate, folder / "certificate.json")
    frontier_picture(plain, folder / "frontier.png")
    return dialled


def _plain(point: Point) -> dict[str, Any]:
    figures = {"gain": point.gain, **point.rises}
    told = {name: {k: getattr(i, k) for k in ("mean", "low", "high", "upper")} for name, i in figures.items()}
    return {"setting": point.setting, "gain": told.pop("gain"), "rises": told}


def render_dialled(dialled: Dialled) -> Table:
    """The frontier as a table for the terminal, with the chosen place in it."""
    table = Table("setting", title="from before (0) to after (1)", title_justify="left")
    table.caption = Words("[…] 95 % interval on audit texts; gain in nats per token, forgetting as perplexity")
    chosen = dialled.chosen
    texts = list(next(iter(dialled.frontiers.values()))[0].rises)
    for heading in ("gain", *(f"forgetting of {text}" for text in texts)):
        table.add_column(Words(heading), justify="right")
    for name, points in dialled.frontiers.items():
        shown = sorted([*points, *([chosen] if chosen and dialled.way == name else [])], key=lambda p: p.setting)
        table.add_section()
        if len(dialled.frontiers) > 1:
            table.add_row(Words(WAYS[name], style="italic"))
        for point in shown:
            table.add_row(*map(Words, _row(point, texts)), style="bold" if point is chosen else None)
    if dialled.verdict is not None:
        table.title = (
            f"{table.title}; chosen {chosen.setting:.3f}, {marked(dialled.verdict)}" if chosen else table.title
        )
    return table


def _row(point: Point, texts: Sequence[str]) -> list[str]:
    gain, rises = point.gain, [point.rises[text] for text in texts]
    told = [f"{change(rise.mean)} {between(rise.low, rise.high, change)}" for rise in rises]
    setting = f"{point.setting:.3f}".rstrip("0").rstrip(".") if math.isfinite(point.setting) else ""
    return [setting, f"{nats(gain.mean)} {between(gain.low, gain.high, nats)}", *told]
