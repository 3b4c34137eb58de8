"""The commands `holdfast sid`: what they print, what they write, and the exit code of each way to end."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import holdfast.recipe
from holdfast import cli
from holdfast._errors import BadInput
from holdfast.cli.app import complaints, console
from holdfast.items.writing import write
from holdfast.recipe import load, running
from holdfast.recipe.loading import parse
from holdfast.recipe.training import training_arguments
from tests.recipe.taught import once, shop, values


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without the pictures of the report, and apart from the user's cache."""
    monkeypatch.setattr(running, "write_report", lambda runs, target, title: target)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    for place in (console, complaints):
        monkeypatch.setattr(place, "_width", 200)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = tmp_path_factory.mktemp("taught") / "run"
    shutil.copytree(once(tmp_path_factory.getbasetemp()), kept)
    return kept


def code(*arguments: str | Path) -> int:
    """The exit code of `holdfast sid` with these arguments."""
    with pytest.raises(SystemExit) as left:
        cli.main(["sid", *(str(argument) for argument in arguments)])
    return int(left.value.code or 0)


def words(text: str) -> str:
    return " ".join(text.split())


PAGE = (Path(__file__).parents[2] / "docs" / "semantic-ids.md").read_text("utf-8")

FLAGS = [
    "base_model",
    "train_file",
    "eval_file",
    "output_dir",
    "sample",
    "seed",
    "batch_size",
    "micro_batch_size",
    "num_epochs",
    "learning_rate",
    "cutoff_len",
    "group_by_length",
    "freeze_LLM",
    "train_from_scratch",
    "wandb_project",
    "wandb_run_name",
    "resume_from_checkpoint",
    "category",
    "sid_index_path",
    "item_meta_path",
]


def test_the_page_answers_every_flag_of_the_guide_and_its_recipes_can_be_read(tmp_path: Path) -> None:
    table = PAGE[PAGE.index("| flag of the guide") :]
    assert [flag for flag in FLAGS if f"`{flag}`" not in table] == []
    recipes = [load(parse(text, "page")) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]
    assert [recipe.method.name for recipe in recipes] == ["rows", "rows"]
    arguments = training_arguments(
        recipes[1].model_copy(update={"train": recipes[1].train | {"bf16": False, "use_cpu": True}}), 10_000, tmp_path
    )
    assert (arguments.eval_steps, arguments.save_total_limit, arguments.load_best_model_at_end) == (39, 1, True)


