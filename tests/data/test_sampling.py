"""Self-generated rows: from the base alone, seeded, cached, and without a trace anywhere else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast._errors import BadInput, UnknownName, Unsupported
from holdfast.base import Base, load_base
from holdfast.data import sampling
from holdfast.data.rows import collate
from holdfast.data.sampling import self_generated
from holdfast.data.splitting import distinct
from tests.models import build


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


def drawn(base: Base, **options: Any) -> list[dict[str, list[int]]]:
    settings = {"n": 12, "length": 24, "cache": False, **options}
    return self_generated(base.model, base.tokenizer, **settings)


def test_rows_are_full_begin_with_bos_and_depend_on_the_seed(base: Base) -> None:
    rows = drawn(base)
    assert [len(row["input_ids"]) for row in rows] == [24] * 12
    assert {row["input_ids"][0] for row in rows} == {base.tokenizer.bos_token_id}
    assert all(row["labels"][1:] == row["input_ids"][1:] for row in rows)
    assert rows == drawn(base)
    assert rows != drawn(base, seed=1)
    assert len({tuple(row["input_ids"]) for row in rows}) == 12


def test_the_loss_on_them_is_the_entropy_of_the_base(base: Base) -> None:
    rows = drawn(base, n=64, length=32)
    batch = collate(rows, 0)
    with torch.no_grad():
        logs = base.model(input_ids=batch["input_ids"]).logits[:, :-1].log_softmax(-1).double()
    surprise = -logs.gather(2, batch["input_ids"][:, 1:, None])[..., 0]
    difference = (surprise - -(logs.exp() * logs).sum(-1)).mean(1)  # a martingale: mean 0 for pure sampling only
    assert abs(float(difference.mean())) < 3.5 * float(difference.std()) / math.sqrt(len(rows))


def test_nothing_outside_changes(base: Base) -> None:
    base.model.train()
    base.model.model.layers[2].eval()
    modes = [module.training for module in base.model.modules()]
    weights = {name: p.clone() for name, p in base.model.named_parameters()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    drawn(base)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in base.model.modules()] == modes
    assert all(torch.equal(p, weights[name]) and p.grad is None for name, p in base.model.named_parameters())
    base.model.eval()


class Silent:
    """A model that can be asked nothing."""

    def __init__(self, model: Any):
        self.config, self.dtype, self.state_dict = model.config, model.dtype, model.state_dict


def test_rows_are_kept_and_a_damaged_file_is_made_anew(base: Base, tmp_path: Path) -> None:
    rows = drawn(base, cache=tmp_path)
    silent: Any = Silent(base.model)
    options: Any = {"n": 12, "length": 24, "cache": tmp_path}
    assert self_generated(silent, base.tokenizer, **options) == rows
    with pytest.raises(AttributeError):
        self_generated(silent, base.tokenizer, **options, seed=7)
    with pytest.raises(AttributeError):
        self_generated(silent, base.tokenizer, **options, digest="other weights")
    (path,) = (p for p in tmp_path.rglob("*") if p.is_file())
    path.write_bytes(path.read_bytes()[:-1])
    assert drawn(base, cache=tmp_path) == rows
    assert self_generated(silent, base.tokenizer, **options) == rows


def test_the_default_folder_follows_the_environment(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    drawn(base, cache=None, n=2)
    assert len(list((tmp_path / "self").iterdir())) == 1


def test_temperatures_are_dealt_out_in_turn(base: Base) -> None:
    mixed = drawn(base, n=6, temperature=(0.05, 1.0))
    assert mixed[1::2] == drawn(base, n=6)[1::2]
    assert len({tuple(row["input_ids"][:8]) for row in mixed[::2]}) == 1


def test_rare_prompts_begin_otherwise_and_are_not_learnt(base: Base) -> None:
    rows = drawn(base, n=40, prompts="rare")
    firsts = [row["input_ids"][1] for row in rows]
    assert {row["labels"][1] for row in rows} == {-100}
    assert len(set(firsts)) > 20
    common = {row["input_ids"][1] for row in drawn(base, n=40)}
    assert not common & set(firsts)
    assert all(base.tokenizer.decode([token]).strip().isalpha() for token in firsts)


def test_near_duplicates_are_replaced(base: Base) -> None:
    cool = {"n": 16, "length": 32, "temperature": 0.7, "seed": 3}
    assert len(distinct(drawn(base, **cool))) < 16
    rows = drawn(base, **cool, near_duplicates=False)
    assert distinct(rows) == rows
    assert len(rows) == 16


def test_a_base_that_only_repeats_itself_is_reported(
    base: Base, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "ROUNDS", 2)
    assert len(drawn(base, n=4, temperature=0.01, near_duplicates=False)) == 4
    assert "near-identical rows remain after 2 rounds" in caplog.text


class Marks:
    """A tokenizer as far as sampling without prompts asks."""

    all_special_ids = (0,)

    def __init__(self, bos: int | None, eos: int | None):
        self.bos_token_id, self.eos_token_id = bos, eos

    def __len__(self) -> int:
        return 96

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[] for _ in texts]}

    def decode(self, ids: list[int]) -> str:
        return str(ids)


@pytest.mark.parametrize(("bos", "eos"), [(None, 2), (None, None), (2, 2)])
def test_models_without_bos_start_from_eos_or_anywhere(bos: int | None, eos: int | None) -> None:
    marks: Any = Marks(bos, eos)
    rows = self_generated(build("gpt2"), marks, n=20, length=30, cache=False)
    firsts = {row["input_ids"][0] for row in rows}
    assert firsts == {2} if eos else (len(firsts) > 10 and 0 not in firsts)
    assert all(row["labels"][1:] == row["input_ids"][1:] for row in rows)


@pytest.mark.parametrize(
    ("options", "why"),
    [({"n": 0}, "n >= 1"), ({"length": 513}, "length <= 512"), ({"length": 1}, "2 <= length"),
     ({"temperature": 0.0}, "above 0"), ({"temperature": ()}, "above 0")],
)  # fmt: skip
def test_impossible_settings_are_refused(base: Base, options: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        drawn(base, **options)


def test_unknown_prompts_and_encoders_are_refused(base: Base) -> None:
    with pytest.raises(UnknownName, match="rare"):
        drawn(base, prompts="rar")
    with pytest.raises(Unsupported, match="decoder-only"):
        self_generated(build("t5"), base.tokenizer, n=1, length=8)
