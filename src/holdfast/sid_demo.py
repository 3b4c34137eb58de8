"""The demo of semantic IDs: items get words from their titles, and the embedded model learns what follows what."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from holdfast._errors import BadInput
from holdfast.display import Display, Watcher
from holdfast.evaluation.report import FORMATS, render_table, write_report
from holdfast.items.catalogue import Catalogue
from holdfast.items.made_up import made_up
from holdfast.items.reading import load as load_items
from holdfast.items.subset import subset
from holdfast.items.writing import write
from holdfast.recipe import load, run
from holdfast.recipe.identifying import Identified, build_ids
from holdfast.recipe.identifying_table import render_ids
from holdfast.recipe.ranking import MODEL, drawn, evaluate_items, write_recommendations
from holdfast.recipe.ranking_table import render_recommended
from holdfast.recipe.recommender import open_recommender
from holdfast.recipe.recommending import Query, recommend_items

TITLE = "Items as new words of a language model"
RECIPE = "semantic_ids"
RUNS: Mapping[str, tuple[str, ...]] = {
    "rows": ("freeze_llm=true",),
    "rows-and-lora": (
        "freeze_llm=false",
        "method={name: lora, targets: mlp, rank: 8}",
        "train.learning_rate=2e-3",
        "train.max_steps=200",
        "keep.budget=0.02",
    ),
}
"""First nothing of the base trains but the new rows; from there on LoRA beside them, within a budget. What each run
says beside the shipped recipe."""

MARK = ".sid-demo"
"""Stands in a folder that this demo made, and so may replace."""

CODES, BEAMS, CASES, SHOWN = 16, 20, 600, 2
QUICK = ("train.max_steps=30", "keep.rows=256", "keep.budget=null")
"""What makes the demo a quick look."""


def sid_demo(
    output: Path, console: Console, *, data: Path | None = None, items: int = 300, quick: bool = False
) -> None:
    """Build IDs from titles, train, evaluate and recommend in `output`; raises KeyboardInterrupt where it was stopped.

    `data` is a folder in the layout of `holdfast.items.reading.load`, of which the `items` that were chosen most often
    are taken; without one a small catalogue is made up by rule, and the demo says so. What stood in `output` comes back
    where something goes wrong. Raises BadInput for a folder that holds no catalogue, and for an `output` that is no
    earlier demo's or lies in the data.
    """
    started = time.perf_counter()
    _check_place(output, data)
    shop = _shop(data, items, console)
    with _in_place_of(output):
        if not _made(shop, output, console, QUICK if quick else ()):
            raise KeyboardInterrupt
        for ending in FORMATS:
            write_report([output / name for name in RUNS], output / f"report{ending}", title=TITLE)
    console.print(render_table([output / name for name in RUNS]))
    seconds = time.perf_counter() - started
    console.print(f"Report: {output / 'report.html'}   Total time: {seconds // 60:.0f} min {seconds % 60:.0f} s")


def _shop(data: Path | None, items: int, console: Console) -> Catalogue:
    if data is None:
        console.print("No data were given (--data FOLDER): the items are made up by rule, nothing about them is real.")
        return made_up(identifiers=False)
    return subset(load_items(data), items)


def _check_place(output: Path, data: Path | None) -> None:
    """Raise BadInput where the demo would replace what is none of its own."""
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / MARK).is_file())):
        raise BadInput(f"{output} is there already and no earlier demo. Name a new folder: --output FOLDER.")
    there, mine = None if data is None else data.expanduser().resolve(), output.resolve()
    if there is not None and (mine == there or mine in there.parents or there in mine.parents):
        raise BadInput(f"The demo would write into the data {data}, or over it. Name another folder: --output FOLDER.")


@contextmanager
def _in_place_of(output: Path) -> Iterator[None]:
    """What stood there is gone only when the new folder is whole."""
    old = output.with_name(f".{output.name}-old-{os.getpid()}")
    if output.exists():
        os.replace(output, old)
    try:
        output.mkdir(parents=True)
        (output / MARK).touch()
        yield
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        if old.exists():
            os.replace(old, output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _made(shop: Catalogue, output: Path, console: Console, overrides: tuple[str, ...]) -> bool:
    console.print(f"{len(shop.items)} items: {shop.source}")
    write(shop, output / "items")
    base, shown = "tiny", dict[str, dict[str, Any]]()
    with Display(console, runs=1 + len(RUNS)) as display:
        ids = build_ids(output / "items", output / "ids", codes=CODES, say=_stages(display.run("ids")))
        for name, own in RUNS.items():
            watcher = display.run(name)
            named = (f"base={base}", f"vocabulary.items={ids.index}", f"learn.data={output / 'items'}")
            recipe = load(RECIPE, [*named, *own, *overrides, f"output={output / name}"])
            if run(recipe, progress=watcher).certificate is None:
                return False
            shown[name] = _evaluated(output / name, _stages(watcher))
            base = str(output / name / "final")
            watcher.done()
    _show(ids, shown, console)
    return True


def _evaluated(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Rank test cases with a run's model, recommend to a few users, and write both into its folder."""
    recommender = open_recommender(folder)
    found = evaluate_items(recommender, beams=BEAMS, cases=CASES, ks=(5, 10), say=say)
    cases = drawn(recommender.catalogue.split("test"), SHOWN, seed=1)
    lists = recommend_items(recommender, [Query(c.user, c.history) for c in cases], k=5, beams=BEAMS)
    title = recommender.catalogue.title
    found["examples"] = [
        {"history": [*map(title, c.history)], "target": title(c.target), "recommended": [r.title for r in one]}
        for c, one in zip(cases, lists, strict=True)
    ]
    write_recommendations(found, folder)
    return {**found, "lists": lists}


def _show(ids: Identified, shown: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """The IDs, how both runs rank and what they kept, and what the last one recommends to a few users."""
    console.print(render_ids(ids), _ranked(shown), _language(shown), sep="\n")
    last = [*shown.values()][-1]
    for example, one in zip(last["examples"], last["lists"], strict=True):
        had = " · ".join(example["history"][-3:])
        console.print(render_recommended(f"had: {had}; then chose: {example['target']}", one))


def _ranked(shown: Mapping[str, Mapping[str, Any]]) -> Table:
    """Hit rate and gain of both runs beside those of the baselines, on the same cases."""
    first = next(iter(shown.values()))
    rankings = {name: found["rankings"][MODEL] for name, found in shown.items()}
    rankings |= {name: one for name, one in first["rankings"].items() if name != MODEL}
    table = Table("", "HR@10", "NDCG@10", title=f"{first['rankings'][MODEL]['cases']} test cases", title_justify="left")
    for name, one in rankings.items():
        table.add_row(name, *(_told(one["by_item"][measure]) for measure in ("hr@10", "ndcg@10")))
    return table


def _told(entry: Mapping[str, float]) -> str:
    return f"{entry['mean']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def _language(shown: Mapping[str, Mapping[str, Any]]) -> Table:
    """What is left of the stories: the loss counts what went to new words, the logits of old words are the base's."""
    table = Table("", "stories, all tokens", "old tokens alone", "an old logit moved by", "an old row moved by")
    for name, found in shown.items():
        language = found["language"]
        for entry in language["texts"]:
            old = entry["old_tokens"]
            rises = (f"{x['rise']:+.4f} nats" for x in (entry["certificate"], old))
            table.add_row(name, *rises, f"{old['logit']:.3g}", f"{language['old_row']:.3g}")
    return table


def _stages(watcher: Watcher) -> Callable[[str], None]:
    return lambda text: watcher({"kind": "stage", "text": text})
