"""Suites: examples with a metric and a role, from a folder, a YAML file, a shipped name, or any data."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast._errors import BadInput, BadRecord, UnknownName
from holdfast.base import Base
from holdfast.data.formats import Completion, Record, parse, read
from holdfast.data.probes import pieces
from holdfast.data.sources import raw
from holdfast.evaluation.harness import Task, harness_scored
from holdfast.evaluation.metrics import metrics
from holdfast.evaluation.scored import Scored

Role = Literal["guarded", "learnt", "watched"]

DIMENSIONS = {
    "fluency": "running text of the kind that it knew",
    "facts": "facts of the world",
    "concepts": "how concepts belong together",
    "terminology": "what terms of a field mean",
    "reasoning": "drawing a conclusion",
    "reading": "finding an answer in a text",
    "grammar": "what is well formed",
    "instructions": "doing what was asked",
    "context": "using a long context",
    "complex": "tasks of several steps",
    "confusion": "keeping fields apart",
    "style": "how it writes",
    "safety": "refusing what it should, and only that",
    "hallucination": "saying what the context says",
}
"""What fine-tuning may make a model forget, and what a suite says that it measures."""

FILE = "suite.yaml"
SHIPPED = resources.files("holdfast").joinpath("suites")
GROUPS = ("all", "en", "zh")
"""Names for many shipped suites at once: all of them, or those in one language."""


class SuiteFile(BaseModel):
    """What a suite's YAML file may say; `data` is a file beside it, or anything that can be read.

    `metric` is a name or `{name: {knob: value}}`; without one, what the records ask for. `template` makes the prompt
    from the fields of a record: `"{context}\\n{question}"`. `chat` asks in the tokenizer's chat template, where it has
    one. `items` bounds the records, chosen by a fixed seed. With `kind: lm_eval`, `task` is a task of
    lm-evaluation-harness (a name, or a YAML file) and `metric` one of that task's (`exact_match,FILTER` where it
    filters in several ways); `items` are then its first ones.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str | None = None
    kind: Literal["records", "lm_eval"] = "records"
    about: str = ""
    dimension: str | None = None
    language: str | None = None
    role: Role = "guarded"
    data: str | None = None
    task: str | None = None
    split: str = "test"
    mapping: dict[str, str] | None = None
    template: str | None = None
    chat: bool = False
    metric: str | dict[str, dict[str, Any] | None] | None = None
    weight: float = Field(default=1.0, gt=0)
    margin: float | None = Field(default=None, ge=0)
    items: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class Suite:
    """Examples that a model is scored on, by `metric` with its `knobs`.

    `role` says whether they are to be kept (`guarded`), were trained for (`learnt`), or are only looked at
    (`watched`); `margin` is how much worse still counts as kept, in the metric's unit; None: the unit's own.
    """

    name: str
    settings: SuiteFile
    place: Path | None = None
    given: tuple[Record, ...] = field(default=(), repr=False)

    @cached_property
    def records(self) -> list[Record]:
        """The examples; raises BadInput for data that cannot be read."""
        try:
            made = list(self.given) or self._read()
        except BadInput as error:
            raise BadInput(f"The suite {self.name!r}: {error}") from error
        most = self.settings.items
        if most is None or most >= len(made):
            return made
        return [made[i] for i in sorted(random.Random(0).sample(range(len(made)), most))]

    @cached_property
    def metric(self) -> tuple[str, dict[str, Any]]:
        """The metric's name and knobs."""
        named = self.settings.metric or _fitting(self.records)
        if isinstance(named, str):
            return named, {}
        (name, knobs), *more = named.items()
        if more:
            raise BadInput(f"The suite {self.name!r} names several metrics; a suite has one. Make two suites.")
        return name, dict(knobs or {})

    def check(self) -> None:
        """Raise BadInput, with the suite's name, for what could not be scored."""
        if self.settings.kind == "lm_eval":
            self._task.check()
        else:
            _ = self.records, self.metric

    @property
    def chance(self) -> float | None:
        """What guessing among the choices would score; None for other metrics."""
        if self.settings.kind == "lm_eval" or self.metric[0] not in ("choice_accuracy", "macro_f1"):
            return None
        counts = [len(record.choices) for record in self.records if isinstance(record, Completion)]
        return sum(1 / count for count in counts if count) / len(counts) if counts else None

    def score(self, base: Base) -> Scored:
        """What a model does on the suite."""
        if self.settings.kind == "lm_eval":
            return self._task.scored(base)
        name, knobs = self.metric
        arguments = {"model": base.model, "tokenizer": base.tokenizer, "examples": self.asked(base), **knobs}
        return cast(Scored, metrics.build(name, arguments))

    def asked(self, base: Base) -> list[Record]:
        """The examples as a model is asked them: in its chat template, where the suite wants that and it has one."""
        template = getattr(base.tokenizer, "chat_template", None)
        if not self.settings.chat or not template:
            return self.records
        return [_as_chat(record, base) for record in self.records]

    def shown(self, i: int) -> tuple[str, str]:
        """Prompt and right answer of an example, for people."""
        if self.settings.kind == "lm_eval":
            return self._task.shown(i)
        record = self.records[i]
        if not isinstance(record, Completion):
            return "", str(getattr(record, "text", record))
        asked = "; ".join(_told(constraint) for constraint in record.constraints)
        return record.prompt, record.completion.strip() or asked

    @cached_property
    def _task(self) -> Task:
        return harness_scored(self.name, self._file(self.settings.task), self.settings.metric, self.settings.items)

    def _read(self) -> list[Record]:
        file = self.settings
        if file.data is None:
            raise BadInput(f"The suite {self.name!r} names no `data`.")
        source = self._file(file.data)
        assert source is not None
        if file.template is None:
            return pieces(read(source, split=file.split, mapping=file.mapping), 1)
        return [
            parse({**fields, "prompt": _filled(file.template, fields, path, line)}, path, line, file.mapping)
            for path, line, fields in raw(source, file.split)
        ]

    def _file(self, name: str | None) -> str | None:
        """A file beside the suite's own, where there is one of that name."""
        beside = None if self.place is None or name is None else self.place / name
        return str(beside) if beside is not None and beside.exists() else name


