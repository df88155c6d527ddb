"""A student leaves the house: the same logits in transformers, the same text in llama.cpp, its template in Ollama."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import urllib.request
from pathlib import Path

import fake_sweep
import pytest
import torch
import yaml
from test_train import ROOT, ekd, train
from transformers import AutoModelForCausalLM, AutoTokenizer
from wire_servers import generations, llama_server

from ekd.export.formats import check_code, finished_run, sampling
from ekd.export.model_card import card, code_span
from ekd.export.modelfile import applied, find_frames, go_template, modelfile, render
from ekd.models.generation import generate
from ekd.models.load import load_model, load_tokenizer

CONVERTER = os.environ.get("EKD_CONVERTER")  # llama.cpp's convert_hf_to_gguf.py
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "What?"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("export"), "trainer.max_steps=2", "trainer.val_check_interval=2")


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.arange(40)[None]).logits


def test_the_folder_gives_the_same_logits_and_says_where_it_comes_from(run: Path) -> None:
    done = ekd("export", f"run={run}", "name=My Student", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    out = run / "export" / "hf"
    torch.testing.assert_close(logits(out), logits(run / "student"), rtol=0, atol=0)
    assert AutoTokenizer.from_pretrained(out).apply_chat_template(TALK, tokenize=False) == render(
        load_tokenizer("tiny"), TALK, answer=False
    )
    card, made = (out / "README.md").read_text(), json.loads((run / "metrics.json").read_text())
    for said in ("# my-student", "base_model: tiny", f"{made['figures']['after']['val/kl']:.4f}", str(made["commit"])):
        assert said in card
    assert not list((run / "export").glob("tmp*"))
    again = ekd("export", f"run={run}", cwd=run.parent)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)


def test_other_precisions_and_merged_adapters(run: Path) -> None:
    (run / "student" / "adapter").mkdir(exist_ok=True)
    out = run.parent / "half"
    assert ekd("export", f"run={run}", "dtype=bfloat16", f"out={out}", cwd=run.parent).returncode == 0
    half, own = (AutoModelForCausalLM.from_pretrained(f, dtype="auto").state_dict() for f in (out, run / "student"))
    assert {name: weight.dtype for name, weight in half.items()} == dict.fromkeys(own, torch.bfloat16)
    assert all(torch.equal(half[name], own[name].bfloat16()) for name in own)
    assert not (out / "adapter").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "give run=RUN"),
        (("run=nowhere",), "is not a finished training run"),
        (("run=RUN", "format=zip"), "format is one of hf, gguf, ollama"),
        (("run=RUN", "dtype=int3"), "dtype is one of null, float32"),
        (("run=RUN", "format=gguf", "converter=nowhere.py"), "git clone"),
        (("run=RUN", "format=gguf", "outtype=q1"), "outtype is one of auto"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_sentence(run: Path, words: tuple[str, ...], reason: str) -> None:
    done = ekd("export", *(w.replace("RUN", str(run)) for w in words), cwd=run.parent)
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_converter_that_fails_leaves_nothing_behind(run: Path) -> None:
    broken = run.parent / "convert_hf_to_gguf.py"
    broken.write_text("raise SystemExit('no such family')")
    done = ekd("export", f"run={run}", "format=ollama", f"converter={broken}", cwd=run.parent)
    assert (done.returncode, "failed: no such family" in done.stderr) == (2, True)
    assert not (run / "export" / "ollama").exists()


def test_packages_that_the_converter_lacks_are_named_with_the_command(run: Path) -> None:
    needy = run.parent / "needy.py"
    needy.write_text("import gguf\nraise ModuleNotFoundError(\"No module named 'mistral_common'\")")
    done = ekd("export", f"run={run}", "format=gguf", f"converter={needy}", cwd=run.parent)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "-m pip install" in done.stderr and "mistral" in done.stderr


# ---- a stranger's run


def hostile(folder: Path) -> Path:
    """What passes for a run, to do harm with."""
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "config.json").write_text("{}")
    (folder / "metrics.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", ["student/notes.txt", "metrics.json", "student"])
def test_what_a_link_leads_to_is_not_published(tmp_path: Path, name: str) -> None:
    bad = hostile(tmp_path / "bad")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "id_rsa").write_text("secret")
    if (bad / name).is_dir():
        shutil.rmtree(bad / name)
    (bad / name).unlink(missing_ok=True)
    (bad / name).symlink_to(tmp_path / "outside" / ("" if name == "student" else "id_rsa"))
    with pytest.raises(ValueError, match=r"is a link|not a finished"):
        finished_run(str(bad))


def test_a_students_own_code_is_not_given_to_a_converter(tmp_path: Path) -> None:
    bad = hostile(tmp_path / "bad")
    check_code(bad / "student")
    (bad / "student" / "config.json").write_text('{"auto_map": {"AutoConfig": "evil.Config"}}')
    with pytest.raises(ValueError, match="auto_map"):
        check_code(bad / "student")


EVIL = 'a"b`c``d\n---\nlicense: evil\n---\n# Owned <img src=x onerror=alert(1)> | \u2028 </script>\n```\n${x}'


def test_nothing_that_a_run_says_becomes_front_matter_or_markup_of_the_card() -> None:
    made = fake_sweep.made("vanilla", 0, 1.5)
    made["config"] = json.loads(json.dumps(made["config"])) | {"prompt": {"shots": 0}}
    made["config"]["teacher"]["mode"] = "generate"
    for group in ("student", "teacher"):
        made["config"][group]["model"] = EVIL
    for group in ("dataset", "selector", "signal", "loss"):
        made["config"][group]["_target_"] = f"x.{EVIL}"
    made["config"]["prompt"] |= {"system": EVIL, "instruction": EVIL}
    made |= {"commit": EVIL, "ekd": EVIL, "command": ["train", EVIL], "versions": {EVIL: EVIL}}
    made["figures"]["benchmark"] = {EVIL: MARKS}
    text = card("name", made)
    front = yaml.safe_load(text.split("---\n")[1])
    assert set(front) == {"base_model", "library_name", "pipeline_tag", "tags"}
    assert front["base_model"] == " ".join(EVIL.split())
    body = re.sub(r"^(````+)\w*\n.*?^\1$", "", text.split("\n---\n", 1)[1], flags=re.DOTALL | re.MULTILINE)
    lines = body.splitlines()
    assert not [line for line in lines if line.startswith(("---", "````", "<"))]
    assert [line for line in lines if line.startswith("#")] == ["# name", "## How to ask it", "## How it was made"]
    assert all(line.count("|") - line.count("\\|") == 3 for line in lines if line.startswith("|"))


MARKS = {"accuracy": 0.5, "problems": 2, "accuracy_low": 0.1, "accuracy_high": 0.9, "unparseable": 0, "truncated": 0}


@pytest.mark.parametrize("text", ["a`b", "`", "``x``", "a\nb", "", "`a"])
def test_code_in_markdown_is_closed_only_at_its_end(text: str) -> None:
    made = code_span(text)
    marks = made[: len(made) - len(made.lstrip("`"))]
    assert made.endswith(marks)
    assert marks not in made[len(marks) : -len(marks)].replace(marks + "`", "") or not text
    assert "\n" not in made


# ---- the Modelfile

LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|h|>{{ m.role }}<|/h|>\n\n{{ m.content }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|h|>assistant<|/h|>\n\n{% endif %}"
)
DEFAULT = (
    "{% if messages[0].role != 'system' %}[S]Be good.[/S]{% endif %}{% for m in messages %}"
    "{% if m.role == 'system' %}[S]{{ m.content }}[/S]{% elif m.role == 'user' %}[U]{{ m.content }}[/U]"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
COUNTS = "{% for m in messages %}{{ loop.index }}{{ m.role }}{{ m.content }};{% endfor %}"
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + COUNTS


@pytest.mark.parametrize("template", ["own", LLAMA, DEFAULT])
def test_the_go_template_frames_messages_as_the_jinja_template_does(template: str) -> None:
    tokenizer = load_tokenizer("tiny")
    if template != "own":
        tokenizer.chat_template = template
    frames = find_frames(tokenizer)
    assert frames is not None
    assert frames.system == ("Be good." if template == DEFAULT else None)
    system = [{"role": "system", "content": "Now this."}]
    for talk in (TALK[:1], TALK, system + TALK):
        assert applied(frames, talk) == render(tokenizer, talk, answer=True)
        if talk[0]["role"] == "system" or frames.system is None:
            assert go(go_template(frames), talk) == render(tokenizer, talk, answer=True)


def go(template: str, messages: list[dict[str, str]]) -> str:
    """The few words of Go's template language that are used, read anew."""
    start, _, template = template.partition("{{- range .Messages }}")
    loop, _, answer = template.partition("{{ end }}{{ end }}")
    cases = dict(
        case.split('" }}', 1) for case in loop.replace("{{ else if eq", "{{ if eq").split('{{ if eq .Role "')[1:]
    )
    return start + "".join(cases[m["role"]].replace("{{ .Content }}", m["content"]) for m in messages) + answer


