"""The model that training starts from: the embedded one, a folder, or one from the Hugging Face Hub."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from holdfast import tiny
from holdfast._errors import BadInput

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
# What is fetched from the Hub: no pickles, and no second copy of the weights in another format.
_FILES = ("*.json", "model*.safetensors", "tokenizer*", "*.model", "*.tiktoken", "*.txt", "*.jinja")
_VOCABULARIES = ("tokenizer.json", "*.model", "*.tiktoken", "tekken.json")  # beside what the tokenizer's class names


@dataclass(frozen=True, eq=False)
class Base:
    """A model with its tokenizer, the name it was asked for by, and the digest of its config and weights."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    digest: str

    @property
    def pad_id(self) -> int:
        """The id that fills a batch up: the pad token, else the end token, else 0.

        The tokenizer is left as it is: a pad token of its own would change the vocabulary. Filled places carry no
        attention and no loss, so the choice changes nothing that is learnt.
        """
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0


def load_base(
    name: str | Path,
    *,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantization: Any = None,
    device: torch.device | None = None,
) -> Base:
    """Load a base by name: `tiny`, a folder in Hugging Face layout, or a Hub id.

    Weights are float32 unless another dtype is asked for, and are read from safetensors only; with `quantization` (one
    of transformers' quantisation configs) linear layers are stored as it says, on `device`. Raises BadInput when
    there is no such base, when files are missing or damaged, when the files lack weights that the model has, or when
    there is no tokenizer.
    """
    folder = _folder(name, revision, (*_FILES, "*.py") if trust_remote_code else _FILES)
    config = _config(folder, name, trust_remote_code)
    files = _weight_files(folder, name)
    tokenizer = _tokenizer(folder, name, trust_remote_code)
    settings = {"dtype": dtype or torch.float32, "use_safetensors": True, "trust_remote_code": trust_remote_code}
    if quantization is not None:
        settings |= {"quantization_config": quantization, "device_map": {"": device or torch.device("cpu")}}
    model = _model(folder, name, config, settings)
    if name != "tiny" and not Path(name).expanduser().is_dir():  # adapters say by this name what they belong to
        model.name_or_path = model.config.name_or_path = str(name)
    digest = _digest([folder / CONFIG, *files])
    if quantization is not None:
        digest = hashlib.sha256(f"{digest} {quantization.to_json_string()}".encode()).hexdigest()
    return Base(model, tokenizer, str(name), digest)


