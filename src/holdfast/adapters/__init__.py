"""What is added? One training method per file: all weights, or adapters beside them."""

from holdfast.adapters import adalora, bottleneck, full, ia3, ln, lora, named, osf, prompts, qlora, rows, shira

__all__ = ["adalora", "bottleneck", "full", "ia3", "ln", "lora", "named", "osf", "prompts", "qlora", "rows", "shira"]
