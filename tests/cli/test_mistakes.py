"""Mistakes typed by hand: exit code 2, one sentence that says what to do, no traceback, nothing lost or left."""

from __future__ import annotations

import errno
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from ekd.cli.famous import FAMOUS, here
from ekd.mistakes import SENTENCES, sentence

ROOT = Path(__file__).parents[2]
# door, words => what the sentence holds, parts divided by ;
TABLE = r"""
train student.optimizer.lr=abc => student.optimizer.lr is a number;'abc'
train student.optimizer.lr=[1] => student.optimizer.lr is a number
train student.optimizer.lr=null => student.optimizer.lr is a number, not null
train student.optimizer.lr=true => student.optimizer.lr is a number, not true
train student.optimizer.betas=0.9 => student.optimizer.betas is a list
train student.optimizer.weight_decay=none => student.optimizer.weight_decay is a number
train student.layers=99 => student.layers is a list of whole numbers;99
train student.layers=[a] => student.layers is a list of whole numbers
train student.model=tiny student.layers=[99] => layers is all, auto or;0 to 1;[99]
train student.temperature=null => student.temperature is a number, not null
train student.temperature=hot => student.temperature is a number;'hot'
train student.temperature=-1 => student.temperature is more than 0;-1
train student.alpha_ce=2 => student.alpha_ce;0 to 1;2
train student.alpha_ce=x => student.alpha_ce is a number
train student.warmup=abc => student.warmup is a number
train student.warmup=5 => student.warmup;0 to 1
train student.tail=none => student.tail is one of bucket
train student.unmatched=some => student.unmatched is one of end, all, none
train student.lora=16 => student.lora is
train student.compile=yes-please => student.compile is true or false
train student.gradient_checkpointing=2 => student.gradient_checkpointing is true or false, not 2
train student.trust_remote_code=maybe => student.trust_remote_code is true or false
train student.head_mb=big => student.head_mb is a number
train student.supervised_tokens=1.5 => student.supervised_tokens is a whole number or null
train student.supervised_tokens=many => student.supervised_tokens is a whole number or null
train student.model=8 => student.model is text, not 8
train student.model=[tiny] => student.model is text
train trainer.max_steps=ten => trainer.max_steps is a whole number;'ten'
train trainer.max_steps=1e3 => trainer.max_steps is a whole number, not 1000.0
train trainer.max_steps=null => trainer.max_steps is a whole number, not null
train trainer.precision=17 => trainer.precision is;32-true;17
train trainer.precision=half => trainer.precision is;bf16-mixed;'half'
train trainer.devices=1.5 => trainer.devices is
train trainer.accumulate_grad_batches=few => trainer.accumulate_grad_batches is a whole number
train experiment=tiny trainer.val_check_interval=often => val_check_interval;'often'
train trainer.gradient_clip_val=[1] => trainer.gradient_clip_val is a
train trainer.log_every_n_steps=x => trainer.log_every_n_steps is a whole number
train data.max_tokens=lots => data.max_tokens is a whole number
train data.max_tokens=2048.5 => data.max_tokens is a whole number
train data.train_problems=x => data.train_problems is a whole number or null
train data.packing=sometimes => data.packing is true or false
train data.workers=two => data.workers is a whole number
train data.collector.samples=x => data.collector.samples is a whole number
train data.collector.seed=x => data.collector.seed is a whole number
train callback.checkpoint.every_n_train_steps=x => callback.checkpoint.every_n_train_steps is a whole number
train benchmark.problems=some => benchmark.problems is a whole number or null
train benchmark.temperature=x => benchmark.temperature is a number
train benchmark.temperature=-1 => benchmark.temperature is 0;-1
train benchmark.samples=0 => benchmark.samples is 1 or more, not 0
train benchmark.samples=4 => benchmark.samples=4;benchmark.temperature=0.6
train benchmark.top_p=2 => benchmark.top_p <= 1
train prompt.shots=x => prompt.shots is a whole number
train prompt.thinking=2 => prompt.thinking is true or false or null
train prompt.system=[a,b] => prompt.system is text
train seed=x => seed is a whole number
train seed=1.5 => seed is a whole number
train save_student=maybe => save_student is true or false
train keep_checkpoints=3 => keep_checkpoints is true or false
train plan_gb=big => plan_gb is a number
train baselines.teacher=x => baselines is
train plan=maybe => plan is false, true
train teacher.temperatures=2 => teacher.temperatures is a list of numbers
train teacher.temperatures=[a] => teacher.temperatures is a list of numbers
train teacher.max_k=x => teacher.max_k is a whole number
train teacher.batch_size=big => teacher.batch_size is a whole number
train teacher=ollama teacher.endpoints=http://x => teacher.endpoints is a list of texts
train teacher=ollama teacher.pull=please => teacher.pull is true or false
train dataset.levels=1 => dataset.levels is a list of whole numbers
train dataset.train=many => dataset.train is a whole number
train dataset.kinds=sums => dataset.kinds is
train selector=topk selector.k_percent=abc => selector.k_percent is a number;'abc'
train selector=topk selector.k_percent=[10,20] => selector.k_percent is a number;-m
train selector=topk selector.k_percent=0.2 => looks like a fraction;selector.k_percent=20;0.2%
train selector=topk selector.k_percent=.2 => looks like a fraction;selector.k_percent=20
train selector=random selector.k_percent=0.10 => looks like a fraction;selector.k_percent=10
train selector=bucket selector.lower=0.7 selector.upper=0.8 => looks like a fraction;selector.lower=70
train selector=bucket selector.lower=0 selector.upper=0.8 => looks like a fraction;selector.upper=80
train selector=topk selector.k_percent=0 => k_percent;0
train selector=topk selector.k_percent=120 => 120;100
train selector=topk selector.k_percent=20%% => selector.k_percent is a number
train selector=topk selector.scope=all => scope='all';batch
train selector=bucket selector.lower=80 selector.upper=70 => lower=80, upper=70;lower < upper
train data/samples=top data.samples.percent=0.2 => looks like a fraction;data.samples.percent=20
train selector.lower=70 => selector=vanilla has no 'lower';selector=bucket
train selector.k_percent=20 => selector=vanilla has no 'k_percent';selector=topk
train selector=topk selector.lower=70 => selector=topk has no 'lower';selector=bucket
train selector=bucket selector.k_percent=20 => selector=bucket has no 'k_percent';selector=topk
train loss.beta=0.5 => loss=forward_kl has no 'beta';loss=jsd
train loss=jsd loss.tau=1 => loss=jsd has no 'tau';loss=entropy_gated and loss=span_kl have it
train signal.explore=1 => signal=teacher_entropy has no 'explore';signal=bandit has it
train dataset.path=x => dataset=arithmetic has no 'path';dataset=gsm8k
train teacher.endpoints=[http://x] => teacher=hf has no 'endpoints';teacher=ollama
train selector=topk selector.k_precent=20 => did you mean selector.k_percent?
train student.optimizer.learning_rate=1 => student.optimizer has no 'learning_rate'
train student.modle=tiny => did you mean student.model?
train trainer.max_step=3 => did you mean trainer.max_steps?
train data.max_token=3 => did you mean data.max_tokens?
train hydra.run.dri=x => did you mean hydra.run.dir?
train a.b.c=3 => there is no a.b.c
train logger.wandb.project=x => there is no logger.wandb.project
train selektor=topk => did you mean;selector
train teachr=hf => did you mean;teacher
train selector=topkk => there is no selector=topkk;did you mean topk?
train loss=kl => there is no loss=kl;forward_kl
train signal=entropy => there is no signal=entropy;teacher_entropy
train dataset=gsm8 => did you mean gsm8k?
train student=loraa => did you mean lora?
train teacher=olama => did you mean ollama?
train logger=wanb => did you mean wandb?
train experiment=buckett => did you mean bucket?
train method=bucket_70_81 => did you mean bucket_70_80?
train budget=tokns => did you mean tokens?
train data/samples=best => there is no data/samples=best;random
train dataset=../data/file => there is no
train selector=null => null
train +seed=1 => leave the + out
train +selector=topk => chosen twice
train +foo=1 => nothing reads 'foo'
train ++foo=1 => nothing reads 'foo'
train ~foo => no 'foo'
train ~selector => 'selector' not found
train ~selector=topk => selector
train ~student.model => 'student.model' not found
train foo@bar=topk => 'foo' does not exist
train selector@x=topk => selector
train dataset=hub => dataset.name has no value yet: give dataset.name=
train student.optimizer._target_=torch.optim.AdamV => there is no torch.optim.AdamV
train selector._target_=ekd.selector.topk.TopX => there is no ekd.selector.topk.TopX
train selector._target_=nonsense => there is no nonsense
train 'student.model=${foo}' => 'foo' not found;single quotes
train 'seed=${student.model}' => seed is a whole number
train ckpt=nothing.ckpt => there is no checkpoint nothing.ckpt
train ckpt=kept.txt => kept.txt is no whole checkpoint
train ckpt=kept.txt/last.ckpt => there is no checkpoint
train ckpt=~/last.ckpt => write ckpt=/
train hydra.run.dir=~/runs => ~;write hydra.run.dir=/
train dataset=jsonl dataset.train=~/x.jsonl => ~;dataset.train=/
train seed => 'seed' is not KEY=VALUE
train selector => selector=NAME, one of;topk
train selector vanilla => selector=NAME, one of
train vanilla => 'vanilla' is not KEY=VALUE;selector=vanilla
train seed = 1 => 'seed' is not KEY=VALUE
train seed =1 => 'seed' is not KEY=VALUE
train 'seed= 1' => spaces around its =;seed=1
train '' => empty word
train = => empty word
train prompt.instruction=Think, then say => quoted twice;'prompt.instruction="
train 'prompt.instruction=a (b' => quoted twice;'prompt.instruction="a (b"'
train 'prompt.instruction={a' => quoted twice
train prompt.instruction=a=b=c] => quoted twice
train 'student.layers=[0,1' => quoted twice
train "prompt.system='it" => quoted twice
train =3 => no key before its =
train dataset.levels=1,2 => several values;-m;dataset.levels=[1,2]
train --distill_type ekd => --distill_type;selector=topk selector.k_percent=20
train --distill_type=bucket => selector=bucket selector.lower=70 selector.upper=80
train --distill_type vanilla => selector=vanilla
train --distill_type random => selector=random
train --distill-type ekd => selector=topk
train --k_percent 20 => selector.k_percent=20
train --teacher_model Qwen/Qwen3-8B => teacher.model=
train --student_model x => student.model=
train --datasets gsm8k => dataset=gsm8k
train --lr 1e-4 => student.optimizer.lr
train --epochs 3 => trainer.max_steps
train --batch-size 4 => data.max_tokens
train --output_dir x => hydra.run.dir
train --gls_enabled => experiment=gls
train --offline_cache => data.collector.store
train --seed 3 => seed=...
train -lr 1 => student.optimizer.lr
train --wandb => logger=wandb
train --unheard-of => --unheard-of is no flag
train lr=1e-4 => student.optimizer.lr
train learning_rate=1e-4 => student.optimizer.lr
train batch_size=4 => data.max_tokens
train bs=4 => data.max_tokens
train epochs=3 => trainer.max_steps
train steps=3 => trainer.max_steps
train max_steps=3 => trainer.max_steps
train model=x => student.model;teacher.model
train temperature=2 => student.temperature;teacher.temperature
train max_length=512 => data.max_tokens
train max_new_tokens=512 => teacher.max_new_tokens
train gpus=2 => trainer.devices
train device=cuda => trainer.accelerator
train precision=16 => trainer.precision
train fp16=true => trainer.precision
train wandb=true => logger=wandb
train k=20 => selector=topk selector.k_percent=20
train top_k=20 => selector=topk
train alpha=0.1 => student.alpha_ce
train lora=true => student=lora
train output_dir=x => hydra.run.dir
train resume=true => ckpt=
train num_workers=4 => data.workers
train warmup_steps=10 => student.warmup
train tokenizer=x => data.collector.tokenizer
train distill_type=ekd => selector=topk
train shots=3 => prompt.shots
train ollama=true => teacher=ollama
train --config-name => --config-name wants a word behind it
train -cn --resolve => -cn wants a word behind it
train --config-name nothing => primary config 'nothing'
train --config-dir nothing => --config-dir nothing: there is no such folder
train --config-dir kept.txt => --config-dir kept.txt: there is no such folder
train -cp nothing => -cp nothing: there is no such folder
train --experimental-rerun kept.txt => reads a pickle;overrides.yaml
train -cn evaluate => has no 'baselines';defaults: [train, _self_]
train --cfg nothing => --cfg is one of job, hydra, all
train --info nothing => --info is one of all, config
trace --config-dir => --config-dir wants a word behind it
train api_key=secret => api_key holds what looks like a key;teacher.api_key_env
train --api_key sk-0123456789abcdef => teacher.api_key_env
train +teacher.api_key=abcdef => teacher.api_key holds what looks like a key;teacher.api_key_env
train teacher=openai teacher.api_key_env=sk-0123456789abcdef => what looks like a key
train teacher=openai teacher.api_key_env=my-own-key => name of an environment variable
train -m +logger.wandb.api_key=abc,def => WANDB_API_KEY
trace teacher=openai 'teacher.endpoints=[http://me:mine@host/v1]' => teacher.endpoints has a URL with a user
evaluate run=https://me:mine@host/run => run has a URL with a user
export run=hf_abcdefghijklmnopqrstuvw => HF_TOKEN
train -m selector=topk,bukket => did you mean bucket?
train -m selector=topk selector.k_percent=10,abc => selector.k_percent is a number;'abc'
train -m selector=topk selector.k_percent=0.1,0.2 => looks like a fraction
train -m seed=0,x => seed is a whole number
train -m lr=1e-4,1e-3 => student.optimizer.lr
train -m selector=vanilla,topk selector.k_percent=10 => selector=vanilla has no 'k_percent'
train -m --epochs 3 => trainer.max_steps
train -m student.temperature=1,cold => student.temperature is a number
trace lr=1 => student.optimizer.lr
trace teacher=olama => did you mean ollama?
trace teacher=ollama teacher.concurency=4 => did you mean teacher.concurrency?
trace teacher=ollama teacher.mode=score => score
trace teacher.mode=guess => mode;guess
trace dataset=hub => dataset.name
trace --model x => teacher.model
trace selector=topk => nothing
trace teacher.temperature=hot => teacher.temperature is a number
trace seed=abc => seed is a whole number
trace data.train_problems=-1 student.model=tiny teacher.model=tiny => train split has 400 problems;-1
evaluate run=nowhere => run=nowhere is not a training run
evaluate run=~/x => write run=/
evaluate ckpt=x.ckpt => needs run=RUN
evaluate batch_size=4 => benchmark.batch_size
evaluate --model x => student.model
evaluate foo => 'foo' is not KEY=VALUE
evaluate dataset=gms8k => did you mean gsm8k?
evaluate generator=olama => did you mean ollama?
evaluate benchmark.problems=abc => benchmark.problems is a whole number or null
evaluate benchmark.samples=0 => benchmark.samples is 1 or more
evaluate student.modle=x => did you mean student.model?
train exam=full => exam=full has a new name: write benchmark=full
train exam.problems=4 => write benchmark.problems=4
train +exam.problems=4 => write +benchmark.problems=4
train judge.teacher=false => write baselines.teacher=false
train student.hard_rows=all => write student.unmatched=all
train -m student.hard_rows=all,none => write student.unmatched=all,none
train teacher=ollama teacher.max_hard=0.5 => write teacher.max_unmatched=0.5
train data.collector.teacher.max_hard=0.5 => write data.collector.teacher.max_unmatched=0.5
train callback=exam => write callback=benchmark
train callback=exam_early => write callback=benchmark_early
train -m callback=default,exam => write callback=default,benchmark
train callback=benchmark callback.exam.exam.problems=3 => write callback.benchmark.benchmark.problems=3
evaluate exam.samples=4 => write benchmark.samples=4
evaluate exam/dataset@exam=aime => write benchmark/dataset@benchmark=aime
evaluate generator=ollama generator.max_hard=1 => write generator.max_unmatched=1
evaluate yardstick run=x => yardstick has a new name: write perplexity
evaluate perplexity => give one of run=RUN, store=STORE and text=FILE
evaluate perplexity run=nowhere => run=nowhere is not a training run
evaluate perplexity store=nowhere student.model=tiny => nowhere is not a trace store
evaluate perplexity text=nowhere.txt student.model=tiny => there is no file or folder at nowhere.txt
evaluate perplexity text=3 => text is text
evaluate perplexity store=a text=b => give one of
evaluate perplexity window=long => window is a whole number
evaluate harness => tasks has no value yet
evaluate harness tasks=gsm8k => tasks is a list of texts such as [a,b];'gsm8k'
evaluate harness tasks=[gsm8k] limit=few => limit is a whole number or null
evaluate harness shot=3 => shots
evaluate compare => required: A, B
evaluate compare a => required: B
evaluate compare a b => a holds no answers.jsonl
evaluate compare a b c => unrecognized arguments: c
evaluate compare a b page=maybe => page is true
export => give run=RUN
export run=nowhere => run=nowhere is not a finished training run
export run=nowhere format=safetensors => nowhere
export run=~/x => write run=/
export formt=hf => did you mean format
export --run x => run=...
export run=3 => run is text or null
report => nothing to report on
report run=nowhere => nowhere
report sweep=nowhere => nowhere
report traces=nowhere => nowhere is not a trace store
report sweep=a run=b => two pages
report sweep=a traces=b => two pages
report run=a limit=3 => traces=PATH only
report traces=nowhere limit=x => limit is a whole number
report swep=x => did you mean sweep
store => required: COMMAND
store foo => invalid choice: 'foo'
store verify => required: path
store verify nowhere => nowhere is not a trace store
store verify kept.txt => kept.txt
store repair nowhere => nowhere
store inspect nowhere => nowhere is not a trace store
store inspect nowhere --topk many => invalid float value: 'many'
store inspect nowhere --bucket 80 => expected 2 arguments
store merge a b => required: -o/--out
store merge nowhere -o x => nowhere is not a trace store
store export nowhere -o x => nowhere is not a trace store
store import nowhere.json -o x --tokenizer tiny --vocab ten --teacher x => invalid int value: 'ten'
store import nowhere.json -o x --tokenizer tiny --vocab 10 --teacher x => nowhere.json
"""
ROWS = [line.split(" => ") for line in TABLE.strip().splitlines()]


