"""Batches, order, restarts and finished neighbours change no text."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from ekd.models.generation import generate, nucleus
from ekd.models.load import end_ids, load_model, load_tokenizer

NEVER = 271  # no text of these seeds has it


def prompts(count: int = 50) -> list[list[int]]:
    """Of different lengths, 1 to 3 * count."""
    stream = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (1 + 3 * i % 151,), generator=stream).tolist() for i in range(count)]


def ends(texts: list[list[int]]) -> set[int]:
    """Tokens that random models choose often, so that texts end at different places."""
    return {text[len(text) // 2 + i % 3] for i, text in enumerate(texts[::9])}


@pytest.fixture(scope="module")
def model():
    return load_model("tiny").eval()


@pytest.fixture(scope="module")
def end(model) -> set[int]:
    free = generate(model, prompts(), end={NEVER}, max_new_tokens=24)
    return ends([text.ids for text in free])


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.3}, {"temperature": 0.8, "top_p": 0.9}])
def test_a_batch_gives_the_same_texts_as_one_by_one(model, end, sampling):
    asked = prompts()
    options = {"end": end, "max_new_tokens": 24, **sampling}
    together = generate(model, asked, seeds=list(range(50)), **options)
    alone = [generate(model, [prompt], seeds=[seed], **options)[0] for seed, prompt in enumerate(asked)]
    assert [t[:2] for t in together] == [t[:2] for t in alone]
    assert len({len(t.ids) for t in together}) > 5 and {t.finish for t in together} == {"stop", "length"}


def test_a_common_beginning_is_read_once_and_changes_nothing(model, end):
    examples = [7, 99, 3] * 40
    asked = [examples + prompt for prompt in prompts(8)]
    read: list[int] = []
    counting = model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].numel()))
    together = generate(model, asked, end=end, max_new_tokens=1)
    counting.remove()
    assert read == [120, 8 * 22]  # the examples, and eight padded rests, the longest of 22
    assert [t[:2] for t in together] == [
        t[:2] for prompt in asked for t in generate(model, [prompt], end=end, max_new_tokens=1)
    ]
    longer = generate(model, asked, end=end, max_new_tokens=24, temperature=1.0, seeds=list(range(8)))
    for seed, (prompt, text) in enumerate(zip(asked, longer, strict=True)):
        alone = generate(model, [prompt], end=end, max_new_tokens=24, temperature=1.0, seeds=[seed])
        assert alone[0][:2] == text[:2]


def test_greedy_texts_are_those_of_transformers(model, end):
    for prompt, text in zip(prompts(), generate(model, prompts(), end=end, max_new_tokens=24), strict=True):
        config = GenerationConfig(max_new_tokens=24, eos_token_id=sorted(end), pad_token_id=0, do_sample=False)
        ids = torch.tensor([prompt])
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        assert theirs[0, len(prompt) :].tolist() == text.ids


def test_finished_texts_leave_the_batch_and_what_is_watched_stays_theirs(model, end):
    sizes, seen = [], {row: [] for row in range(50)}

    def watch(rows, logits, chosen):
        sizes.append(len(rows))
        for place, row in enumerate(rows):
            seen[row].append(int(logits[place].argmax()))
            assert seen[row][-1] == chosen[place]

    texts = generate(model, prompts(), end=end, max_new_tokens=24, watch=watch)
    assert sizes[-1] < sizes[0] == 50
    assert all(seen[row][: len(text.ids)] == text.ids for row, text in enumerate(texts))
    computed, needed = sum(sizes), sum(len(text.ids) for text in texts)
    assert computed < 1.35 * needed < 50 * len(sizes)


def test_a_full_context_ends_a_text_and_a_longer_prompt_is_refused(model):
    config = model.config.max_position_embeddings
    text = generate(model, [[7] * (config - 3), [9]], end={NEVER}, max_new_tokens=6)
    assert [(len(t.ids), t.finish) for t in text] == [(3, "length"), (6, "length")]
    with pytest.raises(ValueError, match=f"the model's context is {config}"):
        generate(model, [[7] * config], end={NEVER}, max_new_tokens=6)


def test_draws_follow_the_distribution(model):
    """4,000 first tokens after one prompt, against the model's own probabilities."""
    count = 4000
    with torch.no_grad():
        p = (model(torch.tensor([[5, 6]])).logits[0, -1] / 0.7).softmax(-1)
    drawn = generate(model, [[5, 6]] * count, end={NEVER}, max_new_tokens=1, temperature=0.7, seeds=list(range(count)))
    share = torch.bincount(torch.tensor([t.ids[0] for t in drawn]), minlength=len(p)) / count
    assert (share - p).abs().max() < 5 * (p * (1 - p) / count).sqrt().max()


def test_the_nucleus_is_the_smallest_set_that_reaches_its_mass():
    log_p = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert nucleus(log_p, 0.8).isfinite().tolist() == [[True, True, False, False]]
    assert nucleus(log_p, 0.81).isfinite().tolist() == [[True, True, True, False]]


@pytest.mark.real
def test_the_real_model_too():
    model, tokenizer = load_model("smollm2").eval(), load_tokenizer("smollm2")
    words = ["Hi", "What is 2 + 3?", "Count from one to five, then stop. " * 3, "Name a colour."]
    asked = [
        list(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": w}], add_generation_prompt=True, return_dict=False
            )
        )
        for w in words
    ]
    options = {"end": end_ids(model, tokenizer), "max_new_tokens": 12}
    together = generate(model, asked, **options)
    assert [t[:2] for t in together] == [generate(model, [prompt], **options)[0][:2] for prompt in asked]
