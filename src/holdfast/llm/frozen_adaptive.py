"""A model whose parameters can be frozen, updated by a strategy, watched and rolled back."""

from __future__ import annotations

import copy
import json
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast._errors import BadInput
from holdfast.checkpoint import file_kept_whole
from holdfast.llm import places
from holdfast.llm.backends.base import BaseLLM, LLMResponse
from holdfast.llm.backends.module import as_llm
from holdfast.llm.config import FrozenConfig, UpdateStrategy, create_frozen_config
from holdfast.llm.fitting import Source, fitted
from holdfast.llm.levels import ParameterImportance, ParameterInfo, UpdateHistory
from holdfast.llm.rules import BEST
from holdfast.llm.session import MakeOptimizer, Session
from holdfast.params.inventory import Param, inventory
from holdfast.params.weights import write
from holdfast.snapshots import load_snapshot, save_snapshot

logger = logging.getLogger(__name__)

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


class FrozenAdaptiveLLM:
    """Wraps a backend, a torch module or a mapping of arrays, and updates its parameters as `config` says.

    `folder`: where automatic checkpoints go, the best one and the `keep` latest; without it they are in a temporary
    folder and go with this object. `optimizer`: a function (parameters, learning rate) -> torch optimiser, instead of
    the one that `config` names. Any number of threads may read while one updates. Raises Unsupported for a backend
    whose parameters are out of reach, UnmatchedSelect for names that the model does not have.

    >>> llm = FrozenAdaptiveLLM({"embedding.w": [1.0, 2.0], "head.w": [3.0]}, FrozenConfig(frozen_layers=["head"]))
    >>> moved = llm.update_parameters({"embedding.w": [1.0, 0.0], "head.w": [1.0]}, performance_metric=0.5)
    >>> list(moved), llm.get_performance_stats()["update_count"]
    (['embedding.w'], 1)
    """

    def __init__(
        self,
        base_llm: BaseLLM | nn.Module | Mapping[str, Any],
        config: FrozenConfig | None = None,
        *,
        folder: str | Path | None = None,
        keep: int = 2,
        optimizer: MakeOptimizer | None = None,
    ):
        self.base_llm, self.config = as_llm(base_llm), copy.deepcopy(config or FrozenConfig())
        self._changing, self._closed = threading.Lock(), False
        self._params = inventory(self.base_llm.model)
        self._session = Session(
            self.base_llm.model,
            self._params,
            self.base_llm.trainable,
            self.config,
            optimizer or OPTIMIZERS[self.config.optimizer],
            {"folder": folder, "keep": keep},
        )
        frozen = self._paths(places.layer, self.config.frozen_layers)
        frozen += self._paths(places.parameter, self.config.frozen_parameters)
        with self._alone():
            self._session.begin(path for path in frozen if path in self.base_llm.trainable)
            self._session.flag()
        # Only the files: the model may belong to another object by then.
        weakref.finalize(self, lambda session: session.rules.rollback.end(session.run), self._session)

    # Reading --------------------------------------------------------------------------------------------------------

    def generate(self, prompt: str, **kwargs: Any) -> LLMResponse:
        """Answer a prompt, as the backend does."""
        return self.base_llm.generate(prompt, **kwargs)

    def get_parameters(self) -> dict[str, Tensor]:
        """Copies of all parameters by path, all of the same moment."""
        return self.base_llm.get_parameters()

    def get_parameter_info(self) -> dict[str, ParameterInfo]:
        """What is known of each parameter, by path; a copy."""
        with self.base_llm.lock.reading():
            return self._session.info()

    def get_update_history(self) -> list[UpdateHistory]:
        """The last movements, oldest first, at most `history_size`; a copy."""
        with self.base_llm.lock.reading():
            return list(self._session.record.history)

    def get_performance_stats(self) -> dict[str, float]:
        """Statistics of the last `performance_window` metrics, always with all keys.

        current_performance, average_performance, performance_trend (slope per observation) and performance_std, which
        are nan before the first metric; update_count; current_learning_rate, which is what was applied last.
        """
        with self.base_llm.lock.reading():
            return {
                **self._session.record.statistics(),
                "update_count": self._session.run.step,
                "current_learning_rate": self._session.learning_rate,
            }

    def should_update_parameter(self, name: str, importance: ParameterImportance | None = None) -> bool:
        """Whether the coming update would move a parameter, given a gradient (and, for `selective`, this level)."""
        with self.base_llm.lock.reading():
            (path,) = places.by_path(self._params, {name: None})
            return self._session.next_moves(path, importance)

    # Freezing -------------------------------------------------------------------------------------------------------

    def freeze_parameters(self, parameter_names: Sequence[str]) -> None:
        """From now on these do not move; names in full, their ends (`q_proj.weight`), or globs.

        Freezing and unfreezing go by parameter, and the latest call counts. Raises UnmatchedSelect.
        """
        self._freeze(places.parameter, parameter_names, True)

    def unfreeze_parameters(self, parameter_names: Sequence[str]) -> None:
        """From now on these may move again."""
        self._freeze(places.parameter, parameter_names, False)

    def freeze_layers(self, layer_names: Sequence[str]) -> None:
        """As `freeze_parameters`, for whole layers: `embedding`, `encoder`, `decoder`, modules, components, selections.

        `holdfast.llm.places.layer` says what each name means on which model. Raises UnmatchedSelect.
        """
        self._freeze(places.layer, layer_names, True)

    def unfreeze_layers(self, layer_names: Sequence[str]) -> None:
        """From now on the parameters of these layers may move again."""
        self._freeze(places.layer, layer_names, False)

    # Updating -------------------------------------------------------------------------------------------------------

    def analyze_and_update_importance(self, gradients: Mapping[str, Any]) -> dict[str, ParameterImportance]:
        """The level of each parameter among these gradients, by path; `get_parameter_info` remembers it."""
        with self._alone():
            return self._session.analyzed(places.by_path(self._params, gradients))

    def update_parameters(
        self, gradients: Mapping[str, Any], performance_metric: float | None = None
    ) -> dict[str, Tensor]:
        """One update from gradients (tensors, arrays or lists); returns new values of what moved, by path.

        `performance_metric` is that of the model as it is, before this update. Where it has fallen too far below its
        best, the best state is brought back instead: the gradients belong to the state that was left, so they are not
        applied, and nothing is returned. The loggers under `holdfast` say at DEBUG why a parameter did not move.
        Raises BadInput for gradients that fit no parameter or are not finite; then nothing has changed.
        """
        with self._alone():
            return self._session.update(places.by_path(self._params, gradients), performance_metric)

    def fit(
        self,
        texts: Source,
        *,
        evaluate: Source | None = None,
        keep: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
        length: int = 128,
        **train: Any,
    ) -> dict[str, Any]:
        """Train on text: the run of a recipe with the rules of this configuration; returns its certificate.

        `texts`, `evaluate`: texts, records, a dataset, or a source as in a recipe (`tiny/shakespeare`, a file). The
        mean loss on `evaluate` is the metric that learning rate and rollback follow; without it the learning rate
        follows the training loss, and nothing is rolled back. `keep` guards old text, as in a recipe; `train` holds
        Hugging Face's training arguments, whose optimiser is used. The run folder is `folder`, or is thrown away. What
        is frozen stays so; optimiser, learning rate and automatic checkpoints of `update_parameters` start anew.
        """
        with self._one_change():
            session = self._session
            frozen = sorted(session.rules.frozen.holds(session.run))
            with self.base_llm.lock.writing():
                session.run.end()  # what was pending is applied, so that it is part of what is trained
                session.begin(frozen)
                session.flag()
            asked = {"keep": keep, "length": length, "train": train}
            values, certificate = fitted(self.base_llm, self.config, frozen, (texts, evaluate), asked, folder)
            with self.base_llm.lock.writing():
                write(session.trainable, {path: values[path] for path in session.trainable})
        return certificate

    # Keeping --------------------------------------------------------------------------------------------------------

    def save_checkpoint(self, path: str | Path) -> bool:
        """Write what can move, optimiser, random states, statistics and what is frozen to exactly this path.

        In safetensors, whatever the suffix, whole or not at all. True when it stands; raises TrainingStopped when the
        disk is full.
        """
        with self._alone():
            save_snapshot(self._session.run, path)
        return True

    def rollback_to_checkpoint(self, path: str | Path) -> bool:
        """Back to a checkpoint, bit for bit; False, with the reason logged, where there is no such file.

        Where none was saved under that name, `best_checkpoint.pkl` is the best state so far. Raises BadCheckpoint for a
        file of another model, and for one that is damaged or a pickle; then nothing has changed.
        """
        with self._alone():
            file = Path(path)
            if not file.exists() and file.name == BEST:
                file = self._session.rules.rollback.best_file(self._session.run)
            if not file.exists():
                logger.warning("Nothing was rolled back: there is no checkpoint %s.", path)
                return False
            load_snapshot(self._session.run, file)
            self._session.flag()
        return True

    def export_config(self, path: str | Path) -> bool:
        """Write the configuration and what is known of each parameter as JSON; `load_frozen_config` reads it."""
        shown = ("importance", "frozen", "update_count", "sensitivity")
        info = {name: {key: getattr(i, key) for key in shown} for name, i in self.get_parameter_info().items()}
        text = json.dumps({"frozen_config": self.config.as_json(), "parameter_info": info}, indent=2)
        with file_kept_whole(Path(path)) as half:
            half.write_text(text, encoding="utf-8")
        return True

    def close(self) -> None:
        """Give the model back with its present weights, nothing frozen, and delete temporary files; safe to call twice.

        Reading goes on; whatever would change the model raises BadInput.
        """
        with self._changing, self.base_llm.lock.writing():
            self._session.run.end()
            self._closed = True

    # Inside ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One change at a time, and nobody reads meanwhile."""
        with self._one_change(), self.base_llm.lock.writing():
            yield

    @contextmanager
    def _one_change(self) -> Iterator[None]:
        with self._changing:
            if self._closed:
                raise BadInput("This FrozenAdaptiveLLM was closed (or removed from its manager). Wrap the model anew.")
            yield

    def _freeze(self, find: Callable[[str, Sequence[Param]], list[str]], names: Sequence[str], frozen: bool) -> None:
        paths = self._paths(find, names)
        with self._alone():
            self._session.freeze(paths, frozen)

    def _paths(self, find: Callable[[str, Sequence[Param]], list[str]], names: Sequence[str]) -> list[str]:
        return [path for name in names for path in find(name, self._params)]


def create_frozen_adaptive_llm(
    base_llm: BaseLLM | nn.Module | Mapping[str, Any], strategy: str | UpdateStrategy = "adaptive", **kwargs: Any
) -> FrozenAdaptiveLLM:
    """A FrozenAdaptiveLLM with the FrozenConfig that the arguments describe."""
    return FrozenAdaptiveLLM(base_llm, create_frozen_config(strategy, **kwargs))