def call(words: str, monkeypatch) -> int | str | None:
    """The door as `python -m` runs it, in this process. -> its exit code."""
    door, *rest = shlex.split(words)
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", [f"ekd/{door}.py", *rest])
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it was not refused: work began"))
    signal.alarm(15)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"ekd.{door}", run_name="__main__")
    signal.alarm(0)
    return end.value.code


def test_the_table_holds_two_hundred():
    assert len({words for words, _ in ROWS}) >= 200


@pytest.mark.parametrize(("words", "said"), ROWS, ids=[words for words, _ in ROWS])
def test_a_mistake_is_one_sentence_and_leaves_nothing(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("kept.txt").write_text("mine")
    assert call(words, monkeypatch) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    for part in said.split(";"):
        assert part in lines[0]
    assert [p.name for p in Path().rglob("*")] == ["kept.txt"] and Path("kept.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "words", ["train lr=1", "trace teacher=olama", "evaluate run=nowhere", "export", "store verify nowhere"]
)
def test_the_same_from_a_shell(words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", *f"ekd.{words}".split()],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert not list(tmp_path.iterdir())


def test_every_flag_of_the_original_is_known():
    text = (ROOT / "docs" / "original.md").read_text()
    flags = {flag for line in text.splitlines() for flag in re.findall(r"--[a-z][\w-]+", line.split(" | ")[0])}
    assert len(flags) > 40 and not [flag for flag in flags if here(flag) is None]
    assert all(place.strip() for place in FAMOUS.values())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "x", "/full/file"), "the disk is full at /full/file"),
        (OSError(errno.EROFS, "x", "/cd"), "the disk at /cd is read-only"),
        (PermissionError(errno.EACCES, "x", "/root"), "no permission at /root"),
        (NotADirectoryError(errno.ENOTDIR, "x", "/a/b"), "a file is where a folder is wanted at /a/b"),
        (OSError(errno.EIO, "x", "/usb"), "cannot be read or written at /usb"),
        (OSError(errno.ENOLINK, "strange", "/x"), "the system says strange at /x"),
        (RuntimeError("Error(s) in loading state_dict for Student:\n\tsize mismatch for a"), "size mismatch for a"),
        (RuntimeError("PytorchStreamReader failed reading zip archive"), "damaged or cut short"),
        (RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos"), "the disk is full"),
        (RuntimeError("value cannot be converted to type float without overflow"), "smaller student.optimizer.lr"),
        (EOFError(), "damaged or cut short"),
        (ModuleNotFoundError("No module named 'lm_eval'", name="lm_eval"), "pip install lm-eval"),
    ],
)
def test_kinds_of_the_world(error, said):
    assert said in str(sentence(error)) and "\n" not in str(sentence(error))


