"""Under autocast a matrix is rounded once a text, not once a token: the same logits, and the weights come back."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ekd.defaults import answer_precision
from ekd.models.generation import generate
from ekd.models.load import load_model
from ekd.models.precision import check_precision, forward_context

PROMPTS = [[5, 6, 7], [8, 9], [1, 2, 3, 4]]
NEVER = 271  # no text of these has it
CPU = torch.device("cpu")
as_written = generate.__wrapped__.__wrapped__  # without inference_mode and `cast_once`


class Casts(TorchDispatchMode):
    """How often each shape is converted to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func.name().startswith(("aten::to", "aten::_to_copy")) and made.dtype == torch.bfloat16 != args[0].dtype:
            self.seen[tuple(args[0].shape)] += 1
        return made


@pytest.fixture(params=["plain", "tied", "adapters"])
def model(request):
    made = load_model("tiny")
    if request.param == "tied":
        made.config.tie_word_embeddings = True
        made.tie_weights()
        assert made.lm_head.weight is made.model.embed_tokens.weight
    if request.param == "adapters":
        lora = pytest.importorskip("ekd.models.lora").Lora(r=4, alpha=8, dropout=0.0, targets="all-linear")
        lora.attach(made)
        with torch.no_grad():
            for name, weight in made.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.05, generator=torch.Generator().manual_seed(0))
    return made.eval()


def told(write, model) -> tuple[list[list[int]], torch.Tensor]:
    seen: list[torch.Tensor] = []
    with forward_context("bf16-mixed", CPU), torch.inference_mode():
        texts = write(
            model,
            PROMPTS,
            end={NEVER},
            max_new_tokens=6,
            watch=lambda rows, logits, chosen: seen.append(logits.clone()),
        )
    return [text.ids for text in texts], torch.cat(seen)


def test_logits_are_the_same_to_the_last_bit_and_the_weights_come_back(model):
    before = {name: id(weight) for name, weight in model.named_parameters()}
    texts, logits = told(generate, model)
    plain, expected = told(as_written, model)
    assert texts == plain and torch.equal(logits, expected)
    assert before == {name: id(weight) for name, weight in model.named_parameters()}


def test_no_matrix_is_rounded_token_by_token():
    model, counted, plain = load_model("tiny").eval(), Casts(), Casts()
    with counted:
        told(generate, model)
    with plain:
        told(as_written, model)
    matrix = tuple(model.model.layers[0].mlp.gate_proj.weight.shape)
    assert counted.seen[matrix] < plain.seen[matrix] and counted.seen[matrix] <= 2 * 2 * len(model.model.layers)


def test_the_weights_come_back_after_a_failure(model):
    before = {name: id(weight) for name, weight in model.named_parameters()}

    def fails(*_):
        assert any(weight.dtype == torch.bfloat16 for weight in model.parameters())
        raise KeyError

    with pytest.raises(KeyError), forward_context("bf16-mixed", CPU):
        generate(model, PROMPTS, end={NEVER}, max_new_tokens=6, watch=fails)
    assert before == {name: id(weight) for name, weight in model.named_parameters()}


@pytest.mark.parametrize(
    ("trainer", "answers"),
    [
        *(("bf16-mixed", "bf16-mixed"), ("16-mixed", "16-mixed"), ("bf16", "bf16-mixed"), (16, "16-mixed")),
        *(("32-true", "32-true"), ("bf16-true", "32-true"), (32, "32-true"), (None, "32-true")),
    ],
)
def test_what_a_trainer_may_be_told_is_known(trainer, answers):
    assert answer_precision(trainer) == answers
    check_precision(answers)


def test_another_word_is_refused():
    with pytest.raises(
        ValueError, match=r"benchmark\.precision is 32-true .*, bf16-mixed or 16-mixed, not 'bf16-true'"
    ):
        check_precision("bf16-true")
