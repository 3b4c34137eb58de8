"""A mixture of LoRA experts on one base: a router says for every token and layer how much each of them speaks."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from holdfast._errors import BadInput, Unsupported
from holdfast.adapters.several import AdapterSet
from holdfast.adapters.stored import CONFIG, WEIGHTS
from holdfast.adapters.targets import Targets
from holdfast.checkpoint import MANIFEST, read_state, write_state
from holdfast.llm.tuning.tuned import ALL, Tuned
from holdfast.params.weights import write

PREFIX = "base_model.model.model."
"""How PEFT's names of an adapter's tensors begin on such a base."""

FILE = "mixture"
"""What a saved mixture is called in its folder."""


class AdapterMixture(Tuned):
    """X-LoRA: the base reads the text, a router turns its last hidden states into weights, the experts answer by them.

    `experts` is a number of new LoRA adapters of `rank` on `targets`, each drawn anew, which learn together with the
    router; or folders with LoRA adapters that have learnt already, which stay as they are while the router learns. The
    weights of a token add up to 1 in each layer; with `top` only the experts of the largest so many speak, at their
    weights. Every answer costs two passes, and the cache is switched off. `save_pretrained` writes files that `load`
    alone reads.

    Raises BadInput for fewer than two experts, for `top` out of range, and for a folder without an adapter of such a
    base, Unsupported for a base of another build than Llama's. Buehler and Buehler (2024), arXiv:2402.07148.
    """

    name = "xlora"

    def __init__(
        self,
        base_model: PreTrainedModel,
        experts: int | Sequence[str | Path] = 4,
        *,
        rank: int = 4,
        targets: Targets = ALL,
        top: int | None = None,
        seed: int = 0,
    ):
        count = experts if isinstance(experts, int) else len(experts)
        if count < 2 or (top is not None and not 1 <= top <= count):
            raise BadInput(f"A mixture has two experts or more, and lets 1 to all of them speak: {count} and {top}.")
        embedding: Any = base_model.get_input_embeddings()
        width = base_model.config.get_text_config().hidden_size
        narrow = embedding.weight.shape[1] != width  # as in some OPT, where the router would read the narrower side
        if base_model.base_model_prefix != "model" or base_model.config.is_encoder_decoder or narrow:
            raise Unsupported(
                f"PEFT mixes experts on decoders of Llama's build (Llama, Qwen, Mistral, …), not on a "
                f"{type(base_model).__name__}."
            )
        base_model.config.use_cache = False
        with tempfile.TemporaryDirectory() as aside:
            folders = (
                _drawn(base_model, experts, Path(aside), rank, targets, seed)
                if isinstance(experts, int)
                else _checked(experts)
            )
            arguments = {
                "hidden_size": width,
                "adapters": {str(i): str(folder) for i, folder in enumerate(folders)},
                "layerwise_scalings": True,
                "use_trainable_adapters": isinstance(experts, int),
                "top_k_lora": top,
            }
            super().__init__(base_model, arguments, seed)
        self.top = top

    @property
    def weights(self) -> Tensor | None:
        """How much each expert spoke in the last answer, [rows, length, layers, experts]; None before the first."""
        mixture: Any = self.adapted.base_model
        weights: Tensor | None = mixture.get_latest_scalings()
        if weights is None or self.top is None:
            return None if weights is None else weights.detach()
        speak = weights.detach().topk(self.top, dim=-1)
        return torch.zeros_like(weights).scatter(-1, speak.indices, speak.values)

    def load(self, folder: str | Path) -> None:
        """Read a mixture of this shape from `folder`, router and experts, in the place of this one's values.

        Raises BadCheckpoint where the folder holds none, BadInput for one of another shape.
        """
        values, parts = read_state(Path(folder), FILE)["values"], self._parts()
        if {name: value.shape for name, value in values.items()} != {name: p.shape for name, p in parts.items()}:
            raise BadInput(f"The mixture in {folder} has other experts, or another base. Make one of its shape first.")
        write(parts, values)

    def _ours(self) -> set[str]:
        return {f"{FILE}.json", f"{FILE}.safetensors", MANIFEST}

    def _write(self, staging: Path) -> None:
        """Router and experts in one file: PEFT writes no router that it could read again."""
        write_state(staging, FILE, {"values": self._parts()})

    def _parts(self) -> dict[str, nn.Parameter]:
        named = self.adapted.named_parameters()
        return {name: p for name, p in named if ".lora_" in name or "internal_xlora_classifier" in name}


def _checked(folders: Sequence[str | Path]) -> list[Path]:
    places = [Path(folder).absolute() for folder in folders]
    for place in places:
        if not (place / CONFIG).is_file() or not (place / WEIGHTS).is_file():
            raise BadInput(f"{place} holds no adapter ({CONFIG} and {WEIGHTS}), so no expert can be made of it.")
        with safe_open(place / WEIGHTS, framework="pt") as file:
            if odd := [key for key in file.keys() if not key.startswith(PREFIX)]:  # noqa: SIM118  no mapping
                raise BadInput(f"{place} holds an adapter of another kind of base: {odd[0]} is no part of this one.")
    return places


def _drawn(base: PreTrainedModel, count: int, aside: Path, rank: int, targets: Targets, seed: int) -> list[Path]:
    """Folders with new experts; the base is as it was afterwards."""
    folders = [aside / f"expert-{i}" for i in range(count)]
    for i, folder in enumerate(folders):
        several = AdapterSet(base, seed=seed + i)
        several.add("expert", {"lora": {"rank": rank, "alpha": rank, "targets": targets}})
        several.save("expert", folder)
        several.remove("expert")
    return folders
