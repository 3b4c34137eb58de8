"""What a recipe may say: its parts, their keys and defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from holdfast.data.probes import SELF

SCORES = ("accuracy", "macro_f1")
"""What a classifier can be stopped by, beside losses; more of it is better."""

Budget = Annotated[float, Field(gt=0)]


class Part(BaseModel):
    """A mapping of a recipe: what is not among its keys is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Learn(Part):
    """What is learnt: `data` and the rows of `length` tokens made of it.

    `evaluation` is another source to measure on; without one, the data's own test split, or a tenth of its documents.
    `start` says whether rows of running text begin with BOS; `auto` asks which the base finds less surprising.

    `task: classify` puts a head on the base and teaches it labels: `labels` names them in the order of the logits
    (sorted unless told), `class_weights` weighs them in the loss, by a list in that order or `balanced`.

    Where `data` is a catalogue of items (a folder with an index or `.item.json`), `tasks` says what is asked about it
    and how often each record comes (`history: 1`); by default the five sets of `holdfast.items.tasks.FIVE`. `templates`
    puts other texts in place of theirs. The learning is measured on what the validation users chose next.
    """

    data: str
    evaluation: str | None = None
    length: Annotated[int, Field(ge=2)] = 128
    start: Literal["auto", "bos", "none"] = "auto"
    split: str = "train"
    mapping: dict[str, str] | None = None
    task: Literal["causal", "classify"] = "causal"
    labels: list[str] | None = None
    class_weights: Literal["none", "balanced"] | list[Annotated[float, Field(gt=0)]] = "none"
    tasks: dict[str, Annotated[float, Field(gt=0)]] | None = None
    templates: dict[str, str] = {}


class Vocabulary(Part):
    """New tokens, each with rows of its own beside the base's vocabulary, which train whatever the method chooses.

    `items` is a folder with an index of semantic IDs, or such a file; `dataset` names one of several. `tokens` are
    others, a list. Tokens that the base knows keep their ids, new ones follow. `initialise` says what their rows start
    as: `normal`, `mean`, `text` (of the items' titles), `codebook` (of the IDs' vectors), or one with its settings.
    They learn at `rate` times the run's learning rate: 10 beside other weights, 1 where they alone train.
    """

    items: str | None = None
    dataset: str | None = None
    tokens: list[str] = []
    initialise: str | dict[str, dict[str, Any]] = "normal"
    rate: Annotated[float, Field(gt=0)] | None = None


class Keep(Part):
    """What is kept: text sampled from the base (`probe: self`) and `suites` of old text, each with its `budget`.

    `rows` bounds control and audit together, per text. `budget` is the allowed rise of perplexity (0.02: 2 %), one for
    all texts or one each. Further keys are the governor's own settings; `govern: false` only measures.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    probe: Literal["self", "none"] = "self"
    rows: Annotated[int, Field(ge=8)] = 1024
    suites: list[str] = []
    budget: Budget | dict[str, Budget] | None = None
    govern: bool = True

    @property
    def texts(self) -> list[str]:
        """The names of the guarded texts."""
        return [*([SELF] if self.probe == "self" else []), *self.suites]

    @property
    def settings(self) -> dict[str, Any]:
        """The governor's settings."""
        return dict(self.model_extra or {})

    def budget_of(self, text: str) -> float | None:
        """The allowed relative rise of perplexity on a text, if there is a limit."""
        return self.budget.get(text) if isinstance(self.budget, dict) else self.budget


class Method(Part):
    """What trains: `name` is an entry of `methods`, further keys are its arguments."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    name: str = "full"

    @property
    def arguments(self) -> dict[str, Any]:
        """The method's own arguments."""
        return dict(self.model_extra or {})


class Monitoring(Part):
    """How often the run is looked at (`every` steps) and on how many `rows` of each text.

    What is left open follows from `share`, the part of the training time that looking may take. An ungoverned text
    whose perplexity rose by more than its budget, or else by `alarm` (0.3: 30 %), gives an alarm: `on_alarm` says
    whether the run goes on (`log`) or ends (`stop`, `raise`), `webhook` is told, and with `save: alarms` (or `looks`)
    what moved is kept in `monitor/`.
    """

    every: Annotated[int, Field(ge=1)] | None = None
    rows: Annotated[int, Field(ge=2)] | None = None
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    alarm: Annotated[float, Field(gt=0)] = 0.3
    on_alarm: Literal["log", "stop", "raise"] = "log"
    webhook: str | None = None
    save: Literal["none", "alarms", "looks"] = "none"


class EarlyStopping(Part):
    """Stop where `metric` is not better by more than `threshold` for `patience` looks; the best weights are kept.

    `metric` is the loss on what is `learnt` or on a guarded text, by its name, or a classifier's `accuracy` or
    `macro_f1` on what is learnt; `every` is the number of steps between
    looks, a twentieth of the run unless told.
    """

    patience: Annotated[int, Field(ge=1)] = 3
    metric: str = "learnt"
    threshold: Annotated[float, Field(ge=0)] = 0.0
    every: Annotated[int, Field(ge=1)] | None = None


class Evaluate(Part):
    """Suites that base and tuned model are scored on (see `holdfast suites`); `learnt` are those of what is trained.

    `noise` scores the base twice, to know what measuring itself changes; `drift` compares answers to open prompts.
    """

    suites: list[str | dict[str, Any]] = []
    learnt: list[str | dict[str, Any]] = []
    noise: bool = True
    drift: bool = True


class Samples(Part):
    """Prompts that base and tuned model continue; without any, the openings of a kept and a learnt text.

    A `temperature` of 0 always takes the likeliest token.
    """

    old: list[str] | None = None
    new: list[str] | None = None
    tokens: Annotated[int, Field(ge=1)] = 80
    temperature: Annotated[float, Field(ge=0)] = 0.7


class Recipe(Part):
    """A whole run, as a YAML file says it; `rules` are mappings of one name to that rule's arguments.

    `freeze_llm: true` is the method `rows`: of the whole model, only the rows of new tokens train.
    """

    base: str
    vocabulary: Vocabulary | None = None
    freeze_llm: bool = False
    learn: Learn
    keep: Keep = Keep()
    method: Method = Method()
    train: dict[str, Any] = {}
    rules: list[dict[str, dict[str, Any]]] = []
    monitor: Monitoring = Monitoring()
    early_stopping: EarlyStopping | None = None
    evaluate: Evaluate = Evaluate()
    samples: Samples = Samples()
    seed: Annotated[int, Field(ge=0)] = 0
    output: str
