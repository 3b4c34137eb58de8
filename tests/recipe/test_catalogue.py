"""The items of a recipe: read again where their files changed, and what measures that they are learnt."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast._errors import BadInput, UnknownName
from holdfast.base import load_tokenizer
from holdfast.data.formats import Completion
from holdfast.items.tasks import Prompts
from holdfast.items.writing import write
from holdfast.recipe import load
from holdfast.recipe.catalogue import HISTORY, catalogue, histories, measuring
from holdfast.recipe.schema import Learn
from tests.items.shop import shop


def learn(folder: Path, **tasks: float) -> Learn:
    return Learn(data=str(folder), tasks=tasks or None)


def test_a_folder_is_read_again_where_a_file_has_changed_and_else_once(tmp_path: Path) -> None:
    write(shop(), tmp_path)
    recipe = load({"base": "tiny", "learn": str(tmp_path)})
    first = catalogue(recipe)
    assert first is not None and catalogue(recipe) is first
    file = next(tmp_path.rglob("*.item.json"))
    told = json.loads(file.read_text("utf-8"))
    told["3"]["title"] = "BIG HAT"
    stat = file.stat()
    file.write_text(json.dumps(told), "utf-8")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    again = catalogue(recipe)
    assert again is not None and again.title("3") == "BIG HAT"
    next(tmp_path.rglob("test/*.csv")).unlink()
    fewer = catalogue(recipe)
    assert fewer is not None and "test" not in fewer.splits


@pytest.mark.parametrize(
    ("tasks", "measured"),
    [
        ({}, ("history",)),
        ({"titles_to_id": 1.0, "history": 0.1}, ("history",)),
        ({"titles_to_id": 1.0, "title_to_id": 1.0, "preference": 2.5}, ("titles_to_id", "preference")),
        ({"title_to_id": 1.0, "id_to_title": 1.0}, ("title_to_id", "id_to_title")),
    ],
)
def test_the_learning_is_measured_on_what_is_taught(
    tmp_path: Path, tasks: dict[str, float], measured: tuple[str, ...]
) -> None:
    write(shop(), tmp_path)
    asked = learn(tmp_path, **tasks)
    assert measuring(asked) == measured
    _, found, told = histories(shop(), asked, load_tokenizer("tiny"), 0)
    prompts = Prompts(shop(), tokenizer=load_tokenizer("tiny"), max_tokens=asked.length)
    expected = [record for task in measured for record in prompts.records(task, "valid")]
    assert sorted(map(str, found)) == sorted(map(str, expected))
    assert measured == (HISTORY,) or all(task in told for task in measured)
    assert ("no part is held back" in told) == ("titles_to_id" not in tasks and bool(tasks))


def test_titles_alone_are_learnt_without_ids(tmp_path: Path) -> None:
    bare = replace(shop(), tokens={})
    write(bare, tmp_path)
    lessons, measured, told = histories(bare, learn(tmp_path, titles_to_title=1.0), load_tokenizer("tiny"), 0)
    assert len(lessons) == 3 and told.endswith("its valid users; titles_to_title")
    assert measured == [Completion('Titles:\nKäse 二 [1]\nLily\'s "red" cup, 2"\nNext title:', " big hat")]
    with pytest.raises(BadInput, match=r"no semantic IDs yet, which history, id_to_title.*sid build"):
        histories(bare, learn(tmp_path), load_tokenizer("tiny"), 0)


def test_unknown_tasks_and_labels_are_refused(tmp_path: Path) -> None:
    write(shop(), tmp_path)
    with pytest.raises(UnknownName, match="task called 'histories'"):
        histories(shop(), learn(tmp_path, histories=1.0), load_tokenizer("tiny"), 0)
    with pytest.raises(BadInput, match=r"holds items, and `learn.task: classify` tells labels"):
        catalogue(load({"base": "tiny", "learn": {"data": str(tmp_path), "task": "classify"}}))
