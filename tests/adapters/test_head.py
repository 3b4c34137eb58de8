"""A head on a base: on the very same backbone, drawn from its seed alone, weighed, and able to go on speaking."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from holdfast._errors import BadInput, Unsupported
from holdfast.adapters.head import classifier, labels_of
from holdfast.adapters.method import methods
from holdfast.evaluation.loss import sequence_losses
from holdfast.objective import items, loss_of
from holdfast.params.fisher import fisher
from holdfast.params.heads import speaker, speaking
from tests.models import ARCHITECTURES, build, inputs

NAMES = ("no", "yes", "perhaps")
DECODERS = [arch for arch in ARCHITECTURES if arch not in ("bert", "t5")]
LABELS = torch.tensor([2, 0])
TEXT = [{"input_ids": list(range(5, 25)), "labels": list(range(5, 25))}]


@pytest.mark.parametrize("arch", [*DECODERS, "bert"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_backbone_is_the_bases_own_and_the_head_is_drawn_from_its_seed(arch: str, tied: bool) -> None:
    base = build(arch, tied=tied)
    owned = {id(parameter) for parameter in base.parameters()}
    state = torch.get_rng_state()
    made = classifier(base, NAMES, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    fresh = {name for name, parameter in made.named_parameters() if id(parameter) not in owned}
    heads = {"bert": {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}}
    assert fresh == heads.get(arch, {"score.weight"})
    again, other = (classifier(build(arch, tied=tied), NAMES, seed=seed).state_dict() for seed in (3, 4))
    weights = [name for name in fresh if name.endswith("weight")]
    assert all(torch.equal(again[name], made.state_dict()[name]) for name in fresh)
    assert not any(torch.equal(other[name], again[name]) for name in weights)
    assert labels_of(made.config) == list(NAMES) and made.config.label2id["yes"] == 1


@pytest.mark.parametrize("arch", DECODERS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_decoder_goes_on_speaking_through_the_backbone_that_is_trained(arch: str, tied: bool) -> None:
    whole, base = build(arch, tied=tied), build(arch, tied=tied)
    made = classifier(base, NAMES)
    before = sequence_losses(whole, TEXT)
    assert torch.equal(sequence_losses(made, TEXT).total, before.total)
    with torch.no_grad():
        for parameter in made.base_model.parameters():
            parameter.mul_(1.1)
    assert speaker(made) is base
    assert torch.equal(sequence_losses(made, TEXT).total, sequence_losses(base, TEXT).total)
    assert not torch.equal(sequence_losses(made, TEXT).total, before.total)
    batch = inputs()
    assert torch.equal(made(**batch).loss, base(**batch).loss)
    with speaking(made):
        assert torch.equal(made(batch["input_ids"]).logits, base(batch["input_ids"]).logits)
    assert made(batch["input_ids"]).logits.shape == (2, 3)


def test_a_copy_speaks_through_its_own_backbone() -> None:
    made = classifier(build("llama"), NAMES)
    other: Any = copy.deepcopy(made)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert float(sequence_losses(other, TEXT).total) != float(sequence_losses(made, TEXT).total)
    assert speaker(other).model is other.model


@pytest.mark.parametrize("arch", [*DECODERS, "bert"])
def test_the_loss_is_torchs_weighted_cross_entropy_and_adds_up_over_batches(arch: str) -> None:
    weights = [0.5, 2.0, 1.25]
    made = classifier(build(arch), NAMES, weights=weights)
    ids = inputs(rows=6)["input_ids"]
    labels = torch.tensor([0, 1, 2, 2, 0, 0])
    outputs = made(ids, labels=labels)
    wanted = cross_entropy(outputs.logits, labels, weight=torch.tensor(weights))
    assert torch.allclose(outputs.loss, wanted)
    parts = [{"input_ids": ids[at], "labels": labels[at]} for at in (slice(0, 1), slice(1, 6))]
    count = sum(items(made, part) for part in parts)
    assert count == pytest.approx(sum(weights[label] for label in labels))
    assert torch.allclose(sum(loss_of(made, part, count, 2)[0] for part in parts), wanted)


def test_text_beside_labels_counts_by_rows() -> None:
    made, batch = classifier(build("llama"), NAMES), inputs(rows=3)
    batch["labels"][2] = -100
    assert items(made, batch) == 2 and items(build("llama"), batch) == 14


def test_importance_of_text_is_that_of_the_language_model() -> None:
    base = build("llama")
    found = fisher(build("llama"), [inputs()], paths=["model.layers.0.mlp.up_proj.weight"])
    ours = fisher(classifier(base, NAMES), [inputs()], paths=["model.layers.0.mlp.up_proj.weight"])
    assert all(torch.allclose(ours[path], found[path], rtol=1e-4) for path in found)
    with pytest.raises(Unsupported, match="logits"):
        fisher(classifier(build("bert"), NAMES), [inputs()])


@pytest.mark.parametrize("method", ["full", "lora", "bottleneck", "ia3", "ln", "adalora"])
@pytest.mark.parametrize("arch", ["llama", "bert"])
def test_the_head_trains_with_every_method(method: str, arch: str) -> None:
    arguments = {"lora": {"rank": 2}, "adalora": {"rank": 2}, "ia3": {"targets": "mlp"}}.get(method, {})
    made = methods.apply(method, classifier(build(arch), NAMES), arguments, seed=0, steps=1000)
    trained = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    head = ("score",) if arch == "llama" else ("classifier", "pooler")
    assert all(any(part in name for name in trained) for part in head)
    made(**{**inputs(), "labels": LABELS}).loss.backward()
    assert all(made.get_parameter(name).grad is not None for name in trained)
    if arch == "llama":
        assert len(sequence_losses(made, TEXT)) == 1


def test_it_is_saved_under_its_own_name_and_loads_with_transformers(tmp_path: Path) -> None:
    made = classifier(build("llama"), NAMES, weights=[1, 2, 3])
    made.save_pretrained(tmp_path)
    theirs: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.config.architectures == ["LlamaForSequenceClassification"]
    assert theirs.config.id2label == {0: "no", 1: "yes", 2: "perhaps"}
    ids = inputs()["input_ids"]
    assert torch.equal(theirs(ids).logits, made(ids).logits)
    assert classifier(theirs, NAMES, seed=9) is theirs
    with pytest.raises(BadInput, match="tells no, yes, perhaps apart, not a, b"):
        classifier(theirs, ["a", "b"])


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(Unsupported, match="not to classify"):
        classifier(build("t5"), NAMES)
