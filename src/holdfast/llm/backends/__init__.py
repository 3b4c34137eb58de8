"""Where a model comes from: one backend per file."""

from holdfast.llm.backends import huggingface, mock, module, openai

__all__ = ["huggingface", "mock", "module", "openai"]
