"""A classifier made of a language model or an encoder: its backbone, and a new head that gives one logit a label."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from holdfast._errors import BadInput, Unsupported
from holdfast.adapters.wrapping import task_type
from holdfast.params.heads import classifies, headed, speaker


def classifier(
    model: PreTrainedModel,
    names: Sequence[str],
    *,
    pad_id: int = 0,
    weights: Sequence[float] | None = None,
    seed: int = 0,
) -> Any:
    """transformers' classifier of the model's kind on the very same backbone, with a head drawn from `seed`.

    The config names the labels. Decoders classify by the last token that is not `pad_id`, encoders by the first, or by
    what lies between backbone and head there (BERT's pooler, which is drawn too where the model comes without one).
    `weights` are those of the labels in the loss. A decoder can still be asked as a language model (see
    `holdfast.params.heads`). A model that classifies already keeps its head. No other random state moves.

    Raises BadInput for a classifier of other labels, Unsupported for a model that transformers has no classifier of.
    """
    if classifies(model):
        if (known := labels_of(model.config)) != list(names):
            raise BadInput(f"The base tells {', '.join(known)} apart, not {', '.join(names)}. Give the model below it.")
        made = headed(model, speaker(model))
    else:
        made = _built(model, _config(model.config, names, pad_id), seed)
    made.config.architectures = [type(made).__name__]
    made.config.class_weights = None if weights is None else [float(weight) for weight in weights]
    return made


def labels_of(config: Any) -> list[str]:
    """The names of a classifier's labels, in the order of its logits."""
    return [str(config.id2label[i]) for i in sorted(config.id2label)]


def _config(base: PretrainedConfig, names: Sequence[str], pad_id: int) -> PretrainedConfig:
    config = copy.deepcopy(base)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    config.problem_type = "single_label_classification"
    config.get_text_config().pad_token_id = pad_id  # what decoders tell the end of a text by
    return config


def _built(model: PreTrainedModel, config: PretrainedConfig, seed: int) -> Any:
    if config.is_encoder_decoder:
        raise Unsupported("An encoder-decoder is taught to write answers, not to classify: leave `task` away.")
    try:
        with torch.device("meta"):
            made: Any = AutoModelForSequenceClassification.from_config(config, dtype=model.dtype)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise Unsupported(f"transformers knows no classifier of the kind {config.model_type}.") from error
    backbone: Any = model.base_model
    fresh = _completed(backbone, made.base_model)
    setattr(made, made.base_model_prefix, backbone)
    drawn = [*fresh.values(), *(part for name, part in made.named_children() if name != made.base_model_prefix)]
    _draw(made, drawn, model.device, seed)
    made.name_or_path = model.name_or_path
    made.train(model.training)
    made.fresh = sorted(fresh)
    speaks = task_type(model) == "CAUSAL_LM" and not type(model).__name__.endswith("ForMaskedLM")
    for parameter in set(model.parameters()) - set(made.parameters()):
        parameter.requires_grad_(False)  # of the language model's head, which only answers
    return headed(made, model if speaks else None)


def _completed(backbone: nn.Module, whole: nn.Module) -> dict[str, nn.Module]:
    """What a classifier's backbone has and this one lacks, put into it."""
    lacking = {name: part for name, part in whole.named_children() if getattr(backbone, name, None) is None}
    for name, part in lacking.items():
        setattr(backbone, name, part)
    return lacking


def _draw(model: Any, parts: Sequence[nn.Module], device: torch.device, seed: int) -> None:
    """Values for parts without any, as transformers draws them for this kind of model."""
    if device.type == "meta":
        return
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        for part in parts:
            part.to_empty(device=device)
            for module in part.modules():
                model._init_weights(module)
