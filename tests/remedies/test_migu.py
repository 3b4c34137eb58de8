"""MIGU against magnitudes written out: which rows move, and which do not at all."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from holdfast._errors import BadInput, Unsupported
from holdfast.remedies.migu import MIGU
from holdfast.rule import REPLAYED
from holdfast.run import Run
from tests.models import build
from tests.test_every_rule import batches, drop_alike, started, weights


def shares(run: Run, layer: str, window: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """The mean over tokens of |output| / Σ |output|, with a hook of its own."""
    seen: list[torch.Tensor] = []
    module = run.model.get_submodule(layer)
    handle = module.register_forward_hook(lambda m, a, out: seen.append(out.detach().flatten(0, -2)))
    modes = {m: m.training for m in run.model.modules()}
    run.model.eval()
    with torch.no_grad():
        for batch in window:
            run.model(**batch)
    for m, mode in modes.items():
        m.training = mode
    handle.remove()
    outputs = torch.cat(seen).abs()
    return (outputs / outputs.sum(-1, keepdim=True)).mean(0)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "lora"])
def test_only_rows_with_large_outputs_move(arch: str) -> None:
    model = build(arch).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    run = Run(model, optimizer, [MIGU(0.3)])
    run.begin()
    for window in (batches(2), batches(2, seed=1)):
        before = weights(run)
        layers = {n.rpartition(".")[0] for n, p in run.params.items() if p.layer is not None}
        linear = [n for n in layers if not isinstance(model.get_submodule(n), nn.LayerNorm) and "norm" not in n]
        ranked = {n: shares(run, n, window) for n in linear if "ln_" not in n}
        run.advance(window)
        for layer, share in ranked.items():
            count = math.ceil(0.3 * len(share) - 1e-9)
            free = set(share.topk(count).indices.tolist())
            for name in (f"{layer}.weight", f"{layer}.bias"):
                if name not in run.tensors:
                    continue
                moved = (run.tensors[name].detach() - before[name]) != 0
                across = moved.ndim == 1 or (run.params[name].shape[-1] == len(share) and arch == "gpt2")
                lines = moved.reshape(-1, len(share)).any(0) if across else moved.any(1)
                assert set(lines.nonzero()[:, 0].tolist()) <= free
                assert lines.any()
    run.end()


def test_norms_embedding_and_head_move_freely() -> None:
    free, masked = started("llama", []), started("llama", [MIGU(0.1)])
    for run in (free, masked):
        drop_alike(run, batches(1)[0])
    for name, param in free.params.items():
        same = torch.equal(free.tensors[name], masked.tensors[name])
        assert same == (param.layer is None or param.component == "norm")


def test_everything_moves_where_everything_may() -> None:
    free, masked = started("llama", []), started("llama", [MIGU(1.0)])
    for run in (free, masked):
        for batch in batches(3):
            drop_alike(run, batch)
    assert all(torch.equal(t, masked.tensors[n]) for n, t in free.tensors.items())


def test_looking_does_not_count() -> None:
    """What is asked in evaluation mode (a teacher, a probe) has no part in the ranks."""
    looked, plain = started("llama", [MIGU(0.3)]), started("llama", [MIGU(0.3)])
    with looked.aside(), torch.no_grad():
        looked.model(**batches(1, seed=9)[0])
    for run in (looked, plain):
        drop_alike(run, batches(1)[0])
    assert all(torch.equal(t, plain.tensors[n]) for n, t in looked.tensors.items())


def test_the_share_has_to_be_one() -> None:
    for top in (0.0, 1.5):
        with pytest.raises(BadInput, match="top"):
            MIGU(top)


def test_the_mode_of_the_model_does_not_matter() -> None:
    run = started("llama", [MIGU(0.1)])
    run.model.eval()
    before = weights(run)
    run.advance(batches(1)[0])
    layer = next(n for n in run.tensors if n.endswith("gate_proj.weight"))
    moved = (run.tensors[layer] != before[layer]).any(1)
    assert 0 < int(moved.sum()) <= math.ceil(0.1 * len(moved))


def test_pads_and_replayed_rows_have_no_vote() -> None:
    """Both rank the same outputs as the plain batch does, though their own would be others."""
    plain, padded, mixed = (started("llama", [MIGU(0.3)]) for _ in range(3))
    batch = {k: v.clone() for k, v in batches(1)[0].items()}
    rows, length = batch["input_ids"].shape
    wide = {k: torch.nn.functional.pad(v, (0, 6), value=-100 if k == "labels" else 5) for k, v in batch.items()}
    wide["attention_mask"] = (torch.arange(length + 6) < length).long().expand(rows, -1)
    more = {k: torch.cat([v, batches(1, seed=4)[0][k]]) for k, v in batch.items()}
    more[REPLAYED] = torch.arange(len(more["labels"])) >= rows
    for run, given in ((plain, batch), (padded, wide), (mixed, more)):
        run.model.eval()
        run.advance(given)
    (ours, *others) = (next(r for r in run.rules if isinstance(r, MIGU))._sizes for run in (plain, padded, mixed))
    for theirs in others:
        assert all(torch.allclose(theirs[name], sizes, rtol=1e-4) for name, sizes in ours.items())


def test_ready_gradients_cannot_be_ranked() -> None:
    run = started("llama", [MIGU(0.3)])
    run.advance(batches(1)[0])
    name = next(n for n in run.tensors if n.endswith("gate_proj.weight"))
    with pytest.raises(Unsupported, match="no forward pass"):
        run.advance(gradients={name: torch.ones(run.tensors[name].shape)})
