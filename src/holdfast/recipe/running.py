"""A recipe carried out: from its words to a run folder with model, log, certificate, samples and report."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    TrainingArguments,
    set_seed,
)

from holdfast import checkpoint
from holdfast._errors import BadInput, OutOfMemory, TrainingStopped, Unsupported
from holdfast.base import Base
from holdfast.data.probes import Probe
from holdfast.data.rows import collate
from holdfast.evaluation.certificate import Audited, certify
from holdfast.evaluation.comparison import Baseline, baseline, compare
from holdfast.evaluation.loss import ScoreCache, SequenceLosses
from holdfast.evaluation.monitor import Monitor
from holdfast.evaluation.plain import write_json
from holdfast.evaluation.report import FORMATS, write_report
from holdfast.evaluation.samples import continuations, opening
from holdfast.evaluation.suites import Suite
from holdfast.params.heads import classifies, speaker
from holdfast.recipe.building import built_rules
from holdfast.recipe.callbacks import Early, Progress, Steps, stopped_early
from holdfast.recipe.classifying import CONSTANT, judged, likeliest, padding, said
from holdfast.recipe.comparing import chosen, write_evaluation
from holdfast.recipe.folder import check_folder, first
from holdfast.recipe.journal import Journal
from holdfast.recipe.loading import dump, resolved
from holdfast.recipe.memory import Peak, ran_out, remedies
from holdfast.recipe.model import check_method, for_task, opened, trainable
from holdfast.recipe.outcome import model_card, versions, write_final
from holdfast.recipe.schema import Recipe
from holdfast.recipe.tasks import classifying
from holdfast.recipe.texts import Texts
from holdfast.recipe.training import LEARNT, steps, training_arguments
from holdfast.recipe.vocabulary import extended, known_before, told
from holdfast.training import Trainer
from holdfast.vocabulary.rows import as_before

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a run left in `folder`; `certificate` is None where it was interrupted and can be resumed."""

    folder: Path
    certificate: Mapping[str, Any] | None

    @property
    def verdict(self) -> str | None:
        """ "holds", "undecided" or "broken"; None without a budget or a certificate."""
        return None if self.certificate is None else self.certificate["verdict"]


@dataclass(frozen=True)
class _Before:
    """What is known of the base before anything trains."""

    kept: list[Audited]
    learnt: list[Audited]
    samples: list[dict[str, str]]
    suites: list[Suite]
    scores: Baseline


def run(
    recipe: Recipe,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    folder: str | Path | None = None,
    texts: Texts | None = None,
) -> Result:
    """Train as a recipe says, and write its run folder; `resume` goes on from the newest complete checkpoint.

    `folder` is written to instead of the recipe's `output`, for those who move it there afterwards; `texts` are read
    instead of those that the recipe names, by a task of a sequence.
    Raises BadInput for a run folder that is already there (or, resuming, is not), and for data, model or settings that
    cannot be used; Unsupported for promises that cannot be kept; OutOfMemory with what to change; TrainingStopped where
    the run had to stop, after the last admitted weights and their certificate were written. A signal saves a checkpoint
    and gives a Result without certificate.
    """
    say = progress or (lambda line: None)
    folder = Path(folder or recipe.output)
    with _prepared(recipe, folder, resume), _answered(recipe, folder):
        check_method(recipe)
        say({"kind": "stage", "text": f"loading {recipe.base}"})
        base = opened(recipe, trainable=True)
        added = extended(recipe, base.model, base.tokenizer)
        texts = texts or Texts(recipe, base)
        headed = for_task(recipe, base, texts)
        rows, _ = texts.learn
        say({"kind": "stage", "text": "preparing texts"})
        before = _measured(recipe, base, texts)
        args = training_arguments(recipe, len(rows), folder)
        count = steps(args, len(rows))
        set_seed(recipe.seed)
        model = trainable(recipe, base, texts, headed, count)
        for line in told(recipe, model, added):
            say({"kind": "stage", "text": line})
        with closing(Journal(folder / "log.jsonl" if first() else Path(os.devnull), resume)) as journal:
            trainer = _trainer(recipe, base, model, texts, args, [journal, say], count)
            peak = Peak(args.device)
            stopped = _trained(trainer, resume, journal)
            seconds = journal.seconds
            early = stopped_early(recipe, trainer)
            if early is not None:
                journal({"step": trainer.state.global_step, "kind": "note", "text": early})
        if trainer.interrupted and stopped is None:
            return Result(folder, None)
        say({"kind": "stage", "text": "measuring what was learnt and kept"})
        facts = {
            "stopped": str(stopped or "") or getattr(trainer.run, "stopped", None) or early,
            "seconds": round(seconds, 1),
            "memory": peak.told(),
        }
        certificate = _left(recipe, base, trainer, before, facts, folder)
        if stopped is not None:
            raise stopped
        return Result(folder, certificate)


