"""From the words of a recipe to the objects of a run."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from transformers import Trainer

from holdfast._errors import BadInput, UnknownName
from holdfast.base import Base, load_base
from holdfast.data.mixing import Mixture
from holdfast.data.rows import collate
from holdfast.evaluation.monitor import Monitor
from holdfast.governor import Governor
from holdfast.recipe.building import built_rules
from holdfast.recipe.checking import checked
from holdfast.recipe.loading import load, resolved
from holdfast.recipe.texts import Texts
from holdfast.recipe.training import steps, training_arguments
from holdfast.remedies.agem import AGEM
from holdfast.remedies.distill import Distill
from holdfast.remedies.draws import Prioritised
from holdfast.remedies.ewc import EWC
from holdfast.remedies.l2sp import L2SP
from holdfast.remedies.mas import MAS
from holdfast.remedies.migu import MIGU
from holdfast.remedies.olora import OLoRA
from holdfast.remedies.progressive import Progressive
from holdfast.remedies.replay import Replay
from holdfast.remedies.schedules import Linear, Periodic
from holdfast.remedies.si import SI
from holdfast.rule import During, Every, Rule, Within
from holdfast.strategies.rollback import Rollback
from holdfast.strategies.selective import Selective
from tests.models import quickly
from tests.recipe.small import recipe, values


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


def built(base: Base, folder: Path, *overrides: str) -> list[Rule]:
    asked = recipe(folder, *overrides)
    return built_rules(asked, base, base.model, Texts(asked, base), 100)


def test_rules_stand_in_their_order_then_the_monitor_then_the_governor(base: Base, tmp_path: Path) -> None:
    replay, distill, monitor, governor = built(base, tmp_path)
    assert isinstance(replay, Replay) and replay.share == 0.5 and not replay.labels and replay.pad_id == base.pad_id
    assert isinstance(distill, Distill) and distill.strength == 4.0
    assert isinstance(monitor, Monitor) and monitor.looks.every == 2 and monitor.looks.kept == {}
    assert isinstance(governor, Governor) and governor.every == 2 and governor.look == 8
    assert [guard.budget for guard in governor.guards] == [0.9, 0.9]


def test_what_is_not_governed_is_monitored(base: Base, tmp_path: Path) -> None:
    *_, monitor = built(base, tmp_path, "keep.govern=false")
    assert isinstance(monitor, Monitor) and len(monitor.looks.kept) == 2
    *_, monitor, governor = built(base, tmp_path, "keep.budget={self: 0.9}", "monitor.every=null")
    assert isinstance(governor, Governor) and [guard.name for guard in governor.guards] == ["self"]
    assert isinstance(monitor, Monitor) and monitor.looks.every is None
    assert "self" not in monitor.looks.kept and len(monitor.looks.kept) == 1


def test_wrappers_are_keys_of_any_rule(base: Base, tmp_path: Path) -> None:
    rule = built(base, tmp_path, "rules=[l2sp: {strength: 2, within: mlp, every: 3, during: [0, 9]}]")[0]
    assert isinstance(rule, During) and (rule.first, rule.last) == (0, 9)
    assert isinstance(rule.rule, Every) and rule.rule.n == 3
    assert isinstance(rule.rule.rule, Within) and isinstance(rule.rule.rule.rule, L2SP) and rule.strength == 2


def test_replay_and_distillation_as_a_recipe_says_them(base: Base, tmp_path: Path) -> None:
    old = values(tmp_path)["keep"]["suites"][0]
    asked = recipe(
        tmp_path,
        f"rules=[replay: {{source: [self/sound, {old}], share: {{linear: {{start: 0.3}}}}, "
        "draw: {loss: {cap: 0.9}}}, "
        f"replay: {{source: {old}, share: {{periodic: {{every: 4}}}}, layers: mlp}}, "
        "distill: {direction: reverse, where: new, top: 8, temperature: 2.0, layers: mlp}, distill: {top: 4}]",
    )
    for stated in (asked, checked(resolved(asked))):
        made = built_rules(stated, base, base.model, Texts(stated, base), 100, tmp_path / "run")
        mixed, bursts, distill, another = made[:4]
        assert isinstance(mixed, Replay) and mixed.share == Linear(start=0.3)
        assert isinstance(mixed.draws, Prioritised) and mixed.draws.cap == 0.9
        assert isinstance(mixed.source, Mixture) and mixed.source.names == ["self/sound", old]
        assert isinstance(bursts, Replay) and bursts.share == Periodic(every=4) and str(bursts.layers) == "mlp"
        assert isinstance(distill, Distill) and (distill.direction, distill.where, distill.top) == ("reverse", "new", 8)
        assert distill._answers is not None and distill._answers.folder == tmp_path / "run" / "distill"
        assert isinstance(another, Distill) and another._answers is not None
        assert another._answers.folder == tmp_path / "run" / "distill-2"
    for wrong in (f"source: {old}, share: lineal", f"source: {old}, draw: {{loss: {{cup: 1}}}}"):
        with pytest.raises(UnknownName):
            built(base, tmp_path, f"rules=[replay: {{{wrong}}}]")


STRATEGIES = (
    "adaptive: {source: SUITE, importance: gradient, every: 5}",
    "selective: {source: SUITE, score: gradient, by: element, top: 0.2, within: mlp}",
    "incremental: {n: 4}",
    "cyclic: {steps: 5, order: up}",
    "gradual: {schedule: cosine, over: 50}",
    "unfreezing: {every: 10, during: [0, 40]}",
    "layerwise: {decay: 0.8}",
    "scaled: {factor: 4, within: mlp}",
    "rollback: {source: SUITE, every: 10}",
)


@pytest.mark.parametrize("given", quickly([s for s in STRATEGIES if "SUITE" not in s], STRATEGIES))
def test_every_strategy_can_stand_in_a_recipe_and_in_its_resolved_form(base: Base, tmp_path: Path, given: str) -> None:
    name = given.partition(":")[0]
    asked = recipe(tmp_path, f"rules=[{given.replace('SUITE', 'tiny/stories')}]")
    for stated in (asked, checked(resolved(asked))):
        rule = built_rules(stated, base, base.model, Texts(stated, base), 100, tmp_path)[0]
        while isinstance(rule, During | Every | Within):
            rule = rule.rule
        assert type(rule).__name__.lower() == name
        if isinstance(rule, Selective):
            assert rule.source and rule.pad_id == base.pad_id
        if isinstance(rule, Rollback):
            assert rule.metric is not None and rule.folder == tmp_path / "rollback"


@pytest.mark.parametrize("key", ["metric", "folder"])
def test_what_only_a_program_can_give_is_no_key_of_a_recipe(tmp_path: Path, key: str) -> None:
    with pytest.raises(UnknownName, match=key):
        recipe(tmp_path, f"rules=[rollback: {{{key}: x}}]")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("[l2sp: {within: '\"*.up_porj.*\"'}]", "up_proj"),
        ("[l2sp: {during: [1, 2, 3]}]", "a pair of steps"),
        ("[l2sp: {during: [9, 3]}]", "first < last"),
        ("[l2sp: {strength: -1}]", "negative"),
    ],
)
def test_rules_that_cannot_be_built_say_why(base: Base, tmp_path: Path, rules: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        built(base, tmp_path, f"rules={rules}")


@pytest.mark.parametrize(
    ("rows", "batch", "accumulation", "epochs"), list(itertools.product([1, 7, 40], [3, 8], [1, 4], [0.5, 1.0, 2.5]))
)
def test_steps_are_those_that_the_trainer_makes(
    base: Base, tmp_path: Path, rows: int, batch: int, accumulation: int, epochs: float
) -> None:
    asked = recipe(
        tmp_path,
        "train.max_steps=-1",
        f"train.num_train_epochs={epochs}",
        f"train.per_device_train_batch_size={batch}",
        f"train.gradient_accumulation_steps={accumulation}",
    )
    args = training_arguments(asked, rows, tmp_path)
    data = [{"input_ids": [1, 2], "labels": [1, 2]}] * rows
    trainer = Trainer(model=base.model, args=args, train_dataset=data, data_collator=lambda r: collate(r, 0))
    loader = trainer.get_train_dataloader()
    assert steps(args, rows) == trainer.set_initial_training_values(args, loader)[-1]


def test_only_long_runs_write_checkpoints_unless_asked(tmp_path: Path) -> None:
    def strategy(*overrides: str) -> tuple[str, float]:
        args = training_arguments(recipe(tmp_path, *overrides), 10, tmp_path)
        return str(args.save_strategy.value), args.save_steps

    assert strategy()[0] == "no"
    assert strategy("train.save_steps=2") == ("steps", 2)
    assert strategy("train.save_strategy=epoch")[0] == "epoch"
    assert strategy("train.max_steps=5000") == ("steps", 500)


def test_values_that_hugging_face_refuses_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="`train` cannot be used"):
        training_arguments(recipe(tmp_path, "train.eval_strategy=sometimes"), 10, tmp_path)


def test_anchors_take_their_text_and_their_folder_and_grow(base: Base, tmp_path: Path) -> None:
    asked = recipe(
        tmp_path,
        "rules=[ewc: {source: self, estimator: sampled, layers: {mlp: 2}, progressive: 7}, mas: {source: self}, "
        "si: {}, agem: {source: self, rows: 3}, migu: {top: 0.5}, olora: {adapters: [somewhere]}]",
    )
    made = built_rules(asked, base, base.model, Texts(asked, base), 100, tmp_path / "run")
    ewc, mas, si, agem, migu, olora = made[:6]
    assert isinstance(ewc, Progressive) and ewc.over == 7 and isinstance(ewc.rule, EWC) and ewc.strength == 100.0
    assert ewc.rule.folder == tmp_path / "run" / "ewc" and ewc.rule.source and ewc.rule.layers == {"mlp": 2}
    assert (
        isinstance(mas, MAS) and mas.source and list(mas.source) == list(ewc.rule.source) and mas.pad_id == base.pad_id
    )
    assert isinstance(si, SI) and si.folder == tmp_path / "run" / "si"
    assert isinstance(agem, AGEM) and agem.rows == 3 and isinstance(migu, MIGU) and isinstance(olora, OLoRA)
    assert resolved(asked)["rules"][0]["ewc"]["layers"] == {"mlp": 2}
    with pytest.raises(BadInput, match="a number of steps"):
        recipe(tmp_path, "rules=[l2sp: {progressive: fast}]")


def test_the_method_says_the_learning_rate_where_a_recipe_does_not(tmp_path: Path) -> None:
    plain = values(tmp_path)
    del plain["train"]["learning_rate"]
    for method, expected in (("full", 5e-5), ("lora", 5e-4), ("prompt", 5e-3)):
        asked = load(plain, [f"method.name={method}"])
        assert training_arguments(asked, 10, tmp_path).learning_rate == pytest.approx(expected)
    assert training_arguments(recipe(tmp_path), 10, tmp_path).learning_rate == 1e-3


def test_a_schedule_with_a_floor_ends_at_a_tenth(tmp_path: Path) -> None:
    floored = ("train.lr_scheduler_type=cosine_with_min_lr", "train.warmup_steps=10", "train.max_steps=100")
    asked = recipe(tmp_path, *floored)
    args = training_arguments(asked, 10, tmp_path)
    model = torch.nn.Linear(2, 2)
    trainer = Trainer(model=model, args=args)
    trainer.create_optimizer_and_scheduler(100)
    rates = []
    for _ in range(100):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
    assert max(rates) == pytest.approx(1e-3) and rates.index(max(rates)) == 9
    assert rates[-1] == pytest.approx(1e-4) and min(rates[9:]) >= 1e-4 - 1e-9


def test_checkpointing_gives_way_to_a_prefix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for method, kept in (("ptuning2", False), ("lora", True)):
        asked = recipe(tmp_path, f"method.name={method}", "train.activation_checkpointing=true")
        assert training_arguments(asked, 10, tmp_path).activation_checkpointing is kept
    assert "exclude each other" in caplog.text


def test_early_stopping_looks_keeps_and_ends_with_the_best(tmp_path: Path) -> None:
    asked = recipe(tmp_path, "early_stopping.patience=2", "early_stopping.every=3", "keep.govern=false")
    args = training_arguments(asked, 10, tmp_path)
    assert (args.eval_steps, args.save_steps, args.load_best_model_at_end) == (3, 3, True)
    assert args.metric_for_best_model == "eval_learnt_loss" and args.greater_is_better is False
