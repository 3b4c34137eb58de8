"""What holds it back: one remedy against forgetting per file, each a rule."""

from holdfast.remedies import agem, distill, ewc, l2sp, mas, migu, olora, progressive, replay, si

__all__ = ["agem", "distill", "ewc", "l2sp", "mas", "migu", "olora", "progressive", "replay", "si"]