# Before -------------------------------------------------------------------------------------------------------------


@contextmanager
def _prepared(recipe: Recipe, folder: Path, resume: bool) -> Iterator[None]:
    """Sees to the run folder and the resolved recipe in it; takes it away again where nothing could begin."""
    if resume or first():
        check_folder(recipe, folder, resume=resume)
    folder.mkdir(parents=True, exist_ok=True)
    if first() and not resume:
        (folder / "recipe.yaml").write_text(dump(resolved(recipe)), encoding="utf-8")
    try:
        yield
    except BaseException as error:
        told = (folder / "log.jsonl").is_file() and not isinstance(error, BadInput | Unsupported | KeyboardInterrupt)
        left = told or checkpoint.checkpoints(folder) or (folder / "final").exists()
        if not resume and first() and not left:
            shutil.rmtree(folder, ignore_errors=True)  # nothing began: the same command works once the fault is mended
        raise


@contextmanager
def _answered(recipe: Recipe, folder: Path) -> Iterator[None]:
    """Where memory is not enough, say what to change and what that saves."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        advice = remedies(recipe, training_arguments(recipe, 1, folder))
        raise OutOfMemory(f"There was not enough memory. {advice}") from error


def _measured(recipe: Recipe, base: Base, texts: Texts) -> _Before:
    """The base's losses on all that will be judged, and its samples."""
    scores = ScoreCache(None)

    def scored(probe: Probe) -> SequenceLosses:
        return scores.losses(base.digest, base.model, probe.rows, pad_id=base.pad_id)

    _, evaluation = texts.learn
    known_before(base, texts)
    kept = [Audited(t.audit, t.before.get("audit") or scored(t.audit), t.budget) for t in texts.guarded.values()]
    prompts = _prompts(recipe, base, texts)
    with as_before(base.model):
        written = _continued(recipe, base, base.model, [prompt for prompt in prompts if prompt[0] == "old"])
    written += _continued(recipe, base, base.model, [prompt for prompt in prompts if prompt[0] == "new"])
    samples = [{"about": about, "prompt": p, "base": text} for (about, p), text in zip(prompts, written, strict=True)]
    asked = recipe.evaluate
    suites = chosen(asked.suites, asked.learnt)
    with as_before(base.model):
        known = baseline(base, suites, noise=asked.noise, drift=asked.drift)
    guess = texts.reference
    learnt = Audited(evaluation, guess or scored(evaluation), reference=None if guess is None else CONSTANT)
    return _Before(kept, [learnt], samples, suites, known)


def _prompts(recipe: Recipe, base: Base, texts: Texts) -> list[tuple[str, str]]:
    real = sorted(texts.guarded.values(), key=lambda text: text.name == "self")
    old = recipe.samples.old
    if old is None:
        old = [opening(text.audit, base.tokenizer) for text in real[:1]]
    new = recipe.samples.new
    if new is None:
        new = [opening(texts.learn[1], base.tokenizer)]
    return [*(("old", prompt) for prompt in old), *(("new", prompt) for prompt in new)]


