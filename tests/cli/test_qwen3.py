"""The presets of the main user, on a stand-in with Qwen3's architecture, end tokens and template that fits a test."""

from __future__ import annotations

import json
from pathlib import Path

import hydra
import pytest
import torch
from test_train import ekd
from transformers import AutoModelForCausalLM, Qwen3Config

from ekd.method import CONF
from ekd.models.tiny import tiny_tokenizer

PRESETS = ("qwen3", "qwen3_thinking", "qwen3_11gb", "qwen3_served")
SMALL = [
    "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.accelerator=cpu", "teacher.max_new_tokens=12",
    "benchmark.problems=2", "benchmark.max_new_tokens=8", "data.train_problems=6", "data.val_problems=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen3")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    # as Qwen3's own: a thought that is switched off is there and empty
    switched_off = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "assistant\n{% endif %}", f"assistant\n{switched_off}{{% endif %}}"
    )
    config = Qwen3Config(
        vocab_size=288, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_lengths_that_fit_and_the_rate_of_a_pretrained_student(preset: str) -> None:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", [f"experiment={preset}"])
    assert config.student.optimizer.lr == (2e-4 if preset == "qwen3_11gb" else 2e-5)
    assert config.student.model == "Qwen/Qwen3-0.6B" and config.data.collector.tokenizer == config.student.model
    assert config.benchmark.max_new_tokens == config.teacher.max_new_tokens < config.data.max_tokens - 500
    assert (
        config.prompt.thinking is (preset == "qwen3_thinking")
        and config.benchmark.prompt.thinking is config.prompt.thinking
    )


@pytest.mark.parametrize("words", [["experiment=qwen3"], ["experiment=qwen3_thinking", "student=lora"]])
def test_the_recipe_runs_whole(words: list[str], stand_in: Path, tmp_path: Path) -> None:
    models = [f"teacher.model={stand_in}", f"student.model={stand_in}", "dataset=arithmetic_small"]
    run = tmp_path / "run"
    done = ekd("train", *words, *models, *SMALL, f"hydra.run.dir={run}", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads((run / "answers.jsonl").read_text().splitlines()[0])
    thinks = "experiment=qwen3_thinking" in words
    assert answer["prompt"].endswith("assistant\n") is thinks and ("</think>" in answer["prompt"]) is not thinks
    made = json.loads((run / "run.json").read_text())["config"]
    assert made["trainer"]["precision"] == "bf16-mixed" and made["student"]["gradient_checkpointing"] is True
    planned = ekd("train", *words, *models, *SMALL, "plan=true", cwd=tmp_path)
    assert planned.returncode == 0 and "largest data.max_tokens" in " ".join(planned.stdout.split())


def test_without_the_models_it_is_one_sentence(tmp_path: Path) -> None:
    words = ["experiment=qwen3", "dataset=arithmetic", "plan=true"]
    done = ekd("train", *words, cwd=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: ") and "Qwen/Qwen3" in done.stderr
