"""The monitor for anybody's Trainer: a plain TrainerCallback that changes nothing of the training."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from holdfast._errors import BadCheckpoint, Unsupported
from holdfast.checkpoint import file_kept_whole, read_state, write_state
from holdfast.data.rows import Row, digest, same_rows
from holdfast.evaluation.looks import Line, Looks
from holdfast.evaluation.loss import SequenceLosses
from holdfast.evaluation.plain import finite
from holdfast.evaluation.reaction import Reaction, keep
from holdfast.states import aside

STATE = "monitor.json"
PEEKED = 64
"""Rows of the training data from whose lengths the cost of a step is told."""


class MonitorCallback(TrainerCallback):
    """Looks at `kept` and `learnt` texts (rows by name) during the training of any transformers Trainer.

    Arguments are those of `Monitor`; a text of `kept` without a margin gives its alarm at a perplexity 30 % higher.
    Lines go to `log.jsonl` in `folder` (default: `monitor` in the Trainer's output folder). A training that goes on
    from a checkpoint goes on here, too: the log is then the one of a training that never stopped. For one process only.

        trainer.add_callback(MonitorCallback({"stories": rows}))
    """

    def __init__(
        self,
        kept: Mapping[str, Sequence[Row]],
        learnt: Mapping[str, Sequence[Row]] | None = None,
        *,
        every: int | None = None,
        rows: int | None = None,
        share: float = 0.1,
        pad_id: int = 0,
        margins: Mapping[str, float] | None = None,
        on_alarm: str = "log",
        webhook: str | None = None,
        save: str = "none",
        folder: str | Path | None = None,
    ):
        allowed = {**dict.fromkeys(kept, math.log(1.3)), **(margins or {})}
        settings: dict[str, Any] = {"every": every, "rows": rows, "share": share, "margins": allowed, "pad_id": pad_id}
        self._fresh = partial(Looks, dict(learnt or {}), dict(kept), **settings)
        self.looks = self._fresh()
        self.reaction, self.save = Reaction(on_alarm, webhook), save
        self.folder = None if folder is None else Path(folder)
        self.lines: list[dict[str, Any]] = []
        self._last = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.world_size > 1:
            raise Unsupported(
                "MonitorCallback looks in one process. Where several train, use the rule: "
                "`holdfast.Trainer(rules=[Monitor(…)])`."
            )
        self.folder = self.folder or Path(str(args.output_dir)) / "monitor"
        self.folder.mkdir(parents=True, exist_ok=True)
        if state.global_step:
            self._resume(args, state.global_step)
        else:
            self.looks = self._fresh()
            with aside(kwargs["model"]):
                line = self.looks.plan(_tokens(args, kwargs.get("train_dataloader")), state.max_steps)
            self._begin(kwargs["model"])
            self._say(state, line)
        self._last = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        rate = float(kwargs["optimizer"].param_groups[0]["lr"])
        self.looks.passed(rate, time.perf_counter() - self._last)
        if self.looks.due(state.global_step):
            with self.looks.timed():
                alarms = self._look(kwargs["model"], state)
            self._say(state, self.looks.slower())
            for alarm in alarms:
                if self.reaction.to({"step": state.global_step, **alarm}):
                    control.should_training_stop = True
        self._last = time.perf_counter()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        place = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if place.is_dir():
            with file_kept_whole(place / STATE) as half:
                half.write_text(json.dumps(self.looks.state()), encoding="utf-8")

    def _look(self, model: Any, state: TrainerState) -> list[dict[str, Any]]:
        """Look, tell and keep; the alarms that were raised."""
        with aside(model):
            lines = list(self.looks.look(model, state.global_step))
        for line in lines:
            self._say(state, line)
        alarms = [figures for kind, figures in lines if kind == "alarm"]
        if self.save == "looks" or (self.save == "alarms" and alarms):
            assert self.folder is not None
            keep(self.folder, state.global_step, {n: p for n, p in model.named_parameters() if p.requires_grad})
        return alarms

    def _say(self, state: TrainerState, line: Line | None) -> None:
        if line is None:
            return
        kind, figures = line
        self.lines.append({"step": state.global_step, "kind": kind, **figures})
        assert self.folder is not None
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(finite(self.lines[-1]), ensure_ascii=False) + "\n")

    def _begin(self, model: Any) -> None:
        assert self.folder is not None
        with aside(model):
            self.looks.baseline(model)
        texts = {**self.looks.learnt, **self.looks.kept}
        before = {name: [s.total, s.tokens] for name, s in self.looks.before.items()}
        write_state(self.folder, "baseline", {"rows": {n: digest(r) for n, r in texts.items()}, "before": before})
        self.lines = []
        (self.folder / "log.jsonl").unlink(missing_ok=True)

    def _resume(self, args: TrainingArguments, step: int) -> None:
        """Baseline, state and log as they were at the checkpoint; raises BadCheckpoint where they are missing."""
        assert self.folder is not None
        self.looks, known = self._fresh(), read_state(self.folder, "baseline")
        same_rows({**self.looks.learnt, **self.looks.kept}, known["rows"])
        texts = self.looks.texts
        self.looks.before = {n: SequenceLosses(*pair).first(len(texts[n])) for n, pair in known["before"].items()}
        file = Path(str(args.output_dir)) / f"checkpoint-{step}" / STATE
        if not file.is_file():
            raise BadCheckpoint(f"There is no {file}: that checkpoint was written without this monitor.")
        self.looks.restore(json.loads(file.read_text(encoding="utf-8")))
        log = self.folder / "log.jsonl"
        said = list(_lines(log.read_text("utf-8"))) if log.is_file() else []
        self.lines = [line for line in said if line["step"] <= step]
        with file_kept_whole(log) as half:
            half.write_text("".join(json.dumps(x, ensure_ascii=False) + "\n" for x in self.lines), encoding="utf-8")


def _lines(text: str) -> Iterator[dict[str, Any]]:
    """The lines of a log, but for one that was half written."""
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def _tokens(args: TrainingArguments, loader: Any) -> float:
    """What a step reads, from the first rows of the data; 0 where they do not say."""
    data = getattr(loader, "dataset", None)
    try:
        lengths = [len(data[i]["input_ids"]) for i in range(min(PEEKED, len(data)))]  # type: ignore[index, arg-type]
    except (TypeError, KeyError, IndexError):
        return 0.0
    mean = sum(lengths) / max(len(lengths), 1)
    return mean * args.train_batch_size * args.gradient_accumulation_steps