def _continued(recipe: Recipe, base: Base, model: Any, prompts: list[tuple[str, str]]) -> list[str]:
    """How a model goes on; a classifier says the label of new text, and where it has none yet, nothing."""
    labels, wanted = classifying(recipe), recipe.samples
    drawn: dict[str, Any] = {"length": wanted.tokens, "temperature": wanted.temperature, "seed": recipe.seed}

    def answer(about: str, prompt: str) -> str:
        if not labels or about == "old":
            return continuations(speaker(model), base.tokenizer, [prompt], **drawn)[0]
        return said(model, base.tokenizer, prompt, recipe.learn.length) if classifies(model) else ""

    return [answer(about, prompt) for about, prompt in prompts]


# Training -----------------------------------------------------------------------------------------------------------


def _trainer(
    recipe: Recipe, base: Base, model: Any, texts: Texts, args: TrainingArguments, sinks: list[Progress], count: int
) -> Trainer:
    rows, evaluation = texts.learn
    scored = classifying(recipe) and recipe.early_stopping is not None
    watched = {LEARNT: evaluation.rows, **{name: text.control.rows for name, text in texts.guarded.items()}}
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=evaluation.rows if recipe.early_stopping is None else watched,
        data_collator=partial(collate, pad_id=base.pad_id),
        processing_class=padding(base.tokenizer, base.pad_id) if classifying(recipe) else base.tokenizer,
        compute_metrics=judged if scored else None,
        preprocess_logits_for_metrics=likeliest if scored else None,
        rules=built_rules(recipe, base, model, texts, count, Path(args.output_dir or recipe.output)),
        sinks=sinks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Steps(sinks[-1], count))
    if recipe.early_stopping is not None:
        early = recipe.early_stopping
        trainer.add_callback(Early(early.patience, early.threshold))
    return trainer


def _trained(trainer: Trainer, resume: bool, journal: Journal) -> TrainingStopped | None:
    """Train; where the run had to stop, why."""
    try:
        trainer.train(resume_from_checkpoint=resume)
    except TrainingStopped as error:
        step = trainer.run.step if trainer.run is not None else 0
        journal({"step": step, "kind": "note", "text": str(error)})
        return error
    return None


# After --------------------------------------------------------------------------------------------------------------


def _left(
    recipe: Recipe, base: Base, trainer: Trainer, before: _Before, facts: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Write what a run leaves behind, and return its certificate."""
    assert trainer.run is not None
    certificate = {
        **certify(trainer.model, before.kept, before.learnt, pad_id=base.pad_id),
        "base": {"name": base.name, "digest": base.digest},
        "method": recipe.method.name,
        "seed": recipe.seed,
        "steps": trainer.run.step,
        **facts,
        "versions": versions(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    looks = [rule.looks.told() for rule in trainer.rules if isinstance(rule, Monitor)]
    certificate["monitoring"] = next(iter(looks), None)
    if before.suites:
        after = Base(cast(PreTrainedModel, speaker(trainer.model)), base.tokenizer, str(folder), "")
        compared = compare(before.scores, after, before.suites)
        if first():
            write_evaluation(compared, folder)
    prompts = [(sample["about"], sample["prompt"]) for sample in before.samples]
    tuned = _continued(recipe, base, trainer.model, prompts)
    told = dump(resolved(recipe.model_copy(update={"monitor": recipe.monitor.model_copy(update={"webhook": None})})))
    write_final(trainer, model_card(certificate, told, isinstance(trainer.model, PeftModel)), folder / "final")
    if first():
        samples = [{**sample, "tuned": text} for sample, text in zip(before.samples, tuned, strict=True)]
        write_json(samples, folder / "samples.json")
        write_json(certificate, folder / "certificate.json")
        for ending in FORMATS:
            write_report([folder], folder / f"report{ending}", title=f"{base.name}: {folder.name}")
    return certificate
