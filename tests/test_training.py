"""The Trainer: the same bits as transformers' own without rules, and with them the same as any other host."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from holdfast._errors import TrainingStopped, Unsupported
from holdfast.budget import Guard
from holdfast.data.rows import Row, collate
from holdfast.evaluation.monitor import Monitor
from holdfast.governor import Governor
from holdfast.loop import attach
from holdfast.remedies.distill import Distill
from holdfast.remedies.ewc import EWC
from holdfast.remedies.l2sp import L2SP
from holdfast.remedies.replay import Replay
from holdfast.rule import REPLAYED, Batch, During, Kind, Move, Rule, Window
from holdfast.run import Run
from holdfast.strategies.frozen import Frozen
from holdfast.strategies.incremental import Incremental
from holdfast.strategies.layerwise import Layerwise
from holdfast.training import Trainer
from tests.models import VOCABULARY, build, lora, quickly
from tests.test_every_rule import ROWS, same

STEPS, SIZE = 4, 4
LEARNT: list[Row] = [
    {"input_ids": ids, "labels": list(ids)}
    for ids in torch.randint(3, VOCABULARY, (48, 12), generator=torch.Generator().manual_seed(11)).tolist()
]


def settings(folder: Path, **more: Any) -> TrainingArguments:
    """A short run on the CPU with a schedule, weight decay and clipping, in the order of the rows."""
    given: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": SIZE,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "max_grad_norm": 0.5,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    }
    return TrainingArguments(**{**given, **more})


def collated(rows: list[Row]) -> Batch:
    return collate(rows, 0)


def trainer(model: nn.Module, args: TrainingArguments, rules: list[Rule] | None = None, **more: Any) -> Any:
    given = {"train_dataset": LEARNT, "data_collator": collated, "eval_dataset": LEARNT[:8], **more}
    return Trainer(model=model, args=args, rules=rules or [], **given)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def all_rules() -> list[Rule]:
    return [
        Frozen("layers(0:1)"),
        Replay(ROWS[:8], share=0.34),
        Distill(4.0),
        L2SP(5.0),
        During(1, 3, EWC(ROWS[8:16], 50.0)),
        Tenth(),
    ]


class Tenth(Rule):
    """Nine tenths of each movement are taken back."""

    kind, looks_back = Kind.SCALE, True

    def update(self, run: Run, move: Move) -> None:
        assert move.before is not None
        move.after.lerp_(move.before, 0.9)


class Seeded(TrainerCallback):
    """The same dropout in every host: each step starts from a seed of its own."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.manual_seed(100 + state.global_step)


# Three hosts --------------------------------------------------------------------------------------------------------

HOSTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"gradient_accumulation_steps": 2},
    "mean loss, accumulated": {"gradient_accumulation_steps": 2},
    "bf16": {"bf16": True},
    "lora": {},
    "lora, bf16, accumulated": {"bf16": True, "gradient_accumulation_steps": 2},
}


def model_for(case: str) -> Any:
    model = build("llama", dropout=0.1)
    model = lora(model, lora_dropout=0.1) if "lora" in case else model
    if "mean loss" in case:
        (model.get_base_model() if "lora" in case else model).accepts_loss_kwargs = False
    return model.train()


def windows(accumulated: int) -> list[Window]:
    batches = [collated(LEARNT[i : i + SIZE]) for i in range(0, STEPS * SIZE * accumulated, SIZE)]
    return [batches[i : i + accumulated] for i in range(0, len(batches), accumulated)]


def by_trainer(model: Any, args: TrainingArguments) -> dict[str, Tensor]:
    trainer(model, args, all_rules(), callbacks=[Seeded()]).train()
    return weights(model)


def own_parts(model: Any, args: TrainingArguments) -> dict[str, Any]:
    """Optimiser and schedule as the Trainer makes them, for hosts that have their own."""
    host = transformers.Trainer(model=model, args=args)
    optimizer = host.create_optimizer()
    return {"optimizer": optimizer, "scheduler": host.create_scheduler(STEPS, optimizer)}


