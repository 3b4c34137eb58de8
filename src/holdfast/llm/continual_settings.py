"""The settings of the continual learning framework: what is not said has its default, what is not known is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from holdfast._errors import BadInput, UnknownName
from holdfast.recipe.schema import Part

Metric = Literal["knowledge_retention", "task_performance", "forgetting_rate"]
METRICS: list[Metric] = ["knowledge_retention", "task_performance", "forgetting_rate"]


class ReplaySettings(Part):
    """Rows of earlier tasks are mixed in: `replay_ratio` of each batch, from at most `buffer_size` rows of all tasks.

    With `prioritization` those come first whose loss has risen most.
    """

    enabled: bool = True
    buffer_size: Annotated[int, Field(ge=1)] = 10000
    replay_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.2
    prioritization: bool = True


class RegularizationSettings(Part):
    """Weights are held back by EWC or L2-SP, with the `lambda` of their penalty forms.

    EWC measures importance on `fisher_sample_size` rows of each task.
    """

    enabled: bool = True
    method: Literal["ewc", "l2"] = "ewc"
    strength: Annotated[float, Field(ge=0, alias="lambda")] = 1e4
    fisher_sample_size: Annotated[int, Field(ge=1)] = 1000


class AdapterSettings(Part):
    """LoRA of rank `r`; `target_modules` None: q_proj and v_proj."""

    type: Literal["lora"] = "lora"
    r: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16
    target_modules: str | list[str] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05


class IsolationSettings(Part):
    """`freeze`: the embedding and the lowest `freeze_ratio` of the blocks; `adapter`: all but one LoRA adapter."""

    enabled: bool = True
    strategy: Literal["freeze", "adapter"] = "freeze"
    freeze_ratio: Annotated[float, Field(ge=0, le=1)] = 0.8
    adapter_config: AdapterSettings = AdapterSettings()


class EvaluationSettings(Part):
    """Every task is scored after each one, for `metrics`, and looked at every `eval_interval` steps meanwhile."""

    enabled: bool = True
    metrics: list[Metric] = METRICS
    eval_interval: Annotated[int, Field(ge=1)] = 100


class ContinualSettings(Part):
    """All settings, in the order of the guide."""

    replay: ReplaySettings = ReplaySettings()
    regularization: RegularizationSettings = RegularizationSettings()
    parameter_isolation: IsolationSettings = IsolationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    def plain(self) -> dict[str, Any]:
        """Plain values under the guide's keys."""
        return self.model_dump(by_alias=True)


def continual_settings(config: Mapping[str, Any] | None) -> ContinualSettings:
    """Checked settings; raises UnknownName for a key or metric that there is not, BadInput for a value that cannot be.

    >>> continual_settings({"replay": {"buffer_size": 500}}).plain()["replay"]
    {'enabled': True, 'buffer_size': 500, 'replay_ratio': 0.2, 'prioritization': True}
    """
    try:
        return ContinualSettings.model_validate(dict(config or {}))
    except ValidationError as error:
        raise _explained(error.errors()[0]) from None


def _explained(fault: Any) -> BadInput:
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return UnknownName("setting called", where, _names(ContinualSettings))
    if fault["loc"][:2] == ("evaluation", "metrics") and fault["type"] == "literal_error":
        return UnknownName("metric of the framework called", str(fault["input"]), METRICS)
    return BadInput(f"The setting `{where}` cannot be used: {fault['msg']}, not {fault['input']!r}.")


def _names(part: type[BaseModel], before: str = "") -> list[str]:
    """All settings of a part by their full names, with those of the parts in it."""
    found = []
    for name, field in part.model_fields.items():
        full, inner = f"{before}{field.alias or name}", field.annotation
        deeper = isinstance(inner, type) and issubclass(inner, BaseModel)
        found += [full, *(_names(inner, f"{full}.") if deeper else [])]  # type: ignore[arg-type]
    return found