def load_config(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> PretrainedConfig:
    """The config of a base without its weights, which a plan needs no more than; raises BadInput."""
    patterns = (CONFIG, "*.py") if trust_remote_code else (CONFIG,)
    return _config(_folder(name, revision, patterns), name, trust_remote_code)


def load_tokenizer(
    name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a base without its weights; raises BadInput."""
    patterns = [file for file in (*_FILES, *(("*.py",) if trust_remote_code else ())) if "safetensors" not in file]
    return _tokenizer(_folder(name, revision, patterns), name, trust_remote_code)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer whose files lie in a folder, whatever else does; raises BadInput."""
    return _tokenizer(folder, folder, False)


def _folder(name: str | Path, revision: str | None, patterns: Sequence[str]) -> Path:
    """Where the files of a base lie, after fetching them from the Hub if the name is neither `tiny` nor a folder."""
    folder = tiny.MODEL if name == "tiny" else Path(name).expanduser()
    if not folder.is_dir():
        if isinstance(name, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise BadInput(f"There is no folder {folder}. A base is `tiny`, a folder that exists, or a Hub id.")
        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
        except (OSError, ValueError) as error:
            raise BadInput(_unreachable(name, revision, error)) from error
    if not (folder / CONFIG).is_file():
        found = "only an adapter: merge it into its base first" if (folder / ADAPTER).is_file() else f"no {CONFIG}"
        inside = [place for name in ("final", "merged", "adapter") if (place := folder / name).is_dir()]
        found = f"a model in {' and one in '.join(map(str, inside))}" if inside else found
        if (folder / "log.jsonl").is_file() and not inside:
            found = "a run that came to no end, and no model yet"
        raise BadInput(
            f"{name} holds {found}. A base needs {CONFIG}, {WEIGHTS} and a tokenizer, "
            "as `model.save_pretrained(folder)` and `tokenizer.save_pretrained(folder)` write them."
        )
    return folder


def _unreachable(name: str, revision: str | None, error: Exception) -> str:
    at = f" at revision {revision}" if revision else ""
    return (
        f"There is no base {name!r}. {_near(name)}Tried: the embedded model (its name is `tiny`), the folder "
        f"{Path(name).absolute()}, and the Hub id {name}{at}, which failed: {_first(error)}. Check the spelling; "
        "without a network, download the model elsewhere and give its folder; for a private or gated model, "
        "log in with `hf auth login`."
    )


def _near(name: str) -> str:
    """The embedded model, or a folder here that holds a model, where its name is nearly the one given."""
    models = [file.parent.name for file in Path().glob(f"*/{CONFIG}")]
    near = difflib.get_close_matches(name, ["tiny", *models], n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


def _config(folder: Path, name: str | Path, trust: bool) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"The {CONFIG} of {name} cannot be used: {_first(error)}.") from error
    return config


def _weight_files(folder: Path, name: str | Path) -> list[Path]:
    """The files that hold the weights, index first; every one of them has to be there."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise BadInput(
            f"{name} has no {WEIGHTS}. Pickled weights (pytorch_model.bin) are never opened: load them where you trust "
            "them and write them again with `model.save_pretrained(folder)`, which writes safetensors."
        )
    shards = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
    if missing := [shard for shard in shards if not (folder / shard).is_file()]:
        raise BadInput(f"{name} lacks weight files that its {INDEX} names: {', '.join(missing)}. Download them again.")
    return [folder / INDEX, *(folder / shard for shard in shards)]


def _tokenizer(folder: Path, name: str | Path, trust: bool) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        # Without its files transformers makes a tokenizer up that knows a handful of tokens.
        files = tokenizer.vocab_files_names.values()
        if files and not any(any(folder.glob(file)) for file in (*files, *_VOCABULARIES)):
            raise FileNotFoundError("there is no vocabulary beside its weights")
    except Exception as error:  # tokenizer classes raise whatever their backend raises
        raise BadInput(
            f"{name} comes without a tokenizer that can be read ({_first(error)}). Text cannot be turned into tokens "
            "without one: put the files of the tokenizer it was trained with (tokenizer.json, tokenizer_config.json) "
            "into the folder, or write them with `tokenizer.save_pretrained(folder)`."
        ) from error
    return tokenizer


def _model(folder: Path, name: str | Path, config: PretrainedConfig, settings: dict[str, Any]) -> Any:
    try:
        model, report = _model_class(config).from_pretrained(
            folder, config=config, output_loading_info=True, **settings
        )
    except Exception as error:  # safetensors, shapes, memory: whatever it is, these files do not give a model
        raise BadInput(f"The weights of {name} cannot be loaded: {_first(error)}. Download them again.") from error
    if missing := sorted(report["missing_keys"]):
        lacking = f"{len(missing)} tensors of a {type(model).__name__} ({', '.join(missing[:3])})"
        raise BadInput(
            f"The weights of {name} lack {lacking}: they would start at random. "
            "Give a base whose weights fit the class that its config names."
        )
    return model


def _model_class(config: PretrainedConfig) -> Any:
    """The class that the config names, else the causal or encoder-decoder language model of its type."""
    named = getattr(transformers, next(iter(config.architectures or ()), ""), None)
    if isinstance(named, type) and issubclass(named, PreTrainedModel):
        return named
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 over name and SHA-256 of each file, so that a folder and the Hub give the same model the same digest."""
    lines = (f"{file.name} {_sha256(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(file: Path) -> str:
    """Of the contents; the Hub's cache names large files by it already, which spares reading them."""
    blob = file.resolve()
    if file.is_symlink() and blob.parent.name == "blobs" and len(blob.name) == 64:
        return blob.name
    with blob.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _first(error: Exception) -> str:
    """The first line of an error, without its full stop and what only says that an error follows."""
    line = next((line.strip(" .:") for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"^(Got: )?([A-Za-z]+(Error|Exception|Timeout): )?(\[Errno -?\d+\] )?", "", line) or line
