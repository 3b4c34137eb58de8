"""All that a FrozenAdaptiveLLM does, on the embedded model with real gradients of real text; every figure is computed.

python examples/frozen_adaptive.py --demo all       # or one of: basic, importance, strategies, monitoring, rollback,
                                                    # manager
"""

from __future__ import annotations

import argparse
import collections
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.base import Base, load_base
from holdfast.data.formats import read
from holdfast.data.rows import Rows, collate
from holdfast.evaluation.loss import sequence_losses
from holdfast.llm import (
    FrozenAdaptiveLLM,
    UpdateStrategy,
    create_frozen_adaptive_manager,
    create_frozen_config,
    create_llm,
    create_llm_config,
    get_preset_configs,
    load_frozen_config,
)
from holdfast.recipe.reading import Reader

BATCH = 8
RATES = {"min_learning_rate": 1e-4, "max_learning_rate": 2e-3}


@cache
def base() -> Base:
    """What texts are read with; every demo loads weights of its own."""
    return load_base("tiny")


@cache
def text(name: str) -> tuple[Rows, Rows]:
    """Rows of 64 tokens to learn from, and others to measure on."""
    made = Reader(base(), 64).lessons(read(name))
    return made[:400], made[-24:]


def model(**settings: Any) -> FrozenAdaptiveLLM:
    """The embedded model; the metric of all demos is a loss, and AdamW makes the steps."""
    config = create_frozen_config(**{"higher_is_better": False, "optimizer": "adamw", **RATES, **settings})
    return FrozenAdaptiveLLM(create_llm(create_llm_config("tiny", max_length=48)), config)


def gradients(llm: FrozenAdaptiveLLM, step: int) -> dict[str, Tensor]:
    """Of the mean loss of a batch of Shakespeare, for everything that is not frozen."""
    network = llm.base_llm.model
    network.zero_grad()
    batch = collate(text("tiny/shakespeare")[0][BATCH * step : BATCH * (step + 1)], 0)
    if any(p.requires_grad for p in network.parameters()):
        network(**batch).loss.backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def loss(llm: FrozenAdaptiveLLM, name: str = "tiny/shakespeare") -> float:
    """On text that is not learnt from, in nats per token."""
    return sequence_losses(llm.base_llm.model, text(name)[1]).mean()


def basic() -> None:
    """Freeze, thaw, update, export."""
    llm = model(frozen_layers=["embedding"])
    answer = llm.generate("Once upon a time")
    print(f"{answer.text!r}, mean token probability {answer.confidence:.2f}")
    llm.freeze_layers(["encoder"])
    llm.unfreeze_parameters(["*.layers.1.mlp.*"])
    before = llm.get_parameters()
    moved = llm.update_parameters(gradients(llm, 0), loss(llm))
    frozen = [name for name, info in llm.get_parameter_info().items() if info.frozen]
    still = sum(torch.equal(before[name], llm.get_parameters()[name]) for name in frozen)
    print(f"{len(moved)} tensors moved; of {len(frozen)} frozen ones {still} are bit-identical")
    with tempfile.TemporaryDirectory() as folder:
        llm.export_config(Path(folder) / "config.json")
        print(
            "exported configuration reads back equal:", load_frozen_config(Path(folder) / "config.json") == llm.config
        )


def importance() -> None:
    """Levels of all tensors, from the gradient of one batch."""
    llm = model()
    levels = llm.analyze_and_update_importance(gradients(llm, 0))
    print(dict(collections.Counter(level.value for level in levels.values())))
    info = sorted(llm.get_parameter_info().values(), key=lambda i: -i.sensitivity)
    for i in (*info[:4], *info[-4:]):
        print(f"{i.name:48} {i.importance.value:10} sensitivity {i.sensitivity:.4f}  gradient {i.gradient_norm:.4f}")


def strategies() -> None:
    """The same eight batches under each strategy: what is learnt, what is forgotten, what moved."""
    print(f"{'strategy':12} {'Shakespeare':>12} {'stories':>8} {'tensors that moved':>19}")
    for strategy in UpdateStrategy:
        llm = model(strategy=strategy, update_frequency=4)
        before = [loss(llm, name) for name in ("tiny/shakespeare", "tiny/stories")]
        for step in range(8):
            llm.update_parameters(gradients(llm, step))
        after = [loss(llm, name) for name in ("tiny/shakespeare", "tiny/stories")]
        moved = len({entry.parameter_name for entry in llm.get_update_history()})
        print(f"{strategy.value:12} {after[0] - before[0]:+12.3f} {after[1] - before[1]:+8.3f} {moved:19}")


def monitoring() -> None:
    """Metric, trend and learning rate while it learns."""
    llm = model(performance_window=10)
    for step in range(20):
        llm.update_parameters(gradients(llm, step), loss(llm))
        if step % 4 == 3:
            s = llm.get_performance_stats()
            print(
                f"update {s['update_count']:2}: loss {s['current_performance']:.3f}, "
                f"mean {s['average_performance']:.3f}, std {s['performance_std']:.3f}, "
                f"trend {s['performance_trend']:+.4f}, "
                f"learning rate {s['current_learning_rate']:.2e}"
            )


def rollback() -> None:
    """The best state comes back bit for bit: when asked, and by itself when the loss rises by more than 2 %."""
    llm = model(min_learning_rate=1e-3, rollback_threshold=0.02)
    for step in range(6):
        llm.update_parameters(gradients(llm, step), loss(llm))
    good, best = llm.get_parameters(), loss(llm)
    with tempfile.TemporaryDirectory() as folder:
        llm.save_checkpoint(Path(folder) / "model_checkpoint.pkl")
        uphill = {name: -g for name, g in gradients(llm, 6).items()}
        for _ in range(3):
            llm.update_parameters(uphill)
        worse = loss(llm)
        llm.rollback_to_checkpoint(Path(folder) / "model_checkpoint.pkl")
    same = all(torch.equal(good[name], value) for name, value in llm.get_parameters().items())
    print(f"loss {best:.3f}, uphill {worse:.3f}, rolled back {loss(llm):.3f}; weights bit-identical: {same}")
    for _ in range(4):
        metric = loss(llm)
        moved = llm.update_parameters(uphill, metric)
        print(f"uphill: loss {metric:.3f} -> {'went on' if moved else 'went back by itself'}")


def manager() -> None:
    """Two models with presets of their own."""
    models = create_frozen_adaptive_manager()
    for name in ("conservative", "balanced"):
        llm = models.register_model(name, create_llm(create_llm_config("tiny")), get_preset_configs()[name])
        for step in range(3):
            llm.update_parameters(gradients(llm, step), -loss(llm))
        stats = models.get_model_stats(name)
        frozen = sum(info.frozen for info in stats["parameter_info"].values())
        rate = stats["performance_stats"]["current_learning_rate"]
        print(f"{name}: {frozen} tensors frozen, {stats['update_history_count']} movements, learning rate {rate:.2e}")
    print("removed:", models.remove_model("balanced"), "| left:", models.list_models())


DEMOS = {
    "basic": basic,
    "importance": importance,
    "strategies": strategies,
    "monitoring": monitoring,
    "rollback": rollback,
    "manager": manager,
}


def main() -> None:
    """Run one demo, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", choices=[*DEMOS, "all"], default="all")
    chosen = parser.parse_args().demo
    for name, demo in DEMOS.items():
        if chosen in (name, "all"):
            print(f"\n== {name}: {demo.__doc__}")
            demo()


if __name__ == "__main__":
    main()
