"""The monitor for anybody's Trainer: a plain TrainerCallback that changes nothing of the training."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from holdfast._errors import BadCheckpoint
from holdfast.checkpoint import file_kept_whole, read_state, write_state
from holdfast.data.rows import Row, digest, same_rows
from holdfast.evaluation.certificate import finite
from holdfast.evaluation.looks import Line, Looks
from holdfast.evaluation.loss import SequenceLosses
from holdfast.evaluation.reaction import Reaction, keep
from holdfast.states import aside

STATE = "monitor.json"
PEEKED = 64
"""Rows of the training data from whose lengths the cost of a step is told."""


class MonitorCallback(TrainerCallback):
    """Looks at `kept` and `learnt` texts (rows by name) during the training of any transformers Trainer.

    Arguments are those of `Monitor`; a text of `kept` without a margin gives its alarm at a perplexity 30 % higher.
    Lines go to `log.jsonl` in `folder` (default: `monitor` in the Trainer's output folder). A training that goes on
    from a checkpoint goes on here, too: the log is then the one of a training that never stopped. In one process;
    where several train, the first one looks.

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
        self.looks = Looks(learnt or {}, kept, every=every, rows=rows, share=share, margins=allowed, pad_id=pad_id)
        self.reaction, self.save = Reaction(on_alarm, webhook), save
        self.folder = None if folder is None else Path(folder)
        self.lines: list[dict[str, Any]] = []
        self._last = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.process_index:
            return
        self.folder = self.folder or Path(str(args.output_dir)) / "monitor"
        self.folder.mkdir(parents=True, exist_ok=True)
        if state.global_step:
            self._resume(args, state.global_step)
        else:
            self._begin(kwargs["model"])
        tokens = _tokens(args, kwargs.get("train_dataloader"))
        self._say(state, control, self.looks.plan(tokens, state.max_steps))
        self._last = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.process_index:
            return
        rate = float(kwargs["optimizer"].param_groups[0]["lr"])
        self.looks.passed(rate, time.perf_counter() - self._last)
        if self.looks.due(state.global_step):
            self._look(kwargs["model"], state, control)
        self._last = time.perf_counter()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.process_index == 0:
            place = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            if place.is_dir():
                with file_kept_whole(place / STATE) as half:
                    half.write_text(json.dumps(self.looks.state()), encoding="utf-8")

    def _look(self, model: Any, state: TrainerState, control: TrainerControl) -> None:
        with aside(model):
            lines = list(self.looks.look(model, state.global_step))
        for line in [*lines, self.looks.slower(self.looks.clock.share)]:
            self._say(state, control, line)
        if self.save == "looks" or (self.save == "alarms" and any(kind == "alarm" for kind, _ in lines)):
            assert self.folder is not None
            keep(self.folder, state.global_step, {n: p for n, p in model.named_parameters() if p.requires_grad})

    def _say(self, state: TrainerState, control: TrainerControl, line: Line | None) -> None:
        if line is None:
            return
        kind, figures = line
        self.lines.append({"step": state.global_step, "kind": kind, **figures})
        assert self.folder is not None
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(finite(self.lines[-1]), ensure_ascii=False) + "\n")
        if kind == "alarm" and self.reaction.to({"step": state.global_step, **figures}):
            control.should_training_stop = True

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
        known = read_state(self.folder, "baseline")
        same_rows({**self.looks.learnt, **self.looks.kept}, known["rows"])
        texts = self.looks.texts
        self.looks.before = {n: SequenceLosses(*pair).first(len(texts[n])) for n, pair in known["before"].items()}
        file = Path(str(args.output_dir)) / f"checkpoint-{step}" / STATE
        if not file.is_file():
            raise BadCheckpoint(f"There is no {file}: that checkpoint was written without this monitor.")
        self.looks.restore(json.loads(file.read_text(encoding="utf-8")))
        log = self.folder / "log.jsonl"
        said = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.is_file() else []
        self.lines = [line for line in said if line["step"] <= step]
        with file_kept_whole(log) as half:
            half.write_text("".join(json.dumps(x, ensure_ascii=False) + "\n" for x in self.lines), encoding="utf-8")


def _tokens(args: TrainingArguments, loader: Any) -> float:
    """What a step reads, from the first rows of the data; 0 where they do not say."""
    data = getattr(loader, "dataset", None)
    try:
        lengths = [len(data[i]["input_ids"]) for i in range(min(PEEKED, len(data)))]  # type: ignore[index, arg-type]
    except (TypeError, KeyError, IndexError):
        return 0.0
    mean = sum(lengths) / max(len(lengths), 1)
    return mean * args.train_batch_size * args.gradient_accumulation_steps
