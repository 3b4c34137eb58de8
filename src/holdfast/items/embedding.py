"""Items' texts as vectors: by the words they share, by a language model, or from a file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from holdfast._errors import BadInput, MissingExtra
from holdfast.base import Base, load_base
from holdfast.checkpoint import file_kept_whole
from holdfast.data.quiet import quiet
from holdfast.items.kmeans import Say
from holdfast.items.quantisers import check_vectors

logger = logging.getLogger(__name__)

TFIDF = "tfidf"
"""The source of embeddings that needs no model."""


def embed(
    texts: Sequence[str],
    source: str | Path | Base = TFIDF,
    *,
    dim: int = 256,
    seed: int = 0,
    progress: Say | None = None,
) -> Tensor:
    """Embeddings [texts, dim] float32 by `tfidf`, a `.npy` file, or a model's name or folder (`mean_pooled`).

    `dim` and `seed` are those of `tfidf` alone. Raises BadInput for texts or a source that cannot be used,
    MissingExtra for `tfidf` without scikit-learn.
    """
    if source == TFIDF:
        return tfidf(texts, dim=dim, seed=seed)
    if isinstance(source, str | Path) and str(source).endswith(".npy"):
        return read_embeddings(source, len(texts))
    return mean_pooled(texts, source, progress=progress)


def tfidf(texts: Sequence[str], *, dim: int = 256, seed: int = 0) -> Tensor:
    """Latent semantic analysis: the first singular directions of TF-IDF, each text of length 1 [texts, dim] float32.

    Words count by 1 + log of how often they occur, times their inverse document frequency (Deerwester et
    al. 1990); scikit-learn's TfidfVectorizer and TruncatedSVD. The same seed gives the same embeddings. A text
    without words is a row of zeros. Fewer texts or words than `dim` give fewer dimensions, with a warning.

    Raises BadInput where no text has a word, MissingExtra without scikit-learn.
    """
    _some(texts)
    if dim < 1:
        raise BadInput(f"Embeddings have a dimension at least, not {dim}.")
    vectorizer, decomposition = _scikit_learn()
    try:
        counts = vectorizer(sublinear_tf=True, dtype=np.float32)
        weighed = counts.fit_transform(texts)
    except ValueError as error:
        raise BadInput(f"No text of {len(texts)} has a word in it; embed them with a model instead.") from error
    width = min(dim, *weighed.shape)
    if width < dim:
        logger.warning("%d texts with %d words give %d dimensions, not %d.", *weighed.shape, width, dim)
    found = decomposition(width, random_state=seed).fit_transform(weighed)
    return normalize(torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32)))


def mean_pooled(
    texts: Sequence[str], model: str | Path | Base, *, batch: int = 32, length: int = 512, progress: Say | None = None
) -> Tensor:
    """The mean of a model's last hidden states over the tokens of each text, of length 1 [texts, width] float32.

    Any Hugging Face encoder, decoder or encoder-decoder (of which the encoder is asked), as `load_base` loads it:
    safetensors only, no remote code. Texts are cut after `length` tokens, or what the model can take; a text of no
    token is taken for one padding token.

    Raises BadInput for a model that cannot be loaded.
    """
    _some(texts)
    base = model if isinstance(model, Base) else load_base(model)
    ids = _tokens(texts, base, length)
    order = sorted(range(len(texts)), key=lambda i: len(ids[i]))
    rows: list[Tensor] = []
    with quiet(base.model) as device:
        for start in range(0, len(order), batch):
            part = [ids[i] for i in order[start : start + batch]]
            rows.append(_pooled(base, part, device))
            if progress:
                progress(f"{min(start + batch, len(order))} of {len(order)} texts embedded")
    found = torch.empty(len(texts), rows[0].shape[1])
    found[order] = torch.cat(rows)
    check_vectors(found)
    return normalize(found)


def read_embeddings(file: str | Path, items: int) -> Tensor:
    """The embeddings [items, dim] float32 in a `.npy` file; raises BadInput for one that is not of that kind."""
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(
            f"{file} cannot be read as an array: {error}. It has to be written by `numpy.save`, without pickle."
        ) from error
    if not isinstance(found, np.ndarray) or found.ndim != 2 or not np.issubdtype(found.dtype, np.floating):
        kind = f"{found.dtype} of shape {[*found.shape]}" if isinstance(found, np.ndarray) else "an archive"
        raise BadInput(f"{file} holds {kind}; embeddings are floating-point numbers [items, dim].")
    if len(found) != items:
        raise BadInput(f"{file} has {len(found)} rows for {items} items: a row for each item, in their order.")
    vectors = torch.from_numpy(found.astype(np.float32))
    try:
        check_vectors(vectors)
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from error
    return vectors


def write_embeddings(embeddings: Tensor, file: str | Path) -> None:
    """Write embeddings as a `.npy` file, whole or not at all."""
    with file_kept_whole(Path(file)) as half, half.open("wb") as stream:
        np.save(stream, embeddings.cpu().numpy(), allow_pickle=False)


def _some(texts: Sequence[str]) -> None:
    if not texts:
        raise BadInput("There are no texts to embed.")


def _tokens(texts: Sequence[str], base: Base, length: int) -> list[list[int]]:
    config = base.model.config.get_text_config()
    longest = min(length, getattr(config, "max_position_embeddings", None) or length)
    found = base.tokenizer(list(texts), truncation=True, max_length=longest, return_attention_mask=False)["input_ids"]
    return [list(row) or [base.pad_id] for row in found]


def _pooled(base: Base, rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """The masked mean of the last hidden states [rows, width]."""
    widest = max(map(len, rows))
    ids = torch.tensor([[*row, *[base.pad_id] * (widest - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (widest - len(row)) for row in rows], device=device)
    states = _trunk(base.model)(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    weights = mask[:, :, None].float()
    found: Tensor = (states * weights).sum(1) / weights.sum(1)
    return found.cpu()


def _trunk(model: Any) -> Any:
    """The part of a model that gives hidden states: below any head, and of two sides the reading one."""
    return model.get_encoder() if model.config.is_encoder_decoder else model.base_model


def _scikit_learn() -> tuple[Any, Any]:
    try:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise MissingExtra("Embedding by TF-IDF", "items") from error
    return TfidfVectorizer, TruncatedSVD
