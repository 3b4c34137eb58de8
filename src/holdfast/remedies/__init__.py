"""What holds it back: one remedy against forgetting per file, each a rule."""

from holdfast.remedies import distill, ewc, l2sp, replay

__all__ = ["distill", "ewc", "l2sp", "replay"]