def load_suite(source: str | Path | Mapping[str, Any], *, name: str | None = None) -> Suite:
    """A suite by its shipped name, from its folder or YAML file or the mapping that stands there, or from any data.

    Data without a suite's file, an embedded text too, are scored by what their records ask for: choices, a right
    answer, or none. A JSON file of domain knowledge (`domain_name`, `questions`, `ground_truths`) is a suite as well.
    Raises BadInput, and UnknownName for a key, a metric or a shipped suite that there is not.
    """
    if isinstance(source, Mapping):
        return _checked(source, name or str(source.get("name", "suite")), None)
    known, path = shipped(), Path(source)
    if str(source) in known:
        return _checked(_yaml(Path(str(known[str(source)])) / FILE), str(source), Path(str(known[str(source)])))
    if (path / FILE).is_file():
        return _checked(_yaml(path / FILE), name or path.resolve().name, path)
    if path.suffix in (".yaml", ".yml"):
        return _checked(_yaml(path), name or path.stem, path.parent)
    if (knowledge := _knowledge(path)) is not None:
        return knowledge
    if not path.exists() and "/" not in str(source):
        raise UnknownName("suite called", str(source), [*known, *GROUPS])
    return _checked({"data": str(source)}, name or str(source), None)


def load_suites(sources: Sequence[str | Path | Mapping[str, Any] | Suite]) -> list[Suite]:
    """Several suites; `all`, `en` and `zh` stand for shipped ones. Raises BadInput where a name stands twice."""
    made: list[Suite] = []
    for source in sources:
        if isinstance(source, str) and source in GROUPS:
            found = [load_suite(name) for name in shipped()]
            made.extend(suite for suite in found if source in ("all", suite.settings.language))
        elif isinstance(source, Suite):
            made.append(source)
        else:
            made.append(load_suite(source))
    names = [suite.name for suite in made]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(f"Two suites are called {twice!r}; results could not be told apart.")
    return made


