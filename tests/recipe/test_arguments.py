"""Values under `train` against the types of their arguments."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from transformers import TrainingArguments

from holdfast._errors import BadInput
from holdfast.recipe.arguments import check_arguments


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("max_steps", "abc", "a whole number, not 'abc'"),
        ("max_steps", 2.5, "a whole number, not 2.5"),
        ("max_steps", True, "a whole number, not True"),
        ("max_steps", None, "a whole number, not None"),
        ("learning_rate", "fast", "a number, not 'fast'"),
        ("bf16", "yes", "true or false, not 'yes'"),
        ("save_total_limit", [2], "a whole number, not"),
        ("lr_scheduler_kwargs", 3, "a mapping or text, not 3"),
        ("label_names", "labels", "a list, not 'labels'"),
        ("lr_scheduler_type", 3, "a name such as linear or cosine"),
        ("eval_strategy", False, "put it into quotes"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_key(key: str, value: Any, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_arguments({"warmup_steps": 3, key: value})
    assert f"`train.{key}`" in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_steps", 1e3),
        ("learning_rate", 1),
        ("bf16", False),
        ("lr_scheduler_type", "cosine"),
        ("lr_scheduler_kwargs", {"num_cycles": 2}),
        ("save_total_limit", None),
        ("report_to", ["tensorboard"]),
        ("fsdp", "full_shard"),
        ("parallelism_config", object()),
        ("nonsense", 3),
    ],
)
def test_a_value_of_its_type_is_let_through(key: str, value: Any) -> None:
    check_arguments({key: value})


def test_every_default_of_hugging_face_is_let_through() -> None:
    fields = dataclasses.fields(TrainingArguments)
    check_arguments({field.name: field.default for field in fields if field.default is not dataclasses.MISSING})
