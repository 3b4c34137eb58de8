"""What is added? One training method per file: all weights, or adapters beside them."""

from holdfast.adapters import full, lora, osf

__all__ = ["full", "lora", "osf"]
