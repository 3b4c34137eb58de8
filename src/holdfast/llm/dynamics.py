"""The closed formula of forgetting: how much a model knows, epoch after epoch, from five numbers.

Nothing of it is measured. What a run really forgot, fitted to its own looks, is `holdfast.evaluation.curve`.
"""

from __future__ import annotations

import math

from holdfast._errors import BadInput

SENSITIVITY, GAIN = 0.8, 0.3
"""How sensitive the smallest models are, and what the most intense training on the likest data adds in an epoch."""

SIZES = (7, 70, 175)
"""Billions of parameters of the models that are simulated."""

SCENARIOS = (
    ("高", "high_similarity", 0.7, 0.8),
    ("中等", "medium_similarity", 0.6, 0.5),
    ("低", "low_similarity", 0.8, 0.3),
)
"""What the simulation calls a scenario, its name, its training intensity and its data similarity."""


class ForgettingDynamicsModel:
    """Knowledge K in [0, 1] of a model of `model_size` billion parameters that begins with `initial_knowledge`.

    With intensity i and similarity s, `epochs` epochs change K by min(1 - K, 0.3 i s epochs) - K r epochs, where
    r = `forgetting_rate` · i · (1 - s) · 0.8 / √`model_size` (at most 0.8). Taken an epoch at a time that is
    exponential decay towards the point where gain and loss are equal. `knowledge_history` holds K from the start on,
    `param_sensitivity` the last factor of r. Raises BadInput for numbers that cannot be.

    >>> model = ForgettingDynamicsModel(7, 0.85)
    >>> round(model.update_knowledge(0.8, 0.3, epochs=1)["knowledge_loss"], 4)
    0.0144
    """

    def __init__(self, model_size: float, initial_knowledge: float, forgetting_rate: float = 0.1):
        if not 0 < model_size < math.inf or not 0 <= forgetting_rate < math.inf:
            raise BadInput(
                f"A model has more than 0 billion parameters and a forgetting rate of at least 0, not {model_size} and "
                f"{forgetting_rate}."
            )
        self.model_size, self.forgetting_rate = model_size, forgetting_rate
        self.initial_knowledge = _share("initial_knowledge", initial_knowledge)
        self.knowledge_history = [initial_knowledge]
        self.param_sensitivity = SENSITIVITY * min(1.0, model_size**-0.5)

    def update_knowledge(self, training_intensity: float, data_similarity: float, epochs: float) -> dict[str, float]:
        """Train for so many epochs; what is known then, what was lost and gained, and the rate of it.

        Keys: `current_knowledge`, `forgetting_degree` (below the start, never negative), `knowledge_loss`,
        `new_knowledge_gain`, `effective_forgetting_rate`. Raises BadInput for shares outside [0, 1].
        """
        intensity = _share("training_intensity", training_intensity)
        similarity = _share("data_similarity", data_similarity)
        if not 0 <= epochs < math.inf:
            raise BadInput(f"The number of epochs is at least 0, not {epochs}.")
        known = self.knowledge_history[-1]
        rate = self.forgetting_rate * intensity * (1 - similarity) * self.param_sensitivity
        loss = known * rate * epochs
        gain = min(1.0 - known, intensity * similarity * GAIN * epochs)
        now = max(0.0, min(1.0, known - loss + gain))
        self.knowledge_history.append(now)
        return {
            "current_knowledge": now,
            "forgetting_degree": max(0.0, self.initial_knowledge - now),
            "knowledge_loss": loss,
            "new_knowledge_gain": gain,
            "effective_forgetting_rate": rate,
        }

    def get_knowledge_trajectory(self) -> list[float]:
        """What was known at the start and after each update."""
        return list(self.knowledge_history)


def simulate_forgetting_scenarios() -> dict[int, dict[str, ForgettingDynamicsModel]]:
    """Print ten epochs of three scenarios for models of 7, 70 and 175 billion parameters; the models, by size."""
    models = {size: {name: ForgettingDynamicsModel(size, 0.85) for _, name, *_ in SCENARIOS} for size in SIZES}
    for epoch in range(1, 11):
        print(f"\n第{epoch}轮微调:")
        for title, name, intensity, similarity in SCENARIOS:
            print(f"\n{title}相似度数据微调结果:")
            for size in SIZES:
                told = models[size][name].update_knowledge(intensity, similarity, epochs=1)
                print(f"{size}B模型:遗忘程度={told['forgetting_degree']:.4f}, 当前知识={told['current_knowledge']:.4f}")
    return models


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise BadInput(f"{name} is a share from 0 to 1, not {value}.")
    return value
