"""ekd's training step beside that of TRL's GKD trainer: response tokens a second and memory (docs/bench_trainers.md).

    python scripts/bench_trainers.py                              # two minutes on two quiet cores; printed
    python scripts/bench_trainers.py --shots 0 2 --texts 12 --steps 5 --precision bf16-mixed

Both train the same student from the same weights on the same token ids, all texts in one batch, by forward KL at
temperature 1 with AdamW, each in a loop and a process of its own. A step is forward, backward, clipping and optimizer,
between the callbacks at a batch's start and end; the first is not counted. The student is SmolLM2-135M without layer
15, so that it has something to learn of its teacher, the whole model. Texts are worked solutions of
experiment=tiny_student behind `--shots` solved examples.

TRL runs the teacher in every step; ekd ran it when the traces were collected. The teacher's share of TRL's step is
measured inside of it, hence three ratios: as it is, with the teacher in neither, with the same teacher in both.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from measuring import circumstances, installed, table

RATE = 1e-5
ALL_IN_ONE = 1_000_000  # tokens of a batch: more than there are
WITHOUT_15 = ",".join(str(layer) for layer in range(30) if layer != 15)
NO_TRL = (
    "TRL is not installed, so ekd stands alone here: `pip install 'ekd[bench]'`, or, beside this environment, "
    "`pip install --no-deps --target FOLDER trl==1.16.0` and PYTHONPATH=FOLDER"
)


class Watch:
    """The clock and the resident set of a process (Linux), between what a trainer says are a step's begin and end."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float, float]] = []  # seconds by the clock, of all cores, of the teacher
        self.loaded = 0.0

    def begin(self) -> None:
        if not self.steps:  # what loading took at its highest does not count
            ctypes.CDLL(None).malloc_trim(0)
            self.loaded = status_mb("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
        self.teacher = 0.0
        self.began = perf_counter(), process_time()

    def end(self) -> None:
        self.steps.append((perf_counter() - self.began[0], process_time() - self.began[1], self.teacher))

    def listen(self, teacher: Any) -> None:
        """Counts the seconds of a teacher's forward passes; its weights are in memory before the first."""

        def add(sign: int, *_: Any) -> None:
            self.teacher += sign * perf_counter()

        for weight in teacher.parameters():
            weight.sum()  # mapped from a file until somebody reads it
        teacher.register_forward_pre_hook(partial(add, -1))
        teacher.register_forward_hook(partial(add, 1))

    def figures(self) -> dict[str, float]:
        seconds, cpu, teacher = (median(column) for column in zip(*self.steps[1:], strict=True))
        memory = {"loaded": self.loaded, "peak": status_mb("VmHWM")}
        return {"seconds": seconds, "cpu": cpu, "teacher": teacher, **memory}


def status_mb(key: str) -> float:
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) / 1024


