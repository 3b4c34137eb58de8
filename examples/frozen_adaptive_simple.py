"""Freeze, update, watch and roll back the embedded model, with real gradients of real text, in a few seconds.

python examples/frozen_adaptive_simple.py                    # everything
python examples/frozen_adaptive_simple.py --demo basic       # or one part: basic, rollback
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.data.formats import read
from holdfast.data.rows import Rows, collate
from holdfast.evaluation.loss import sequence_losses
from holdfast.llm import FrozenAdaptiveLLM, create_frozen_config, create_llm, create_llm_config
from holdfast.recipe.reading import Reader


def started(**settings: Any) -> tuple[FrozenAdaptiveLLM, Rows, Rows]:
    """The embedded model with a frozen embedding, rows to learn from and other rows to measure on."""
    base_llm = create_llm(create_llm_config(backend="tiny", max_length=40, do_sample=False))
    config = create_frozen_config(
        strategy="adaptive", frozen_layers=["embedding"], higher_is_better=False, optimizer="adamw", **settings
    )
    made = Reader(base_llm.base, 64).lessons(read("tiny/shakespeare"))
    return FrozenAdaptiveLLM(base_llm, config), made[:256], made[-32:]


def gradients(llm: FrozenAdaptiveLLM, batch: Rows) -> dict[str, Tensor]:
    """Of the mean loss of a batch, for everything that is not frozen."""
    model = llm.base_llm.model
    model.zero_grad()
    model(**collate(batch, 0)).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def loss(llm: FrozenAdaptiveLLM, held_out: Rows) -> float:
    """In nats per token."""
    return sequence_losses(llm.base_llm.model, held_out).mean()


def basic() -> None:
    """Learn a little Shakespeare with a frozen embedding."""
    llm, lessons, held_out = started()
    before, start = llm.get_parameters(), loss(llm, held_out)
    answer = llm.generate("My lord,")
    print(f"before: loss {start:.3f}; 'My lord,' goes on {answer.text!r} (confidence {answer.confidence:.2f})")
    for step in range(20):
        batch = lessons[8 * step : 8 * step + 8]
        moved = llm.update_parameters(gradients(llm, batch), loss(llm, held_out))
    answer = llm.generate("My lord,")
    print(f"after:  loss {loss(llm, held_out):.3f}; 'My lord,' goes on {answer.text!r} ({answer.confidence:.2f})")
    frozen = [name for name, info in llm.get_parameter_info().items() if info.frozen]
    same = all(torch.equal(before[name], llm.get_parameters()[name]) for name in frozen)
    print(f"tensors moved in the last update: {len(moved)}; frozen: {', '.join(frozen)}; bit-identical: {same}")
    stats = llm.get_performance_stats()
    print(
        f"trend {stats['performance_trend']:+.4f} nats per update, learning rate {stats['current_learning_rate']:.2e}"
    )


def rollback() -> None:
    """Save, spoil the model, and go back; then let it go back by itself."""
    llm, lessons, held_out = started(min_learning_rate=1e-3, max_learning_rate=1e-2)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model_checkpoint.pkl"
        llm.save_checkpoint(file)
        print(f"saved: loss {loss(llm, held_out):.3f}, {file.stat().st_size / 1024:.0f} KiB of safetensors")
        wrong = {name: -g for name, g in gradients(llm, lessons[:8]).items()}
        for _ in range(3):
            llm.update_parameters(wrong)
        print(f"after three steps uphill: loss {loss(llm, held_out):.3f}")
        print(f"rolled back: {llm.rollback_to_checkpoint(file)}, loss {loss(llm, held_out):.3f}")
    for step in range(4):
        metric = loss(llm, held_out)
        moved = llm.update_parameters(wrong, metric)
        print(f"uphill again, update {step}: loss {metric:.3f}, {f'{len(moved)} moved' if moved else 'rolled back'}")


DEMOS = {"basic": basic, "rollback": rollback}


def main() -> None:
    """Run one part, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", choices=[*DEMOS, "all"], default="all")
    chosen = parser.parse_args().demo
    for name, demo in DEMOS.items():
        if chosen in (name, "all"):
            print(f"\n== {name}: {demo.__doc__}")
            demo()


if __name__ == "__main__":
    main()