def by_attach(model: Any, args: TrainingArguments) -> dict[str, Tensor]:
    parts = own_parts(model, args)
    with attach(all_rules(), model, seed=args.seed, **parts) as run:
        for step, window in enumerate(windows(args.gradient_accumulation_steps)):
            window = run.batch(window)
            torch.manual_seed(100 + step)
            count = sum(batch["labels"][:, 1:].ne(-100).sum() for batch in window)
            for batch in window:
                inputs = {k: v for k, v in batch.items() if k != REPLAYED}
                known = getattr(model, "accepts_loss_kwargs", True)
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
                    outputs = model(**inputs, **({"num_items_in_batch": count} if known else {}))
                    loss = outputs.loss if known else outputs.loss / len(window)
                    loss = loss + run.penalty(batch, outputs)
                loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            run.optimizer.step()
            run.scheduler.step()
            run.optimizer.zero_grad()
            run.after()
    return weights(model)


def by_advance(model: Any, args: TrainingArguments) -> dict[str, Tensor]:
    run = Run(model, rules=all_rules(), seed=args.seed, **own_parts(model, args))
    run.begin()
    for step, window in enumerate(windows(args.gradient_accumulation_steps)):
        torch.manual_seed(100 + step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            run.advance(window, clip=args.max_grad_norm)
    run.end()
    return weights(model)


@pytest.mark.parametrize("case", quickly(["lora, bf16, accumulated"], [*HOSTS]))
def test_three_hosts_give_the_same_bits(case: str, tmp_path: Path) -> None:
    args = settings(tmp_path, **HOSTS[case])
    before = weights(model_for(case))
    hosts: list[Callable[[Any, TrainingArguments], dict[str, Tensor]]] = [by_trainer, by_attach, by_advance]
    first, second, third = (host(model_for(case), args) for host in hosts)
    assert same(first, second) and same(first, third)
    assert not same(first, before)


# The Trainer alone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulated", [1, 2])
def test_without_rules_it_is_the_trainer_of_transformers_bit_for_bit(accumulated: int, tmp_path: Path) -> None:
    args = settings(
        tmp_path, gradient_accumulation_steps=accumulated, train_sampling_strategy="random", eval_strategy="steps",
        eval_steps=2,
    )  # fmt: skip
    found = []
    for kind in (Trainer, transformers.Trainer):
        host = kind(
            model=build("llama", dropout=0.1), args=args, train_dataset=LEARNT, data_collator=collated,
            eval_dataset=LEARNT[:8],
        )  # fmt: skip
        host.train()
        logs = [
            {k: v for k, v in line.items() if "second" not in k and "runtime" not in k}
            for line in host.state.log_history
        ]
        found.append((weights(host.model), logs))
    assert same(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    assert any("eval_loss" in line for line in found[0][1])


def test_penalties_are_no_part_of_an_evaluation(tmp_path: Path) -> None:
    ours = trainer(build("llama"), settings(tmp_path, eval_strategy="steps", eval_steps=2), all_rules())
    ours.train()
    logged = [line["eval_loss"] for line in ours.state.log_history if "eval_loss" in line]
    assert ours.evaluate()["eval_loss"] == logged[-1]
    theirs = transformers.Trainer(
        model=ours.model, args=settings(tmp_path), data_collator=collated, eval_dataset=LEARNT[:8]
    )
    assert theirs.evaluate()["eval_loss"] == logged[-1]


def test_the_journal_has_each_logged_line_in_the_order_of_steps(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    trainer(build("llama"), settings(tmp_path), all_rules(), sinks=[lines.append]).train()
    trained = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in trained] == [1, 2, 3, 4]
    assert all({"loss", "learning_rate", "grad_norm"} <= set(line) for line in trained)


def test_a_rule_can_stop_the_run(tmp_path: Path) -> None:
    class Enough(Rule):
        def after(self, run: Run) -> None:
            if run.step == 2:
                run.stop("that was enough")

    host = trainer(build("llama"), settings(tmp_path), [Enough()])
    host.train()
    assert host.state.global_step == 2 and host.run.stopped == "that was enough"


def test_a_trainer_can_train_twice(tmp_path: Path) -> None:
    host = trainer(build("llama"), settings(tmp_path), [Frozen("layers(0:2)"), L2SP(1.0)])
    host.train()
    once = weights(host.model)
    host.train()
    assert not same(once, weights(host.model)) and host.run.step == STEPS
    assert all(p.requires_grad for p in host.model.parameters())


# What is refused, and what stops ------------------------------------------------------------------------------------


def test_a_host_that_restarts_runs_by_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="auto_find_batch_size"):
        trainer(build("llama"), settings(tmp_path, auto_find_batch_size=True)).train()


@pytest.mark.parametrize(("plugin", "said"), [("deepspeed", "DeepSpeed"), ("fsdp", "fsdp_version")])
def test_hosts_in_which_rules_cannot_look_are_refused(
    plugin: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = trainer(build("llama"), settings(tmp_path), [L2SP(1.0)])
    before = weights(host.model)
    monkeypatch.setattr(host, f"is_{plugin}_enabled", True)
    monkeypatch.setattr(host.accelerator.state, "fsdp_plugin", SimpleNamespace(fsdp_version=1), raising=False)
    with pytest.raises(Unsupported, match=said):
        host.train()
    assert same(before, weights(host.model))


def test_pulls_on_bfloat16_weights_are_refused_before_the_first_step(tmp_path: Path) -> None:
    host = trainer(build("llama").to(torch.bfloat16), settings(tmp_path), [L2SP(1.0)])
    with pytest.raises(Unsupported, match="float32"):
        host.train()
    assert host.state.global_step == 0


class Poison(TrainerCallback):
    """Makes one weight nan before a step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == 2:
            with torch.no_grad():
                model.model.norm.weight[0] = float("nan")


def test_a_loss_that_is_not_a_number_stops_the_run_with_admitted_weights(tmp_path: Path) -> None:
    governor = Governor([Guard("old", ROWS[8:], 64, 9.0)], every=1, look=4)
    lines: list[dict[str, Any]] = []
    host = trainer(build("llama"), settings(tmp_path), [governor], callbacks=[Poison()], sinks=[lines.append])
    with pytest.raises(TrainingStopped, match="step 3"):
        host.train()
    assert host.state.global_step == 2
    assert all(bool(t.isfinite().all()) for t in weights(host.model).values())
    assert any(line["kind"] == "note" for line in lines)


def test_without_a_governor_a_loss_that_is_not_a_number_stops_the_run_all_the_same(tmp_path: Path) -> None:
    host = trainer(build("llama"), settings(tmp_path), [], callbacks=[Poison()])
    with pytest.raises(TrainingStopped, match="step was not taken"):
        host.train()
    bad = {n for n, t in weights(host.model).items() if not bool(t.isfinite().all())}
    assert bad == {"model.norm.weight"}


def test_learning_rates_of_rules_reach_an_adapter_in_the_trainer(tmp_path: Path) -> None:
    moved = []
    for chosen in ([], [Layerwise(0.5)]):
        torch.manual_seed(0)
        model = lora(build("llama")).eval()
        host = trainer(model, settings(tmp_path, max_steps=1, weight_decay=0.0), [*chosen])
        before = weights(model)
        host.train()
        moved.append({n: (t - before[n]).norm() for n, t in weights(model).items() if "lora_B" in n})
    free, slowed = moved
    for name, way in free.items():
        layer = int(name.split(".layers.")[1].split(".")[0])
        assert float(slowed[name] / way) == pytest.approx(0.5 ** (3 - layer), rel=1e-3)


def test_other_weights_are_not_loaded_behind_a_rule_that_ends_late(tmp_path: Path) -> None:
    best = settings(tmp_path, load_best_model_at_end=True, eval_strategy="steps", save_strategy="steps", save_steps=2)
    with pytest.raises(Unsupported, match="rollback"):
        trainer(build("llama"), best, [Incremental(2)]).train()


def test_loggers_are_told_what_was_learnt_and_forgotten(tmp_path: Path) -> None:
    told: dict[str, float] = {}

    class Logger(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            told.update(logs)

    rows = [{"input_ids": [3, 4, 5, 6], "labels": [3, 4, 5, 6]}] * 8
    monitor = Monitor({"new": rows[:2]}, {"old": rows[2:4]}, every=2)
    for report_to in (["tensorboard"], []):
        told.clear()
        args = TrainingArguments(output_dir=str(tmp_path), max_steps=4, use_cpu=True, save_strategy="no")
        trainer = Trainer(
            model=build("llama"), args=args, train_dataset=rows, rules=[monitor], callbacks=[Logger()],
            data_collator=partial(collate, pad_id=0),
        )  # fmt: skip
        args.report_to = report_to  # what stands there when training begins; the loggers themselves need packages
        trainer.train()
        looks = {"learn/new/gain", "probe/old/rise", "probe/old/high"}
        assert (looks <= told.keys()) if report_to else not looks & told.keys()
