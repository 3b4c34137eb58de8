"""The guides' objects, thin over the rooms below: every name that a guide prints is importable from here."""

from holdfast.llm.anchored import EWCTrainer, L2RegularizedTrainer
from holdfast.llm.backends import huggingface, mock, module, openai  # noqa: F401
from holdfast.llm.backends.base import BaseLLM, LLMConfig, LLMResponse, create_llm, create_llm_config
from holdfast.llm.config import (
    FrozenConfig,
    UpdateStrategy,
    create_frozen_config,
    get_preset_configs,
    load_frozen_config,
)
from holdfast.llm.continual import LLMContinualLearningFramework
from holdfast.llm.dynamics import ForgettingDynamicsModel, simulate_forgetting_scenarios
from holdfast.llm.evaluating.comprehensive import ComprehensiveForgettingEvaluator
from holdfast.llm.evaluating.framework import ForgettingEvaluationFramework
from holdfast.llm.evaluating.knowledge import DomainKnowledgeEvaluator
from holdfast.llm.evaluating.tasks import ModelEvaluator
from holdfast.llm.evaluating.watch import ForgettingMonitor
from holdfast.llm.frozen_adaptive import FrozenAdaptiveLLM, create_frozen_adaptive_llm
from holdfast.llm.isolation import (
    ParallelAdapterManager,
    apply_lora_adapter,
    freeze_model_components,
    freeze_model_layers,
)
from holdfast.llm.learning_rate import AdaptiveLearningRate
from holdfast.llm.levels import ParameterImportance, ParameterImportanceAnalyzer, ParameterInfo, UpdateHistory
from holdfast.llm.manager import FrozenAdaptiveManager, create_frozen_adaptive_manager
from holdfast.llm.replaying import PrioritizedReplayTrainer, ReplayDataset, SimpleImportanceEstimator
from holdfast.llm.tuning.future import FutureFineTuning
from holdfast.llm.tuning.methods import Adapter, AdapterModel, FineTuningTypes, LoRALayer, LoRAModel, QLoRA
from holdfast.llm.tuning.prompts import PromptTuning, PtuningV2
from holdfast.llm.tuning.stepping import GradientAccumulator, LearningRateScheduler
from holdfast.llm.tuning.tasks import TextClassificationFinetuning, TextGenerationFinetuning
from holdfast.llm.tuning.training import DataProcessor, TrainingPipeline
from holdfast.llm.tuning.troubles import CatastrophicForgettingHandler, OverfittingHandler
from holdfast.llm.tuning.watching import ModelAnalyzer, PerformanceMonitor
from holdfast.vocabulary.extend import TokenExtender

__all__ = [
    "Adapter",
    "AdapterModel",
    "AdaptiveLearningRate",
    "BaseLLM",
    "CatastrophicForgettingHandler",
    "ComprehensiveForgettingEvaluator",
    "DataProcessor",
    "DomainKnowledgeEvaluator",
    "EWCTrainer",
    "FineTuningTypes",
    "ForgettingDynamicsModel",
    "ForgettingEvaluationFramework",
    "ForgettingMonitor",
    "FrozenAdaptiveLLM",
    "FrozenAdaptiveManager",
    "FrozenConfig",
    "FutureFineTuning",
    "GradientAccumulator",
    "L2RegularizedTrainer",
    "LLMConfig",
    "LLMContinualLearningFramework",
    "LLMResponse",
    "LearningRateScheduler",
    "LoRALayer",
    "LoRAModel",
    "ModelAnalyzer",
    "ModelEvaluator",
    "OverfittingHandler",
    "ParallelAdapterManager",
    "ParameterImportance",
    "ParameterImportanceAnalyzer",
    "ParameterInfo",
    "PerformanceMonitor",
    "PrioritizedReplayTrainer",
    "PromptTuning",
    "PtuningV2",
    "QLoRA",
    "ReplayDataset",
    "SimpleImportanceEstimator",
    "TextClassificationFinetuning",
    "TextGenerationFinetuning",
    "TokenExtender",
    "TrainingPipeline",
    "UpdateHistory",
    "UpdateStrategy",
    "apply_lora_adapter",
    "create_frozen_adaptive_llm",
    "create_frozen_adaptive_manager",
    "create_frozen_config",
    "create_llm",
    "create_llm_config",
    "freeze_model_components",
    "freeze_model_layers",
    "get_preset_configs",
    "load_frozen_config",
    "simulate_forgetting_scenarios",
]