ACTION = "{% for m in messages %}{{ '{{ .System }}' }}[{{ m.role }}]{{ m.content }};{% endfor %}"
BRACE = "{% for m in messages %}[{{ m.role }}{{ '{' }}{{ m.content }};{% endfor %}"


@pytest.mark.parametrize("template", [COUNTS, REFUSES, ACTION, BRACE])
def test_a_template_without_fixed_frames_is_left_to_ollama(template: str) -> None:
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = template
    assert find_frames(tokenizer) is None
    text = modelfile("a.gguf", tokenizer, "Be kind.", {"temperature": 0.0})
    assert text == 'FROM ./a.gguf\nSYSTEM """Be kind."""\nPARAMETER stop """<|im_end|>"""\nPARAMETER temperature 0\n'


def test_the_system_message_of_the_training_wins() -> None:
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = DEFAULT
    assert 'SYSTEM """Be good."""' in modelfile("a.gguf", tokenizer, "", {})
    assert 'SYSTEM """Count."""' in modelfile("a.gguf", tokenizer, "Count.", {})


def directives(text: str) -> list[tuple[str, str]]:
    """As Ollama reads a Modelfile: a value ends at a line end behind which no quote is open."""
    found, rest = [], text
    while rest.strip():
        name, _, rest = rest.lstrip().partition(" ")
        end = 0
        while True:
            end = min(i for i in (rest.find("\n", end), rest.find("\r", end), len(rest)) if i >= 0)
            value = rest[:end].strip()
            if not value.startswith('"""') or (len(value) >= 6 and value.endswith('"""')) or end == len(rest):
                break
            end += 1
        found.append((name, value[3:-3] if value.startswith('"""') else value))
        rest = rest[end:]
    return found


