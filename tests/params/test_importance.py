"""What scores say of whole tensors, and the files they are kept in."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.stats import rankdata

from holdfast._errors import BadInput, UnknownName
from holdfast.params import importance as store
from holdfast.params.importance import Level, levels, load, per_tensor, ranks, save
from holdfast.params.scores import magnitude
from tests.models import build

ROOT = Path(__file__).parents[2]
few = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=20)


def named(values: list[float]) -> dict[str, float]:
    return {f"p{i}": value for i, value in enumerate(values)}


def test_a_tensor_is_summed_up_as_numpy_does() -> None:
    values = torch.rand(7, 5, generator=torch.Generator().manual_seed(0))
    plain = values.double().numpy()
    expected = {"mean": plain.mean(), "sum": plain.sum(), "max": plain.max(), "norm": np.linalg.norm(plain.ravel())}
    for reduce, value in expected.items():
        assert per_tensor({"w": values}, reduce)["w"] == pytest.approx(value, rel=1e-7)
        assert per_tensor({"w": values[:0]}, reduce)["w"] == 0.0
    assert per_tensor({"w": values}) == per_tensor({"w": values}, "mean")
    with pytest.raises(UnknownName, match="mean"):
        per_tensor({"w": values}, "maen")  # type: ignore[arg-type]


@given(few)
def test_ranks_are_scipys_mean_ranks_between_0_and_1(values: list[float]) -> None:
    found = ranks(named(values))
    if len(values) == 1:
        assert found == {"p0": 1.0}
    else:
        assert list(found.values()) == pytest.approx((rankdata(values) - 1) / (len(values) - 1))


@given(few, st.floats(1e-3, 1e3))
def test_ranks_and_levels_do_not_depend_on_scale_or_order(values: list[float], scale: float) -> None:
    scores = named(values)
    scaled = dict(reversed([(path, value * scale) for path, value in scores.items()]))
    assert ranks(scaled) == ranks(scores) and levels(scaled) == levels(scores)


def test_a_score_that_is_not_a_number_is_named() -> None:
    with pytest.raises(BadInput, match="The score of p1 is not a number"):
        ranks(named([1.0, float("nan")]))


@given(few)
def test_levels_rise_with_the_score_and_nothing_is_low_for_ever(values: list[float]) -> None:
    scores, order = named(values), [Level.LOW, Level.MODERATE, Level.IMPORTANT, Level.CRITICAL]
    found = levels(scores)
    by_score = sorted(scores, key=lambda path: scores[path])
    heights = [order.index(found[path]) for path in by_score]
    assert heights == sorted(heights)
    assert all((found[p] is Level.LOW) for p in scores if scores[p] == 0)


def test_levels_of_unlike_scores_are_quarters_or_what_is_asked_for() -> None:
    scores = named([float(10**i) for i in range(12)])
    quarters = [level for level in (Level.LOW, Level.MODERATE, Level.IMPORTANT, Level.CRITICAL) for _ in range(3)]
    assert list(levels(scores).values()) == quarters
    assert list(levels(scores, (0.5, 0.9, 1.0)).values()).count(Level.CRITICAL) == 1
    assert set(levels(scores, (0.0, 0.0, 0.0)).values()) == {Level.CRITICAL}
    assert [level.value for level in Level] == ["critical", "important", "moderate", "low"]


@pytest.mark.parametrize("quantiles", [(0.5, 0.25, 0.75), (0.1, 0.2), (-0.1, 0.2, 0.3), (0.2, 0.3, 1.1)])
def test_quantiles_that_do_not_rise_are_refused(quantiles: tuple[float, float, float]) -> None:
    with pytest.raises(BadInput, match="three rising quantiles"):
        levels({"a": 1.0}, quantiles)


@pytest.mark.parametrize("arch", ["llama", "lora"])
def test_a_file_gives_back_every_bit(arch: str, tmp_path: Path) -> None:
    model = build(arch)
    kept = magnitude(model, paths={n for n, _ in model.named_parameters(remove_duplicate=False)})
    file = save(kept, tmp_path / "deep" / "scores.any", model, score="magnitude")
    found = load(file, build(arch), score="magnitude")
    assert list(found) == list(kept) and all(torch.equal(found[n], t) for n, t in kept.items())
    assert [f.name for f in file.parent.iterdir()] == ["scores.any"]


def test_a_file_belongs_to_one_model(tmp_path: Path) -> None:
    model = build("llama")
    file = save(magnitude(model), tmp_path / "scores.safetensors", model, score="magnitude")
    for other in (build("qwen2"), build("llama", tied=False), build("llama").bfloat16(), build("lora")):
        with pytest.raises(BadInput, match="other paths, shapes or types"):
            load(file, other)
    with pytest.raises(BadInput, match="other weights"):
        load(file, build("llama", seed=1))
    with pytest.raises(BadInput, match="magnitude, not fisher"):
        load(file, model, score="fisher")
    with torch.no_grad():
        model.model.norm.weight[5] += 1e-3
    with pytest.raises(BadInput, match="other weights"):
        load(file, model)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    model = build("llama")
    with pytest.raises(BadInput, match="no file"):
        load(tmp_path / "nowhere", model)
    foreign, pickled, cut = tmp_path / "weights.safetensors", tmp_path / "x.pkl", tmp_path / "cut.safetensors"
    save_file({"a": torch.ones(2)}, foreign)
    with pytest.raises(BadInput, match="holds no importance"):
        load(foreign, model)
    torch.save({"a": torch.ones(2)}, pickled)
    cut.write_bytes(save(magnitude(model), tmp_path / "whole", model).read_bytes()[:-100])
    for file in (pickled, cut, tmp_path):
        with pytest.raises(BadInput, match="no whole safetensors file"):
            load(file, model)


def test_what_fits_no_parameter_is_not_saved(tmp_path: Path) -> None:
    model = build("llama")
    for wrong in ({"nowhere": torch.ones(2)}, {"model.norm.weight": torch.ones(2)}):
        with pytest.raises(BadInput, match="no parameter of this model"):
            save(wrong, tmp_path / "file", model)
    assert not list(tmp_path.iterdir())


def test_the_example_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/importance.md").read_text("utf-8"), re.S)
    exec(compile(code, "importance.md", "exec"), {})
    assert capsys.readouterr().out.split()[2] in set(Level) and (tmp_path / "fisher.safetensors").is_file()


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    file = save(magnitude(model), tmp_path / "file", model)
    before = file.read_bytes()

    def fail(tensors: object, target: Path, metadata: object) -> None:
        target.write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(store, "save_file", fail)
    with pytest.raises(OSError, match="full"):
        save({}, file, model)
    assert file.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["file"]
