"""Under autocast a matrix is rounded once a text, not once a token: the same logits, and the weights come back."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch.utils._python_dispatch import TorchDispatchMode

from ekd.defaults import answer_precision
from ekd.models.generation import generate
from ekd.models.load import load_model
from ekd.models.lora import Lora
from ekd.models.precision import check_precision, forward_context, round_frozen

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


def adapted():
    made = load_model("tiny")
    torch.manual_seed(0)
    Lora(r=4, alpha=8.0, dropout=0.0, targets="all-linear").attach(made)
    for name, weight in made.named_parameters():
        if "lora_B" in name:  # zero at first
            torch.nn.init.normal_(weight, std=0.1)
    return made.train()


def step_of(made) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    ids = torch.tensor([PROMPTS[0], PROMPTS[2][:3]])
    with forward_context("bf16-mixed", CPU):
        loss = made(input_ids=ids, labels=ids).loss
    loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in made.named_parameters() if weight.grad is not None}
    made.zero_grad(set_to_none=True)
    return loss.detach(), gradients


def test_frozen_matrices_are_rounded_once_for_all_steps_and_nothing_changes():
    plain, rounded = adapted(), adapted()
    round_frozen(rounded)
    with torch.inference_mode(), forward_context("bf16-mixed", CPU):  # as Lightning validates, before it trains
        rounded(input_ids=torch.tensor([PROMPTS[0]]))
    for counted, made in ((Casts(), plain), (Casts(), rounded)):
        with counted:
            loss, gradients = step_of(made)
        matrix = counted.seen[tuple(made.model.layers[0].mlp.gate_proj.weight.shape)]
        if made is plain:
            expected, wanted = loss, gradients
            assert matrix >= 2 * len(made.model.layers)
        else:
            assert matrix == 0 and torch.equal(loss, expected) and gradients.keys() == wanted.keys() != set()
            assert all(torch.equal(gradients[name], wanted[name]) for name in wanted)
    assert plain.state_dict().keys() == rounded.state_dict().keys()


def test_a_frozen_matrix_that_changes_or_moves_is_rounded_anew_and_a_copy_has_its_own():
    made, other = adapted(), adapted()
    round_frozen(made)
    step_of(made)
    twin = copy.deepcopy(made)
    with torch.no_grad():
        for both in (made, other):
            both.model.layers[0].mlp.gate_proj.weight.mul_(1.5)
    assert torch.equal(step_of(made)[0], step_of(other)[0])
    assert torch.equal(step_of(twin)[0], step_of(adapted())[0])
    texts, logits = told(generate, made.eval())
    plain, expected = told(generate, other.eval())
    assert texts == plain and torch.equal(logits, expected)
    ids = torch.tensor([PROMPTS[0]])
    assert torch.equal(made(input_ids=ids).logits, other(input_ids=ids).logits), "without autocast nothing is rounded"


def test_what_is_merged_put_in_place_unfrozen_or_pickled_is_what_it_would_be_without():
    made, other = adapted(), adapted()
    round_frozen(made)
    step_of(made)
    for both in (made, other):
        layer = both.model.layers[0].mlp.gate_proj.base_layer
        layer.weight = torch.nn.Parameter(2 * layer.weight.detach(), requires_grad=False)
    assert torch.equal(step_of(made)[0], step_of(other)[0])
    for both in (made, other):
        both.requires_grad_(True)
    assert step_of(made)[1].keys() == step_of(other)[1].keys() and all(p.requires_grad for p in made.parameters())
    again = pickle.loads(pickle.dumps(made))  # noqa: S301 (made here)
    assert torch.equal(step_of(again)[0], step_of(other)[0])
    for both in (made.eval(), other.eval()):
        for part in both.modules():
            if isinstance(part, LoraLayer):
                part.merge()  # through .data, which is not counted
    with forward_context("bf16-mixed", CPU):
        ids = torch.tensor([PROMPTS[0]])
        assert torch.equal(made(input_ids=ids).logits, other(input_ids=ids).logits)