def compose(job: argparse.Namespace, *words: str) -> Any:
    import hydra

    from ekd.cli.door import CONF

    names = [f"teacher.model={job.teacher}", f"student.model={job.student}", f"student.layers={layers_of(job)}"]
    pace = [f"student.optimizer.lr={RATE}", "student.schedule=constant", "student.warmup=0"]
    data = [f"data.train_problems={job.texts}", "data.val_problems=1", f"data.max_tokens={ALL_IN_ONE}"]
    given = ["experiment=tiny_student", f"prompt.shots={job.shots[0]}"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", [*given, *names, *pace, *data, *words])


def layers_of(job: argparse.Namespace) -> str | list[int]:
    return job.layers if job.layers in ("all", "auto") else [int(layer) for layer in job.layers.split(",")]


def batch_of(job: argparse.Namespace) -> Any:
    """The one batch that everybody trains on, as ekd's loader gives it; collects what is not there."""
    from ekd.cli.door import build

    data = build(compose(job).data)
    data.prepare_data()
    data.setup("fit")
    (batch,) = data.train_dataloader()
    return batch


def ekd(job: argparse.Namespace, watch: Watch, *, words: list[str]) -> float:
    import lightning as L

    from ekd.cli.door import build

    class Steps(L.Callback):
        losses: list[float] = []  # noqa: RUF012 (one instance)

        def on_train_batch_start(self, *_: Any) -> None:
            watch.begin()

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            watch.end()
            self.losses.append(float(trainer.callback_metrics["train/loss"]))

    config, steps = compose(job, *words), Steps()
    trainer = L.Trainer(
        accelerator="cpu", precision=job.precision, max_steps=job.steps + 1, max_epochs=-1, gradient_clip_val=1.0,
        callbacks=[steps], limit_val_batches=0, logger=False, use_distributed_sampler=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(build(config.student), build(config.data))
    return steps.losses[0]


def trl(job: argparse.Namespace, watch: Watch, *, checkpointing: bool) -> float:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    from ekd.models.load import load_model, load_tokenizer

    class Steps(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.end()

    teacher, student = load_model(job.teacher), load_model(job.student, layers=layers_of(job))
    watch.listen(teacher)
    rows = examples(batch_of(job))
    with tempfile.TemporaryDirectory() as folder:
        words = GKDConfig(
            folder, lmbda=0.0, beta=0.0, per_device_train_batch_size=len(rows), max_steps=job.steps + 1,
            learning_rate=RATE, lr_scheduler_type="constant", max_grad_norm=1.0, use_cpu=True, max_length=None,
            bf16=job.precision == "bf16-mixed", gradient_checkpointing=checkpointing, logging_steps=1,
            save_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        trainer = GKDTrainer(
            student, teacher, words, train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(job.student), callbacks=[Steps()],
        )  # fmt: skip
        trainer.train()
    return float(trainer.state.log_history[0]["loss"])


def examples(batch: Any) -> list[dict[str, Any]]:
    """As TRL's collator takes ids, back from what ekd's shifted; it asks for a text, too, which it does not read."""
    found = []
    for ids, target, mask in zip(batch.input_ids, batch.target_ids, batch.mask, strict=True):
        prompt, response = ids[: int(mask.int().argmax()) + 1].tolist(), target[mask].tolist()
        own = [0] * len(prompt) + [1] * len(response)
        found.append({"prompt": "", "input_ids": prompt + response, "completion_mask": own})
    return found


# name -> its row's title, and what trains: it tells the watch when each of `job.steps + 1` steps begins and ends, and
# gives the first loss. In its own loop, for that is what its user waits for. One more trainer is one more line.
TRAINERS: dict[str, tuple[str, Callable[[argparse.Namespace, Watch], float]]] = {
    "ekd": ("**ekd**, every response row", partial(ekd, words=["selector=vanilla"])),
    "ekd_20": ("**ekd**, 20% by teacher entropy", partial(ekd, words=["selector=topk", "selector.k_percent=20"])),
    "trl": ("TRL GKD, `gradient_checkpointing=False` as in ekd", partial(trl, checkpointing=False)),
    "trl_default": ("TRL GKD, its default `gradient_checkpointing=True`", partial(trl, checkpointing=True)),
}
BESIDE = "trl"  # what ratios are to
KEPT = "On kept rows ekd's leaves out how ids that no row names differ among themselves; at 20% it is of other rows."


def prepare(job: argparse.Namespace) -> dict[str, float]:
    """The batch's size, and ekd's loss on it given every id of the teacher, which no trainer's memory is to hold."""
    import torch

    from ekd.loss.forward_kl import ForwardKL
    from ekd.models.head import distill, head_of
    from ekd.models.load import load_model
    from ekd.models.reader import response_hidden

    batch = batch_of(job)
    teacher, student = load_model(job.teacher).eval(), load_model(job.student, layers=layers_of(job)).eval()
    dense = 0.0
    with torch.inference_mode():
        read, seen = (response_hidden(model.get_decoder().__call__, batch) for model in (teacher, student))
        for part in torch.arange(len(read)).split(64):
            log_p = teacher.get_output_embeddings()(read[part]).log_softmax(1)
            target, one = batch.rows.target[part, None], torch.ones(len(part))
            # the next token comes first, and id 0 stands where it was
            ids = torch.arange(log_p.shape[1]).repeat(len(part), 1).scatter(1, target, 0)
            ids[:, :1] = target
            known = torch.cat([log_p.gather(1, ids), -torch.inf * one[:, None]], 1)  # no tail
            dense += float(distill(seen[part], head_of(student), ids, known, one, ForwardKL(), budget_mb=96)[0])
    return {"rows": len(read), "places": batch.input_ids.numel(), "loss": dense / len(read)}


def measure(job: argparse.Namespace) -> dict[str, float]:
    watch = Watch()
    return {"loss": TRAINERS[job.worker][1](job, watch)} | watch.figures()


def launch(name: str, job: argparse.Namespace, shots: int) -> dict[str, Any] | None:
    """None where it did not run; why is printed."""
    command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--shots", str(shots), "--worker", name]
    env = {**os.environ, "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    said = (done.stderr if done.returncode else done.stdout).strip().splitlines() or ["no message"]
    print(f"{name}{' did not run' if done.returncode else ''}: {said[-1]}", file=sys.stderr, flush=True)
    return None if done.returncode else json.loads(said[-1])


HEADER = [
    "trainer", "step, s", "of it the teacher, s", "of all cores, s", "response tokens a second", "/ TRL",
    "/ TRL, teacher in neither", "/ TRL, teacher in both", "peak memory, GB", "of TRL's", "beyond loading, GB",
    "first loss",
]  # fmt: skip


def lines(found: dict[str, dict[str, Any]], rows: int) -> list[list[str]]:
    made, beside = [], found.get(BESIDE)
    for name, f in found.items():
        times, of_memory = [""] * 3, ""
        if beside is not None:
            own, theirs = f["seconds"] - f["teacher"], beside["seconds"] - beside["teacher"]
            both = own + (f["teacher"] or beside["teacher"])
            pairs = [(beside["seconds"], f["seconds"]), (theirs, own), (beside["seconds"], both)]
            times = [f"**{a / b:.2f}**" for a, b in pairs]
            of_memory = f"**{f['peak'] / beside['peak']:.2f}**"
        cells = [f"{f[key]:.2f}" for key in ("seconds", "teacher", "cpu")]
        cells += [f"{rows / f['seconds']:.0f}", *times, f"{f['peak'] / 1024:.2f}", of_memory]
        made.append([TRAINERS[name][0], *cells, f"{(f['peak'] - f['loaded']) / 1024:.2f}", f"{f['loss']:.5f}"])
    return made


def report(job: argparse.Namespace, shots: int) -> bool:
    """Prints one table. -> whether everything ran"""
    if (size := launch("prepare", job, shots)) is None:
        return False
    found = {name: result for name in job.only if (result := launch(name, job, shots)) is not None}
    counts = f"{size['places']:,} places, {size['rows']:,} response rows"
    print(f"\n{job.texts} texts, {shots} examples before each: {counts}. {job.precision}, median of {job.steps}.\n")
    print(table(HEADER, lines(found, size["rows"])))
    print(f"\nekd's loss given every id of a live teacher, fp32: {size['loss']:.5f} nats a row.", end=" ")
    if BESIDE in found:
        print(f"TRL's first loss is this times {found[BESIDE]['loss'] / size['loss']:.6f}.", end=" ")
    print(KEPT, flush=True)
    return len(found) == len(job.only)


def positive(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"1 or more, not {word!r}")
    return int(word)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=positive, default=8, help="of the batch")
    parser.add_argument("--shots", type=int, nargs="+", default=[2], help="solved examples before each, a table each")
    parser.add_argument("--steps", type=positive, default=2, help="counted, after one that is not")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--teacher", default="smollm2")
    parser.add_argument("--student", default="smollm2")
    parser.add_argument("--layers", default=WITHOUT_15, help="of the student: all, auto (8) or numbers; all but 15")
    parser.add_argument("--only", nargs="+", choices=list(TRAINERS), default=["ekd", "ekd_20", "trl"])
    parser.add_argument("--worker", choices=["prepare", *TRAINERS], help=argparse.SUPPRESS)
    job = parser.parse_args()
    if job.worker:
        print("\n" + json.dumps(prepare(job) if job.worker == "prepare" else measure(job)))
        return 0
    if not installed("trl"):
        print(NO_TRL, file=sys.stderr)
        job.only = [name for name in job.only if name.startswith("ekd")]
        if not job.only:
            return 2
    print(f"`python scripts/bench_trainers.py {' '.join(sys.argv[1:])}".rstrip() + "`")
    print(circumstances("torch", "transformers", "lightning", "accelerate", "trl"))
    ran = [report(job, shots) for shots in job.shots]
    return 0 if all(ran) else 1


if __name__ == "__main__":
    sys.exit(main())