def test_a_library_s_own_refusals_are_known_by_where_they_are():
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from safetensors import SafetensorError

    assert sentence(MisconfigurationException("two\nlines")) == "two lines"
    assert "damaged" in str(sentence(SafetensorError("header")))
    for name in SENTENCES:  # a name that no class has would never be met
        module, _, kind = name.rpartition(".")
        if module not in ("safetensors._safetensors_rust", "wandb.errors.errors"):
            __import__(module)
            assert isinstance(vars(sys.modules[module])[kind], type), name


@pytest.mark.parametrize("defect", [KeyError("x"), TypeError("x"), RuntimeError("shape"), AttributeError("x")])
def test_a_defect_of_ours_is_no_sentence(defect):
    assert sentence(defect) is None


def test_a_percent_below_one_is_taken_where_it_is_written_so():
    from omegaconf import OmegaConf

    from ekd.cli.command import settle

    config = settle(OmegaConf.create({"selector": {"k_percent": "0.2%", "lower": 70}, "run": "~/x"}))
    assert config == {"selector": {"k_percent": 0.2, "lower": 70}, "run": str(Path.home() / "x")}


def test_a_word_that_a_later_one_replaces_is_said_and_not_refused():
    from ekd.cli.command import check_command
    from ekd.cli.door import register

    register()
    notes = check_command(
        "train", ["seed=1", "seed=1", "selector=topk", "selector=bucket", "selector.lower=70", "seed=1"]
    )
    assert notes == ["selector=topk is replaced by the later selector=bucket"]
    assert check_command("train", ["-m", "seed=0,1", "seed=0"]) == ["seed=0,1 is replaced by the later seed=0"]


