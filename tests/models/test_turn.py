"""Where a turn ends: the template says, not the tokenizer. And how a given solution is said in it."""

from __future__ import annotations

import pytest
from conftest import collector, hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ekd.export.modelfile import modelfile
from ekd.models.generation import check_ids, check_scored
from ekd.models.load import end_ids, load_model, load_tokenizer
from ekd.models.prompt import Prompt
from ekd.models.turn import answer_text, end_of_turn
from ekd.teacher.wire.vocabulary import Vocabulary
from ekd.types import Problem

# Family: special tokens, the tokenizer's own end of text, what ends a turn, the template.
FAMILIES = {
    "chatml": (
        ["<|im_start|>", "<|im_end|>", "<|endoftext|>"], "<|endoftext|>", "<|im_end|>",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    "gemma": (
        ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], "<eos>", "<end_of_turn>",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
        "{% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ),
    "llama3": (
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|end_of_text|>", "<|eot_id|>",
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    ),
    "mistral": (
        ["<s>", "</s>", "[INST]", "[/INST]"], "</s>", "</s>",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}</s>"
        "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}",
    ),
    "phi3": (
        ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>"], "<|endoftext|>", "<|end|>",
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}",
    ),
    "deepseek": (
        ["<|User|>", "<|Assistant|>", "<|end_of_sentence|>"], "<|end_of_sentence|>", "<|end_of_sentence|>",
        "{% for m in messages %}{% if m.role == 'assistant' %}<|Assistant|>{{ m.content }}<|end_of_sentence|>"
        "{% elif m.role == 'user' %}<|User|>{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
    ),
    "silent": (["</s>"], "</s>", "</s>", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"),
}  # fmt: skip


def speaker(family: str, **changes) -> PreTrainedTokenizerFast:
    special, eos, _, template = FAMILIES[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = {"eos_token": eos, "bos_token": special[0], "additional_special_tokens": special, "chat_template": template}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(made | changes))


def prompt(**changes) -> Prompt:
    return Prompt(**({"system": "", "instruction": "", "shots": 0, "thinking": None} | changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_turn_ends_with_what_the_template_puts_there_everywhere(family):
    tokenizer, end = speaker(family), FAMILIES[family][2]
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == end
    asked = prompt().ids(tokenizer, Problem("p", "2+2?", "4"), [])
    answer = prompt().answer_ids(tokenizer, "It is 4.", asked)
    assert tokenizer.convert_ids_to_tokens(answer[-1]) == end
    vocabulary = Vocabulary(tokenizer)
    assert (vocabulary.end, vocabulary.end_text) == (answer[-1], end)
    stop = next(line for line in modelfile("a.gguf", tokenizer, "", {}).splitlines() if "PARAMETER stop" in line)
    assert end in stop
    assert answer[-1] in end_ids(load_model("tiny"), tokenizer)


def test_a_scored_solution_ends_as_the_template_ends_a_turn_and_the_store_says_so(monkeypatch, tmp_path):
    maker = collector(teacher=hf(mode="score"), store=str(tmp_path / "a"))
    assert "end" not in maker.origin(), "the usual goes without saying, so that old stores stay"
    changed = load_tokenizer("tiny")
    changed.add_special_tokens({"additional_special_tokens": ["<turn_end>"]})
    changed.chat_template = changed.chat_template.replace("<|im_end|>", "<turn_end>")
    monkeypatch.setattr("ekd.data.collect.load_tokenizer", lambda *a, **k: changed)
    other = collector(teacher=hf(mode="score"), store=str(tmp_path / "b"))
    end = changed.convert_tokens_to_ids("<turn_end>")
    assert other.requests("train", 1)[0].response_ids[-1] == end == other.origin()["end"]


OPENED, EMPTY = "<|Assistant|><think>\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n"
PLAIN = "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("before", "solution", "said"),
    [
        (OPENED, "It is 2.", "\n</think>\n\nIt is 2."),
        (OPENED, "<think>\none and one\n</think>\n\nIt is 2.", "one and one\n</think>\n\nIt is 2."),
        (OPENED, "one and one</think>It is 2.", "one and one</think>It is 2."),
        (EMPTY, "It is 2.", "It is 2."),
        (EMPTY, "<think>\none and one\n</think>\n\nIt is 2.", "It is 2."),
        (PLAIN, "<think>\none\n</think>\n\nIt is 2.", "<think>\none\n</think>\n\nIt is 2."),
        (PLAIN, "It is 2.", "It is 2."),
    ],
)
def test_an_answer_has_one_thought_and_closes_it_before_the_solution(before, solution, said):
    assert answer_text(solution, before) == said
    whole = before + said
    assert whole.count("<think>") == whole.count("</think>") <= 1
    assert whole.rindex("It is 2.") > whole.rfind("</think>")


def test_the_thought_that_a_template_opens_is_seen_in_the_ids():
    tokenizer = speaker("deepseek")
    asked = prompt().ids(tokenizer, Problem("p", "1+1?", "2"), [])
    answer = prompt().answer_ids(tokenizer, "<think>\none and one\n</think>\n\nIt is \\boxed{2}.", asked)
    text = tokenizer.decode(asked + answer)
    assert text.count("<think>") == 1 and text.endswith("</think>\n\nIt is \\boxed{2}.<|end_of_sentence|>")


@pytest.mark.parametrize("family", ["gemma", "deepseek"])
def test_a_template_without_a_system_role_is_one_sentence(family):
    """Gemma's refuses the message; another leaves it out without a word, which is worse."""
    tokenizer = speaker(family)
    with pytest.raises(ValueError, match=r'takes no system message: set prompt\.system=""'):
        prompt(system="Be brief.").ids(tokenizer, Problem("p", "2+2?", "4"), [])
    assert prompt().ids(tokenizer, Problem("p", "2+2?", "4"), [])


def test_a_tokenizer_without_any_end_is_one_sentence():
    tokenizer = speaker("silent", eos_token=None, additional_special_tokens=[])
    with pytest.raises(ValueError, match=r"has no end token .*\"eos_token\""):
        end_of_turn(tokenizer)


def test_a_text_beyond_the_context_or_the_embeddings_is_refused_before_it_is_read():
    model = load_model("tiny")
    check_scored(model, [[1] * 4096])
    with pytest.raises(ValueError, match=r"has 4097 tokens and the model's context is 4096"):
        check_scored(model, [[1], [1] * 4097])
    with pytest.raises(ValueError, match=r"holds token 272 and the model has embeddings for 272"):
        check_ids(model, [[271], [272]])