def shipped() -> dict[str, Any]:
    """The suites that come with Holdfast: their folders by name."""
    folders = [folder for folder in SHIPPED.iterdir() if folder.joinpath(FILE).is_file()] if SHIPPED.is_dir() else []
    return {folder.name: folder for folder in sorted(folders, key=lambda folder: folder.name)}


def questions(name: str, asked: Sequence[str], answers: Sequence[str], metric: str = "coverage") -> Suite:
    """A suite of questions with the answers that count as right."""
    if len(asked) != len(answers):
        raise BadInput(f"{name} has {len(asked)} questions and {len(answers)} answers; each needs one.")
    pairs = zip(asked, answers, strict=True)
    records = tuple(Completion(f"{question.rstrip()}\n", answer) for question, answer in pairs)
    knobs = {"max_new_tokens": 128, "stop": []}
    return Suite(name, SuiteFile(metric={metric: knobs}, chat=True, dimension="facts"), None, records)


def unguarded(suites: Sequence[Suite]) -> list[str]:
    """Dimensions of which no suite says anything."""
    return sorted(set(DIMENSIONS) - {suite.settings.dimension for suite in suites})


def _checked(given: Mapping[str, Any], name: str, place: Path | None) -> Suite:
    unknown = [key for key in given if key not in SuiteFile.model_fields]
    if unknown:
        raise UnknownName("key of a suite called", unknown[0], SuiteFile.model_fields)
    try:
        settings = SuiteFile.model_validate(dict(given))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise BadInput(f"The suite {name!r} cannot be used: `{where}`: {fault['msg']}.") from None
    if settings.dimension is not None and settings.dimension not in DIMENSIONS:
        raise UnknownName("dimension called", settings.dimension, DIMENSIONS)
    suite = Suite(settings.name or name, settings, place)
    if settings.kind == "records" and settings.metric is not None:
        named, knobs = suite.metric
        known = metrics.knobs(named)
        for knob in knobs:
            if knob not in known:
                raise UnknownName(f"knob of the metric {named!r} called", knob, known)
    if settings.kind == "lm_eval" and settings.task is None:
        raise BadInput(f"The suite {name!r} is of kind lm_eval and names no `task`.")
    return suite


def _yaml(file: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"The suite {file} cannot be read: {error}.") from error
    if not isinstance(found, Mapping):
        raise BadInput(f"The suite {file} is not a mapping of keys such as `data` and `metric`.")
    return found


def _knowledge(path: Path) -> Suite | None:
    """A suite from a JSON file of domain knowledge, if it is one."""
    if path.suffix != ".json" or not path.is_file():
        return None
    first = next(iter(raw(path, "test")), None)
    fields = {} if first is None else first.fields
    if not {"questions", "ground_truths"} <= fields.keys():
        return None
    return questions(str(fields.get("domain_name") or path.stem), fields["questions"], fields["ground_truths"])


def _fitting(records: Sequence[Record]) -> str:
    tasks = [record for record in records if isinstance(record, Completion)]
    if len(tasks) < len(records):
        return "loss"
    if all(task.constraints for task in tasks):
        return "constraints"
    return "choice_accuracy" if all(task.choices for task in tasks) else "exact_match"


def _filled(template: str, fields: Mapping[str, Any], file: str, line: int) -> str:
    try:
        return template.format_map(fields)
    except (KeyError, IndexError, ValueError) as error:
        raise BadRecord(file, line, f"the template asks for {error}; the fields are {', '.join(fields)}.") from error


def _as_chat(record: Record, base: Base) -> Record:
    if not isinstance(record, Completion):
        return record
    asked = base.tokenizer.apply_chat_template(
        [{"role": "user", "content": record.prompt.strip()}], tokenize=False, add_generation_prompt=True
    )
    begin = str(base.tokenizer.bos_token or "")
    right, choices = record.completion.strip(), tuple(choice.strip() for choice in record.choices)
    return replace(record, prompt=str(asked).removeprefix(begin), completion=right, choices=choices)


def _told(constraint: Mapping[str, Any]) -> str:
    knobs = ", ".join(f"{key} {value}" for key, value in constraint.items() if key != "name")
    return f"{constraint['name']} {knobs}".strip()