@pytest.mark.parametrize(
    "system", ["Be\nkind.", 'say "x"', '"', '""', "a\nFROM evil", '""\nFROM evil', "\rFROM x", "#"]
)
def test_a_system_message_adds_no_directive(system: str) -> None:
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = COUNTS
    text = modelfile("a.gguf", tokenizer, system, {"temperature": 0.7, "top_p": 0.9})
    assert directives(text) == [
        ("FROM", "./a.gguf"),
        ("SYSTEM", system),
        ("PARAMETER", 'stop """<|im_end|>"""'),
        ("PARAMETER", "temperature 0.7"),
        ("PARAMETER", "top_p 0.9"),
    ]


@pytest.mark.parametrize("evil", ['"""\nFROM evil', 'x"""\nADAPTER /etc/passwd', '"""', 'a """" b'])
def test_three_quotes_are_refused_wherever_they_stand(evil: str) -> None:
    tokenizer = load_tokenizer("tiny")
    with pytest.raises(ValueError, match=r"system message .* three quotes"):
        modelfile("a.gguf", tokenizer, evil, {})
    tokenizer.add_special_tokens({"eos_token": evil})
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="three quotes"):
        modelfile("a.gguf", tokenizer, "", {})


@pytest.mark.parametrize(
    ("benchmark", "says"),
    [
        ({"temperature": 0.0, "top_p": 1.0}, {"temperature": 0.0, "repeat_penalty": 1.0}),
        ({"temperature": 0.6, "top_p": 0.95}, {"temperature": 0.6, "top_p": 0.95, "repeat_penalty": 1.0}),
    ],
)
def test_the_student_is_served_as_it_was_judged(benchmark: dict, says: dict) -> None:
    assert sampling({"benchmark": benchmark}) == says


@pytest.mark.real
@pytest.mark.skipif(CONVERTER is None, reason="EKD_CONVERTER does not name llama.cpp's convert_hf_to_gguf.py")
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs the wheel xllamacpp")
def test_llama_cpp_loads_the_gguf_and_writes_the_same_text(run: Path, tmp_path: Path) -> None:
    """The embedded model as the student: 10 prompts, greedy, token by token."""
    model, tokenizer = load_model("smollm2").eval(), load_tokenizer("smollm2")
    trained = tmp_path / "run"
    model.save_pretrained(trained / "student")
    tokenizer.save_pretrained(trained / "student")
    shutil.copy(run / "metrics.json", trained)
    words = (f"run={trained}", "format=ollama", f"converter={CONVERTER}", "outtype=f32")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])  # the converter's own packages
    done = ekd("export", *words, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    questions = [w["question"] for w in generations()] + ["What is 2 + 3?", "Name a colour.", "Who wrote Faust?"]
    talks = [[{"role": "user", "content": q}] for q in questions]
    prompts = [tokenizer.apply_chat_template(t, add_generation_prompt=True, return_dict=False) for t in talks]
    ours = generate(model, prompts, end={tokenizer.eos_token_id}, max_new_tokens=16)
    with llama_server(str(trained / "export" / "ollama" / "run.gguf")) as url:
        theirs = [complete(url, prompt) for prompt in prompts]
    assert len(prompts) == 10
    assert theirs == [text.ids for text in ours]


def complete(url: str, prompt: list[int]) -> list[int]:
    body = {"prompt": prompt, "n_predict": 16, "temperature": 0, "return_tokens": True}
    asked = urllib.request.Request(f"{url}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=300) as answer:
        return json.load(answer)["tokens"]