@pytest.mark.parametrize("command", [[], ["build"], ["inspect"], ["train"], ["evaluate"], ["recommend"]])
def test_help_does_not_wait_for_torch(command: list[str]) -> None:
    program = (
        "import sys\nfrom holdfast import cli\n"
        f"try: cli.main(['sid', *{command}, '--help'])\n"
        "except SystemExit as left: print(left.code, [m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "0 []"
    assert command == [] or command[0] in told


def test_ids_are_built_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(replace(shop(), tokens={}), tmp_path / "shop")
    ids, settings = tmp_path / "ids", ("--codes", "8,8,16", "--fields", "title,brand", "--quantiser", "balanced")
    assert code("build", tmp_path / "shop", "--output", ids, *settings) == 0
    told = words(capsys.readouterr().out)
    assert "336 items, 336 IDs: 336 of 3 tokens" in told and f"Index: {ids / 'made-up.index.json'}" in told
    assert code("inspect", ids / "made-up.index.json") == 0
    assert "336 items, 336 IDs" in words(capsys.readouterr().out)
    assert code("inspect", tmp_path / "shop") == 0
    shown = capsys.readouterr()
    assert "cold targets" in shown.out and "no semantic IDs yet" in words(shown.err)


def test_a_recipe_is_trained_and_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(yaml.safe_dump(values(tmp_path)))
    assert code("train", file, "train.max_steps=2", "--cases", "6", "--beams", "10") == 0
    told = words(capsys.readouterr().out)
    assert told.index("recommending, 6 of 6 cases") < told.index("gain on") < told.index("HR@10")
    found = json.loads((tmp_path / "run" / "recommendations.json").read_text())
    assert found["rankings"]["model"]["cases"] == 6 and found["language"]["old_row"] == 0.0
    assert (tmp_path / "run" / "recommendations.png").is_file()
    assert json.loads((tmp_path / "run" / "certificate.json").read_text())["steps"] == 2


@pytest.mark.slow
def test_a_certificate_that_does_not_hold_ends_as_that_of_train_and_is_ranked_all_the_same(tmp_path: Path) -> None:
    told = values(tmp_path, freeze_llm=False)
    told["keep"] |= {"budget": 1e-6, "govern": False}
    file = tmp_path / "shop.yaml"
    file.write_text(yaml.safe_dump(told))
    assert code("train", file, "--cases", "4", "--no-language") == 3
    assert json.loads((tmp_path / "run" / "recommendations.json").read_text())["language"] is None


def test_a_plan_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(yaml.safe_dump(values(tmp_path)))
    assert code("train", file, "--dry-run") == 0
    assert capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("learn.tasks={id_to_title: 1}", "Nothing that recommends is taught"),
        ("learn={data: tiny/shakespeare}", "holds no items"),
    ],
)
def test_what_could_not_be_ranked_is_not_trained(
    tmp_path: Path, override: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(yaml.safe_dump(values(tmp_path)))
    assert code("train", file, override) == 2
    assert why in words(capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_a_run_is_evaluated(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--split", "valid", "--cases", "5", "--k", "10", "--task", "titles_to_id", "--exclude-seen")
    assert code("evaluate", run / "final", *options, "--output", tmp_path / "figures") == 0
    told = words(capsys.readouterr().out)
    assert "valid: 5 of " in told and "largest change of an old row" in told
    found = json.loads((tmp_path / "figures" / "recommendations-valid.json").read_text())
    assert (found["split"], found["task"], found["ks"]) == ("valid", "titles_to_id", [10])
    assert not (run / "recommendations.json").exists()


def test_an_interrupted_training_says_how_the_evaluation_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(yaml.safe_dump(values(tmp_path)))
    monkeypatch.setattr(holdfast.recipe, "run", lambda recipe, **given: running.Result(Path(recipe.output), None))
    assert code("train", file) == 130
    assert f"holdfast sid train {tmp_path / 'run' / 'recipe.yaml'} --resume" in words(capsys.readouterr().err)


def test_a_model_is_evaluated_in_the_words_that_it_was_taught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = values(tmp_path)
    told["learn"]["tasks"] = {"preference": 1, "titles_to_title": 1}
    file = tmp_path / "shop.yaml"
    file.write_text(yaml.safe_dump(told))

    def evaluated(model: object, *, task: str, **given: object) -> None:
        raise BadInput(f"asked by {task}")

    monkeypatch.setattr(holdfast.recipe, "run", lambda recipe, **given: running.Result(tmp_path, {"verdict": None}))
    monkeypatch.setattr(holdfast.recipe, "open_recommender", lambda folder: None)
    monkeypatch.setattr(holdfast.recipe, "evaluate_items", evaluated)
    assert code("train", file) == 2
    assert "asked by preference" in words(capsys.readouterr().err)
    assert code("train", file, "--task", "history") == 2
    assert "did not learn the task 'history'" in words(capsys.readouterr().err)


def test_several_are_recommended_to_at_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    user, items = shop().split("test")[0].user, shop()
    asked = ("--user", user, "--items", "3, 40", "--items", "7", "--titles", "Old Mill red hat | a lamp", "--k", "2")
    assert code("recommend", run, *asked) == 0
    told = words(capsys.readouterr().out)
    for name in (f"user {user}", "items 3, 40", "items 7", "Old Mill red hat | a lamp"):
        assert name in told
    assert sum(told.count(items.title(item)) for item in items.items) >= 8
    assert code("recommend", run, "--items", "7", "--k", "1", "--exclude-seen") == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("recommend",), "nobody to recommend to"),
        (("recommend", "--user", "nobody"), "There is no user 'nobody'"),
        (("recommend", "--items", "3,999"), "There is no item '999'"),
        (("recommend", "--items", ","), "at least one item"),
        (("recommend", "--titles", " | "), "at least one title"),
        (("recommend", "--titles", "a lamp", "--task", "history"), "Titles are asked by titles_to_id"),
        (("recommend", "--items", "3", "--task", "preference"), "did not learn"),
        (("evaluate", "--split", "dev"), "called 'dev'"),
        (("evaluate", "--task", "preference"), "did not learn"),
        (("evaluate", "--k", "ten"), "--k takes whole numbers"),
        (("evaluate", "--k", "0"), "K is a number of recommendations"),
    ],
)
def test_what_cannot_be_used_says_what_to_do(
    run: Path, arguments: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(arguments[0], run, *arguments[1:]) == 2
    assert why in words(capsys.readouterr().err)


def test_a_catalogue_without_test_rows_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = shop()
    write(replace(items, splits={"train": items.split("train")}), tmp_path)
    assert code("evaluate", run, "--data", tmp_path) == 2
    assert "called 'test'. Known: train" in words(capsys.readouterr().err)


def test_a_model_without_a_run_needs_items_and_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code("recommend", "tiny", "--items", "1") == 2
    assert "--data FOLDER" in capsys.readouterr().err
    write(shop(), tmp_path)
    assert code("evaluate", "tiny", "--data", tmp_path) == 2
    assert "has no token '<a_0>'" in words(capsys.readouterr().err)


def test_the_demo_writes_over_nothing_of_yours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(shop(), tmp_path / "shop")
    (tmp_path / "shop/thesis.txt").write_text("mine")
    for output in (tmp_path / "shop", tmp_path, tmp_path / "shop/inside"):
        assert code("demo", "--data", tmp_path / "shop", "--output", output) == 2
        assert "Name" in words(capsys.readouterr().err)
    assert (tmp_path / "shop/thesis.txt").read_text() == "mine" and not (tmp_path / "shop/inside").exists()


@pytest.mark.slow
def test_the_demo_builds_teaches_and_recommends_and_leaves_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = tmp_path / "demo"
    demo.mkdir()
    (demo / ".sid-demo").touch()
    (demo / "old.txt").write_text("of an earlier demo")
    assert code("demo", "--quick", "--output", demo) == 0
    told = words(capsys.readouterr().out)
    assert "made up by rule" in told and "popularity" in told and "an old logit moved by" in told
    assert not (demo / "old.txt").exists()
    for name in ("rows", "rows-and-lora"):
        found = json.loads((demo / name / "recommendations.json").read_text())
        assert found["rankings"]["model"]["valid"] == 1.0 and found["examples"]
    (entry,) = json.loads((demo / "rows/recommendations.json").read_text())["language"]["texts"]
    assert entry["old_tokens"]["logit"] == 0.0 == entry["old_tokens"]["rise"]
    assert load(demo / "rows/recipe.yaml").freeze_llm
