"""One sequence of tasks learnt by an Avalanche strategy; benchmarks/sequence.py runs it in an environment of its own.

python avalanche_sequence.py FOLDER      without FOLDER it does nothing but import Avalanche

FOLDER/job.json says what: {model, way: ewc | replay, strategy: {...}, steps, batch, rate, seed, tasks: [file, ...]}.
Each file holds rows of ids and labels. After each task the weights are written to FOLDER/<i>.safetensors, and at the
end the seconds of training and the bytes of tensors alive while it trained to FOLDER/done.json.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset
from transformers import AutoModelForCausalLM, get_linear_schedule_with_warmup

# Avalanche imports torchvision, whose build need not fit this torch; of its operators none is used, but these two names
# have to exist.
if not hasattr(torch.ops.torchvision, "nms"):
    LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from avalanche.benchmarks.scenarios.dataset_scenario import benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.benchmarks.utils.flat_data import ConstantSequence
from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, ReplayPlugin, SupervisedPlugin
from avalanche.training.templates import SupervisedTemplate

IGNORED, WARM = -100, 0.07
PLUGINS: dict[str, Any] = {"ewc": EWCPlugin, "replay": ReplayPlugin}


class Logits(nn.Module):
    """A causal language model as Avalanche calls one: ids in, logits out; columns of nothing but padding are cut."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        longest = int((ids != 0).sum(1).max())
        logits: Tensor = self.model(input_ids=ids[:, :longest]).logits
        return logits


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the next token, on the answers alone."""
    said = labels[:, 1 : logits.shape[1]]
    return cross_entropy(logits[:, :-1].flatten(0, 1), said.flatten(), ignore_index=IGNORED)


class Schedule(SupervisedPlugin):
    """Warm-up and linear decay in each task, clipping at 1; sees the tensors that live while a task is learnt."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps, self.bytes = steps, 0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.schedule = get_linear_schedule_with_warmup(strategy.optimizer, round(WARM * self.steps), self.steps)

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        torch.nn.utils.clip_grad_norm_(strategy.model.parameters(), 1.0)

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        self.schedule.step()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in alive()}
        self.bytes = max(self.bytes, sum(storages.values()))


def alive() -> list[Tensor]:
    return [t for t in gc.get_objects() if issubclass(type(t), Tensor)]


def dataset(rows: list[Any], longest: int, job: dict[str, Any], draw: random.Random) -> AvalancheDataset:
    """As many rows as the steps need: all in turn, until each was seen, then in another order."""
    order: list[int] = []
    while len(order) < job["steps"] * job["batch"]:
        order += draw.sample(range(len(rows)), len(rows))
    chosen = [rows[i] for i in order[: job["steps"] * job["batch"]]]
    parts = zip(*chosen, strict=True)
    x, y = (
        torch.tensor([r + [fill] * (longest - len(r)) for r in p]) for p, fill in zip(parts, (0, IGNORED), strict=True)
    )
    labels = DataAttribute(ConstantSequence(0, len(chosen)), "targets_task_labels", use_in_getitem=True)
    return AvalancheDataset([TensorDataset(x, y)], data_attributes=[labels])


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text("utf-8"))
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    draw = random.Random(job["seed"])
    model = Logits(AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32))
    watch = Schedule(job["steps"])
    strategy = SupervisedTemplate(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=job["rate"], weight_decay=0.0),
        criterion=answer_loss,
        train_mb_size=job["batch"],
        train_epochs=1,
        plugins=[PLUGINS[job["way"]](**job["strategy"]), watch],
        evaluator=EvaluationPlugin(loggers=[]),
    )
    tasks = [json.loads(Path(file).read_text("utf-8")) for file in job["tasks"]]
    longest = max(len(ids) for rows in tasks for ids, _ in rows)
    stream = benchmark_from_datasets(train=[dataset(rows, longest, job, draw) for rows in tasks]).train_stream
    seconds = []
    for i, experience in enumerate(stream, 1):
        started = time.process_time()
        strategy.train(experience)
        seconds.append(time.process_time() - started)
        save_model(model.model, str(folder / f"{i}.safetensors"))
    (folder / "done.json").write_text(json.dumps({"seconds": seconds, "bytes": watch.bytes}))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        main(Path(argument))
