"""Text from models: answers in batches, an answer as it is written, and a talk."""

from holdfast.generation.prompts import Prompt, read_prompts
from holdfast.generation.settings import Writing
from holdfast.generation.streaming import stream
from holdfast.generation.talk import Talk, talks
from holdfast.generation.terminal import Chat
from holdfast.generation.writing import generate

__all__ = ["Chat", "Prompt", "Talk", "Writing", "generate", "read_prompts", "stream", "talks"]