def test_a_secret_in_a_file_of_the_user_s_own_is_not_written(tmp_path, monkeypatch, capsys):
    """Only what is composed tells: the command line names a folder of yaml files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINE", "http://me:hunter2@host/v1")
    own = Path("own/teacher")
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("_target_: ekd.teacher.openai.OpenAI\nendpoints: ['${oc.env:MINE}']\n")
    for words in ("train --config-dir own teacher=mine", "train -m --config-dir own teacher=mine seed=1,2"):
        call(words, monkeypatch)
        said = capsys.readouterr()
        assert "teacher.endpoints" in said.err and "hunter2" not in said.err + said.out
        assert not [file for file in Path().rglob("*") if file.is_file() and b"hunter2" in file.read_bytes()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("defaults: [train, _self_]\nstudent: {optimizer: {lr: abc}}", "student.optimizer.lr is a number, not 'abc'"),
        ("seed: 3", "has no 'baselines'"),
        ("", "has no 'baselines'"),
        ("defaults: [", "a file is not YAML"),
        ("defaults: [train, selector: nothing]", "Could not find 'selector/nothing'"),
        ("[1]", "must be a DictConfig"),
    ],
)
def test_a_configuration_of_the_user_s_own_is_looked_at_before_any_work(text, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    Path("own/mine.yaml").write_text(text)
    assert call("train --config-dir own --config-name mine", monkeypatch) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0], lines
    assert not list(Path("own").glob("outputs")) and not list(Path().rglob("run.json"))


def test_a_key_of_the_environment_is_written_under_no_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_API_KEY", "plain-looking-words")
    for words in (
        "train '+callback.progress.x=${oc.env:MY_API_KEY}'",
        "train dataset=hub dataset.name=plain-looking-words",
    ):
        assert call(words, monkeypatch) == 2
        said = capsys.readouterr().err
        assert "looks like a key" in said and "plain-looking-words" not in said
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
