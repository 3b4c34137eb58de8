"""What anchors share: sums over tasks, factors of layers, files that go from task to task."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from holdfast._errors import BadInput, UnmatchedSelect
from holdfast.params.fisher import fisher, normalised
from holdfast.params.importance import save
from holdfast.params.weights import local
from holdfast.remedies.carried import FILE, plain, read
from holdfast.remedies.coefficients import coefficients
from holdfast.remedies.ewc import EWC
from holdfast.remedies.l2sp import L2SP
from holdfast.remedies.mas import MAS
from holdfast.rule import Rule
from holdfast.run import Run
from tests.models import build
from tests.test_every_rule import EARLIER, ROWS, batches, started, weights


def ended(kind: str, rules: list[Rule], steps: int = 2) -> Run:
    run = started(kind, rules)
    for batch in batches(steps):
        run.advance(batch)
    run.end()
    return run


@pytest.mark.parametrize("decay", [1.0, 0.5, 0.0])
def test_importance_is_that_of_earlier_tasks_times_decay_and_the_own_one(decay: float) -> None:
    rule = EWC(ROWS[:4], importance=EARLIER, decay=decay)
    alone = EWC(ROWS[:4])
    started("llama", [rule])
    started("llama", [alone])
    for name, own in alone.importance.items():
        assert torch.allclose(rule.importance[name], decay * EARLIER[name] + own, atol=1e-6)


def test_over_three_tasks_the_sum_is_that_of_online_ewc(tmp_path: Path) -> None:
    """F_t = decay F_(t-1) + F of task t, each measured where its run begins; the file is all that is carried."""
    expected: dict[str, torch.Tensor] = {}
    model = build("llama", dropout=0.2).train()
    earlier = None
    for task in range(3):
        rows = ROWS[4 * task : 4 * task + 4]
        own = normalised(fisher(model, [{k: torch.tensor([r[k] for r in rows]) for k in rows[0]}]))
        expected = {n: 0.5 * expected[n] + t if expected else t for n, t in own.items()}
        rule = EWC(rows, importance=earlier, decay=0.5, folder=tmp_path / str(task))
        run = Run(model, torch.optim.AdamW(model.parameters(), lr=1e-3), [rule])
        run.begin()
        run.advance(batches(1)[0])
        run.end()
        earlier = tmp_path / str(task) / FILE
    assert earlier is not None
    found = read(earlier, Run(model, torch.optim.SGD(model.parameters()), []))
    assert all(torch.allclose(found[n], t, rtol=1e-3, atol=1e-5) for n, t in expected.items())


def test_what_a_lora_run_carried_fits_the_merged_model_and_back(tmp_path: Path) -> None:
    run = ended("lora", [MAS(ROWS[:4], folder=tmp_path)])
    targets = {plain(p.lora.target) for p in run.params.values() if p.lora}
    full = started("llama", [])
    with pytest.raises(BadInput, match=r"embed_tokens\.weight of shape \[96, 16\]"):
        read(tmp_path / FILE, full)
    again = started("lora", [MAS(importance=tmp_path / FILE)])
    rule = again.rules[0]
    assert isinstance(rule, MAS) and {plain(n) for n in rule.importance} == targets
    for path in targets:
        full.params.pop(path)
    full.params = {n: p for n, p in started("llama", []).params.items() if n in targets}
    assert set(read(tmp_path / FILE, full)) == targets


def test_a_failed_run_and_a_run_without_folder_write_no_half_file(tmp_path: Path) -> None:
    rule = MAS(ROWS[:4], folder=tmp_path / "mas")
    run = started("llama", [rule])
    with pytest.raises(BadInput):
        run.advance(gradients={"nothing": [1.0]})
    run.end()
    assert [f.name for f in (tmp_path / "mas").iterdir()] == [FILE]
    run.end()


def test_files_of_measured_importance_are_read_too(tmp_path: Path) -> None:
    model = build("llama")
    measured = fisher(model, [{k: torch.tensor([r[k] for r in ROWS[:3]]) for k in ROWS[0]}])
    file = save(measured, tmp_path / "fisher.safetensors", model, score="fisher")
    run = started("llama", [EWC(importance=file)])
    rule = run.rules[0]
    assert isinstance(rule, EWC) and all(torch.equal(rule.importance[n], t) for n, t in measured.items())


def test_importance_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    wrong = {n: -t for n, t in EARLIER.items()}
    save_file({n: t.clone() for n, t in wrong.items()}, tmp_path / "negative.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name, why in (("negative", "negative or not finite"), ("text", "no whole"), ("none", "There is no file")):
        with pytest.raises(BadInput, match=why):
            started("llama", [EWC(importance=str(tmp_path / f"{name}.safetensors"))])


def test_a_factor_of_a_layer_is_a_factor_of_the_strength() -> None:
    """Twice the strength on one block is what a factor of 2 there gives, and 0 lets go."""
    even, strong = ended("llama", [L2SP(30.0)]), ended("llama", [L2SP(60.0)])
    factored = ended("llama", [L2SP(30.0, layers={"layers(1:2)": 2.0, "norm & ~layers(0:3)": 0.0})])
    free = ended("llama", [])
    first = {n: local(t) for n, t in factored.tensors.items()}
    one = ended("llama", [L2SP(30.0)], steps=1), ended("llama", [L2SP(30.0, layers={"layers(1:2)": 2.0})], steps=1)
    twice = ended("llama", [L2SP(60.0)], steps=1)
    for name in first:
        expected = twice if ".layers.1." in name else one[0]
        assert torch.equal(one[1].tensors[name], expected.tensors[name])
    assert any(not torch.equal(even.tensors[n], strong.tensors[n]) for n in first)
    assert any(not torch.equal(even.tensors[n], free.tensors[n]) for n in first)


def test_a_number_falls_from_stage_to_stage_upwards() -> None:
    params = started("llama", []).params
    found = coefficients(0.5, params)
    assert found["model.embed_tokens.weight"] == 1.0 and found["model.norm.weight"] == 0.5**4
    assert found["model.layers.0.mlp.up_proj.weight"] == 0.5 and found["model.layers.2.mlp.up_proj.weight"] == 0.125
    assert set(coefficients(None, params).values()) == {1.0}
    both = coefficients({"layers(0:2)": 3.0, "mlp": 2.0}, params)
    assert both["model.layers.1.mlp.up_proj.weight"] == 6.0 and both["model.layers.2.mlp.up_proj.weight"] == 2.0


def test_factors_that_make_no_sense_are_refused() -> None:
    params = started("llama", []).params
    with pytest.raises(BadInput, match="negative"):
        coefficients({"mlp": -1.0}, params)
    with pytest.raises(BadInput, match="stage to stage"):
        coefficients(0.0, params)
    with pytest.raises(UnmatchedSelect):
        coefficients({"layers(7:9)": 1.0}, params)
    with pytest.raises(BadInput, match="decay"):
        EWC(ROWS, decay=1.5)


def test_a_small_tensor_counts_element_by_element_as_much_as_a_large_one() -> None:
    """Normalised jointly: were each tensor divided by its size or its own mean, ratios between weights would change."""
    rule = EWC(ROWS[:4])
    run = started("llama", [rule])
    raw = fisher(run.model, [{k: torch.tensor([r[k] for r in ROWS[:4]]) for k in ROWS[0]}], paths=set(run.params))
    ratios = {n: float(t.sum() / raw[n].sum()) for n, t in rule.importance.items()}
    assert max(ratios.values()) == pytest.approx(min(ratios.values()), rel=1e-4)
    assert torch.cat([t.flatten() for t in rule.importance.values()]).mean() == pytest.approx(1.0, rel=1e-5)


def test_anchors_are_where_this_run_began() -> None:
    run = started("llama", [EWC(ROWS[:4], 1e9, importance=EARLIER)])
    before = weights(run)
    run.advance(batches(1)[0])
    assert max(float((t.detach() - before[n]).abs().max()) for n, t in run.tensors.items()) < 1e-2


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_journal_tells_the_mean_importance_of_each_part_once_a_run_has_ended(interrupted: bool) -> None:
    rule = EWC(ROWS[:4])
    run = started("llama", [rule])
    importance = {name: t.clone() for name, t in rule.importance.items()}
    run.interrupted = interrupted
    run.end()
    lines = [line for line in run.journal if line["kind"] == "importance"]
    assert bool(lines) != interrupted  # a run that will be resumed has not ended
    if lines:
        mlp = [t.flatten() for n, t in importance.items() if run.params[n].place == "layers.0 mlp"]
        assert lines[0]["groups"]["layers.0 mlp"] == pytest.approx(float(torch.cat(mlp).mean()), rel=1e-5)
