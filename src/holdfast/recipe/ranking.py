"""How well a model recommends, beside baselines that need no model and beside the language that it kept."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from holdfast._errors import BadInput
from holdfast.evaluation.plain import write_json
from holdfast.items.baselines import baselines, recommended, unseen
from holdfast.items.catalogue import Interaction
from holdfast.items.ranking import KS, Ranking, plain, ranked
from holdfast.items.tasks import Unfit
from holdfast.recipe.catalogue import catalogue, without_ids
from holdfast.recipe.language import retention
from holdfast.recipe.outcome import versions
from holdfast.recipe.ranking_picture import ranking_picture
from holdfast.recipe.recommender import Recommender, check_task, default_task, taught
from holdfast.recipe.recommending import likeliest
from holdfast.recipe.schema import Recipe

RECOMMENDATIONS, PICTURE = "recommendations.json", "recommendations.png"
ASKED = ("split", "task", "beams", "exclude_seen", "cases", "seed", "ks")
"""What an evaluation was asked for; where it is the same, a new one takes the place of the old."""

MODEL = "model"

Say = Callable[[str], None]


def evaluate_items(
    recommender: Recommender,
    *,
    split: str = "test",
    task: str | None = None,
    ks: Sequence[int] = KS,
    beams: int = 50,
    cases: int | None = None,
    seed: int = 0,
    exclude_seen: bool = False,
    batch_size: int | None = None,
    language: bool = True,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Rank the items in the cases of a split, by the model and by every baseline, and measure the language kept.

    Baselines are fitted on what the model learnt from and asked about the same cases. `task` says in which words is
    asked (None: `default_task`); `cases` draws so many of the split, the same for the same seed; `exclude_seen` leaves
    out the items of a case's history, for all alike. Cases whose words do not fit into what the model read in training
    are left out and counted (`unfit`).

    Returns plain values: the settings, `rankings` by name (`Ranking.told`; the model's is "model"), `above` (by
    measure: the baseline that does best at it on these very cases, and by how much the model is better, in pairs),
    `language` (see `retention`; None where `language` is off or no recipe says what was kept).

    Raises UnknownName for a split or task that is not there, BadInput for settings out of range, a task that was not
    learnt, or a catalogue without training rows.
    """
    began = time.monotonic()
    task = default_task(recommender.learnt) if task is None else task
    recommender.check_task(task)
    if not ks or min(ks) < 1:
        raise BadInput(f"K is a number of recommendations, at least 1, not one of {list(ks)}.")
    whole = recommender.catalogue.split(split)
    chosen = drawn(whole, cases, seed)
    asked = _asked(recommender, task, chosen)
    kept = [case for case, _ in asked]
    gone = [set(case.history) for case in kept] if exclude_seen else None
    lists = likeliest(recommender, [words for _, words in asked], max(ks), beams, gone, batch_size, say)
    say("ranking by baselines")
    everything = {MODEL: [[item for item, _ in one] for one in lists]}
    everything |= _baselines(recommender, kept, max(ks), exclude_seen)
    say("computing intervals")
    items, counts = recommender.catalogue, recommender.counts
    rankings = {name: ranked(kept, one, items, counts, ks=ks, seed=seed) for name, one in everything.items()}
    return {
        "model": recommender.base.name,
        "items": {"name": items.name, "source": items.source},
        "split": split,
        "task": task,
        "beams": max(beams, *ks),
        "exclude_seen": exclude_seen,
        "cases": {"of": len(whole), "drawn": len(chosen), "unfit": len(chosen) - len(kept)},
        "seed": seed,
        "ks": sorted(set(ks)),
        "rankings": {name: one.told() for name, one in rankings.items()},
        "above": _above(rankings),
        "language": retention(recommender, say) if language else None,
        "seconds": round(time.monotonic() - began, 1),
        "versions": versions(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def check_recommends(recipe: Recipe, split: str = "test", task: str | None = None) -> str:
    """The task that asks; raises BadInput or UnknownName, before anything is trained, where it could not follow."""
    items = catalogue(recipe)
    if items is None:
        raise BadInput(
            f"{recipe.learn.data} holds no items, so there is nothing to recommend. Name a folder with NAME.item.json "
            "and NAME.index.json as `learn.data`, or train with `holdfast train`."
        )
    if not items.tokens:
        raise without_ids(recipe.learn.data)
    items.split(split)
    task = default_task(taught(recipe)) if task is None else task
    check_task(task, taught(recipe))
    return task


def write_recommendations(found: Mapping[str, Any], folder: str | Path, *, replace: bool = True) -> Path:
    """Write an evaluation as `recommendations.json` and its picture beside it, each whole or not at all.

    Without `replace` an evaluation that was asked for otherwise stays (another split, task, K, number of cases, …):
    that file is then of the test split alone, and what else there is goes to `recommendations-SPLIT.json`,
    `recommendations-SPLIT-2.json` and so on. Examples that stand in a file of the same settings are kept.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    file = target / RECOMMENDATIONS if replace else _beside(found, target)
    if not replace and file.is_file():
        found = {**{key: told for key, told in _told(file).items() if key == "examples"}, **found}
    ranking_picture(found, file.with_suffix(Path(PICTURE).suffix))
    write_json(found, file)
    return file


def _beside(found: Mapping[str, Any], folder: Path) -> Path:
    """The first of the names for an evaluation that is free, or taken by one of the same settings."""
    first = [RECOMMENDATIONS] if found["split"] == "test" else []
    others = (f"recommendations-{found['split']}{'' if n == 1 else f'-{n}'}.json" for n in count(1))
    files = (folder / name for name in chain(first, others))
    return next(file for file in files if not file.exists() or _asked_alike(_told(file), found))


def _asked_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other[key] for key in ASKED)


def _told(file: Path) -> Mapping[str, Any]:
    """What a file says; nothing where it cannot be read."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}


def drawn(rows: Sequence[Interaction], count: int | None, seed: int) -> list[Interaction]:
    """So many of the rows, in their order, the same for the same seed; all of them unless there are more."""
    if count is not None and count < 1:
        raise BadInput(f"At least one case is ranked, not {count}.")
    if count is None or count >= len(rows):
        return [*rows]
    return [rows[place] for place in sorted(random.Random(seed).sample(range(len(rows)), count))]


def _asked(recommender: Recommender, task: str, cases: Sequence[Interaction]) -> list[tuple[Interaction, str]]:
    """The cases whose words fit, with these words."""
    if not recommender.training:
        raise BadInput(
            f"The catalogue {recommender.catalogue.name!r} has no training rows, so nobody knows what is popular, and "
            "baselines have nothing to go by. Put train/NAME.csv into its folder."
        )
    found = []
    for case in cases:
        with suppress(Unfit):
            found.append((case, recommender.prompt(task, case)))
    if not found:
        raise BadInput(f"None of {len(cases)} cases fits into the tokens that a prompt has (`learn.length`).")
    return found


def _baselines(
    recommender: Recommender, cases: Sequence[Interaction], k: int, exclude_seen: bool
) -> dict[str, list[list[str]]]:
    """What each baseline recommends, until `k` IDs stand."""
    fitted = {name: baselines[name](recommender.training) for name in baselines.names()}
    ids = {item: recommender.catalogue.sid(item) for item in recommender.catalogue.items}.__getitem__
    return {name: recommended(unseen(rank) if exclude_seen else rank, cases, k, ids) for name, rank in fitted.items()}


def _above(rankings: Mapping[str, Ranking]) -> dict[str, Any]:
    """By measure, the best baseline and by how much the model is above it."""
    model = rankings[MODEL]
    found = {}
    for measure in (f"{name}@{k}" for name in ("hr", "ndcg") for k in model.ks):
        means = {name: float(one.each(measure).mean()) for name, one in rankings.items() if name != MODEL}
        best = max(means, key=lambda name: means[name])
        found[measure] = {"baseline": best, **plain(model.above(rankings[best], measure))}
    return found
