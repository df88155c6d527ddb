"""On-policy by rounds: the student's own words, read by the teacher, and the same whatever was killed."""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from conftest import collector, hf
from fake_traces import fake_trace
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from test_data import data
from test_student import student

from ekd.data.mix import Mix, Stores
from ekd.data.policy import Sampling
from ekd.data.rollouts import by_outcome, of_round, sampled, share_out, turn
from ekd.data.rounds import Rounds
from ekd.loss.reverse_kl import ReverseKL
from ekd.models.checkpoint import Checkpoints
from ekd.models.generation import generate
from ekd.models.load import end_ids, load_model, load_tokenizer
from ekd.models.lora import Lora
from ekd.models.repeats import cut_repeats
from ekd.store.store import Store
from ekd.store.unsaved import Unsaved
from ekd.teacher.hf import HF
from ekd.types import Request, Trace


def rounds(**changes) -> Rounds:
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8, "batch_size": 3}
    sampling |= {name: changes.pop(name) for name in list(changes) if name in sampling}
    values = {"problems_per_round": 4, "samples": 1, "steps_per_round": 1, "staleness": 0, "stop_repeats": False}
    return Rounds(**(values | {"store": None, "sampling": Sampling(**sampling)} | changes))


def fit(
    folder: Path, source, *, steps: int = 4, ckpt=None, teacher=None, callbacks=(), every: int = 1, made=None, **changes
):
    """A training in this process. -> the student and its trainer."""
    torch.manual_seed(0)  # of adapters, which begin at random
    pupil = student(**({"loss": ReverseKL()} | changes))
    del pupil.log
    saving = ModelCheckpoint(folder / "checkpoints", filename="{step}", every_n_train_steps=every, save_top_k=-1)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, limit_val_batches=0, use_distributed_sampler=False, logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, callbacks=[saving, *callbacks],
    )  # fmt: skip
    trainer.strategy.checkpoint_io = Checkpoints({"a": "run"}, steps)
    made = made or data(source=source, collector=collector(teacher=teacher or hf(mode="score")))
    trainer.fit(pupil, made, ckpt_path=ckpt, weights_only=True)
    return pupil, trainer


def weights(pupil) -> dict[str, torch.Tensor]:
    return pupil.model.state_dict()


def same(one, two) -> bool:
    return all(torch.equal(value, weights(two)[name]) for name, value in weights(one).items())


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


class Losses(L.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *args):
        self.seen.append(float(trainer.callback_metrics["train/loss"]))


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_from_its_own_words(tmp_path):
    losses = Losses()
    plain = partial(torch.optim.SGD, lr=1e-3)  # AdamW makes a step of its own length out of any rounding error
    teacher = hf(mode="score", mass=1.0, max_k=272)
    fit(tmp_path, rounds(), model="tiny:1", teacher=teacher, callbacks=[losses], optimizer=plain)
    assert len(losses.seen) == 4 and max(map(abs, losses.seen)) < 1e-4


class Snapshots(L.Callback):
    """The weights that began each step, and those at the end."""

    def __init__(self):
        self.weights = []

    def on_train_batch_start(self, trainer, module, *args):
        self.weights.append({name: value.clone() for name, value in weights(module).items()})

    def on_train_end(self, trainer, module):
        self.on_train_batch_start(trainer, module)


@pytest.mark.parametrize("staleness", [0, 1])
def test_ten_steps_are_those_of_a_plain_loop_on_the_same_words(tmp_path, staleness):
    """transformers' model, dense teacher logits, autograd; the texts are written anew by the weights of their round.

    Each step from the run's own weights: stored rows are rounded, and ten steps would add that up.
    """
    losses, kept, sgd = Losses(), Snapshots(), partial(torch.optim.SGD, lr=0.3)
    teacher = hf(mode="score", mass=1.0, max_k=272)
    source = rounds(staleness=staleness)
    _, trainer = fit(tmp_path, source, steps=10, teacher=teacher, callbacks=[losses, kept], optimizer=sgd)
    written = by_round(tmp_path)
    assert sorted(written) == list(range(10)) and {len(some) for some in written.values()} == {4}
    plain, dense, writer = load_model("tiny"), load_model("tiny:1").eval(), load_model("tiny").eval()
    optimizer, end = sgd(plain.parameters()), end_ids(writer, load_tokenizer("tiny"))
    for number in range(10):
        writer.load_state_dict(kept.weights[max(number - staleness, 0)])
        plain.load_state_dict(kept.weights[number])
        prices, gaps = [], []
        for trace in written[number]:
            prompt, response = trace.prompt_ids.tolist(), trace.response_ids.tolist()
            chance = [seed_of(trainer, trace.key)]
            (again,) = generate(writer, [prompt], end=end, max_new_tokens=8, temperature=1.0, seeds=chance)
            assert again.ids == response
            ids, rows = torch.tensor([[*prompt, *response]]), slice(len(prompt) - 1, -1)
            q = plain(ids).logits[0, rows].log_softmax(-1)
            with torch.no_grad():
                p = dense(ids).logits[0, rows].log_softmax(-1)
                wrote = writer(ids).logits[0, rows].log_softmax(-1)
            prices.append((q.exp() * (q - p)).sum(-1))
            chosen = torch.tensor(response)[:, None]
            torch.testing.assert_close(torch.tensor(trace.log_q), wrote.gather(-1, chosen)[:, 0], atol=1e-3, rtol=0)
            gaps.append((wrote - p).gather(-1, chosen))
        loss = torch.cat(prices).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert log(tmp_path)[number]["kl"] == pytest.approx(float(torch.cat(gaps).mean()), abs=2e-3)
        assert abs(loss.item() - losses.seen[number]) < 1e-3 * (1 + losses.seen[number])
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(kept.weights[number + 1][name], value, atol=2e-4, rtol=0)


def by_round(folder: Path) -> dict[int, list[Trace]]:
    store = Store(folder / "rounds")
    written: dict[int, list[Trace]] = {}
    for trace in map(store.__getitem__, sorted(store.keys())):
        written.setdefault(int(trace.policy.partition("@")[2]), []).append(trace)
    return written


def seed_of(trainer, key: str) -> int:
    maker = trainer.train_dataloader.batch_sampler.maker
    return next(r.seed for number in range(10) for r in maker.requests(number) if r.key == key)


def test_a_text_does_not_depend_on_how_many_are_written_at_once(tmp_path):
    fit(tmp_path / "one", rounds(batch_size=1), steps=2)
    fit(tmp_path / "all", rounds(batch_size=8), steps=2)
    one, two = (Store(tmp_path / name / "rounds") for name in ("one", "all"))
    assert one.keys() == two.keys()
    assert all(one[key].response_ids.tolist() == two[key].response_ids.tolist() for key in sorted(one.keys()))


class Dies(L.Callback):
    """As a kill does: between two steps, or when the text of a round is half written."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("steps_per_round", [1, 2])
def test_a_run_that_goes_on_is_bit_for_bit_one_that_was_not_stopped(tmp_path, steps_per_round, staleness, monkeypatch):
    source = rounds(steps_per_round=steps_per_round, staleness=staleness, samples=2)
    whole, _ = fit(tmp_path / "whole", source, steps=6)
    written = []
    plain = Sampling.write
    monkeypatch.setattr(Sampling, "write", lambda *a: written.extend(r.key for r in a[3]) or plain(*a))
    with pytest.raises(SystemExit):
        fit(tmp_path / "cut", source, steps=6, callbacks=[Dies(3)], every=2)
    ckpt = tmp_path / "cut" / "checkpoints" / "step=2.ckpt"
    cut, _ = fit(tmp_path / "cut", source, steps=6, ckpt=ckpt, every=2)
    assert same(whole, cut)
    assert len(written) == len(set(written))  # no text was written twice
    drop = {"seconds_writing", "seconds_reading"}
    lines = [
        [{k: v for k, v in line.items() if k not in drop} for line in log(tmp_path / name)] for name in ("whole", "cut")
    ]
    assert str(lines[0]) == str(lines[1])  # as text: NaN is not NaN


def test_adapters_write_as_they_are_and_go_on_as_if_nothing_had_been(tmp_path):
    """LoRA: the texts are those of the model with its adapters, not of the one they sit on; dropout goes on, too."""
    pytest.importorskip("peft")
    lora = {
        "lora": Lora(r=4, alpha=64, dropout=0.3, targets="all-linear"),
        "optimizer": partial(torch.optim.Adam, lr=0.05),
    }
    kept, source = Snapshots(), rounds(temperature=0.0)
    whole, _ = fit(tmp_path / "whole", source, callbacks=[kept], **lora)
    model, bare = student(**lora).model, load_model("tiny").eval()
    model.load_state_dict(kept.weights[3])
    end, prompts = (
        end_ids(bare, load_tokenizer("tiny")),
        [t.prompt_ids.tolist() for t in by_round(tmp_path / "whole")[3]],
    )
    (wrote, without) = (
        [text.ids for p in prompts for text in generate(m.eval(), [p], end=end, max_new_tokens=8)]
        for m in (model, bare)
    )
    assert wrote == [t.response_ids.tolist() for t in by_round(tmp_path / "whole")[3]] != without
    with pytest.raises(SystemExit):
        fit(tmp_path / "cut", source, callbacks=[Dies(3)], every=2, **lora)
    cut, _ = fit(tmp_path / "cut", source, ckpt=tmp_path / "cut" / "checkpoints" / "step=2.ckpt", every=2, **lora)
    assert same(whole, cut)


def test_texts_of_weights_that_are_gone_are_asked_for_in_words(tmp_path):
    source = rounds(steps_per_round=2)
    fit(tmp_path, source, steps=4)
    for file in (tmp_path / "rounds" / "shards").glob("*"):
        file.unlink()
    (tmp_path / "rounds" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"texts of round 0 are gone from .*: go on from an older checkpoint"):
        fit(tmp_path, source, steps=4, ckpt=tmp_path / "checkpoints" / "step=1.ckpt")


def test_a_finished_run_s_rounds_are_a_store_like_any_other(tmp_path):
    fit(tmp_path / "a", rounds(), steps=3)
    losses = Losses()
    source = Stores(paths=[str(tmp_path / "a" / "rounds")], weights=None)
    fit(tmp_path / "b", source, steps=3, callbacks=[losses])
    assert len(losses.seen) == 3 and not (tmp_path / "b" / "rounds").exists()


def test_a_mix_draws_its_share_and_goes_on_as_if_nothing_had_been(tmp_path):
    source = Mix(share=0.5, rounds=rounds())
    whole, _ = fit(tmp_path / "whole", source, steps=8)
    own = len(log(tmp_path / "whole"))
    assert 0 < own < 8
    with pytest.raises(SystemExit):
        fit(tmp_path / "cut", source, steps=8, callbacks=[Dies(5)], every=2)
    cut, _ = fit(tmp_path / "cut", source, steps=8, ckpt=tmp_path / "cut" / "checkpoints" / "step=4.ckpt")
    assert same(whole, cut) and len(log(tmp_path / "cut")) == own


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"workers": 1}, "data.workers=1 would fetch batches before their round is written"),
        ({"max_tokens": 20}, r"after the longest prompt has \d+ tokens and data.max_tokens is 20"),
        ({"samples": object()}, "source=rounds writes its own texts"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(changes, why):
    made = data(source=rounds(), **changes)
    with pytest.raises(ValueError, match=why):
        made.prepare_data()


def test_too_few_texts_for_the_batches_of_a_round_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"round 0 has 1 texts for 2 batches .*raise source.problems_per_round"):
        fit(tmp_path, rounds(problems_per_round=1, steps_per_round=2))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"problems_per_round": 0}, "source.problems_per_round is 1 or more"),
        ({"staleness": 2}, "source.staleness is 0 or 1"),
        ({"samples": 2, "temperature": 0.0}, "are 2 equal texts"),
        ({"temperature": -1.0}, r"temperature is 0 \(greedy\) or more"),
    ],
)
def test_values_are_checked(changes, why):
    with pytest.raises(ValueError, match=why):
        rounds(**changes)


@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 5))
def test_every_pass_of_rounds_poses_every_problem_once(count, size, seed):
    passes = [place for number in range(3 * count) for place in turn(count, size, number, seed)]
    for at in range(0, len(passes) - count + 1, count):
        assert sorted(passes[at : at + count]) == list(range(count))


@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 3), st.integers(0, 5))
def test_a_problem_that_a_round_poses_twice_is_another_text(count, size, samples, number):
    posed = [Request(f"key {i}", f"p{i}", 0, 0, [1], None) for i in range(count)]
    some = sampled([posed[i] for i in turn(count, size, number, 0)], samples)
    keys = {request.key for request in of_round(some, number, 0, "run")}
    assert len(keys) == len(some) == size * samples


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(1, 5), st.integers(20, 200), st.booleans())
def test_texts_are_shared_out_once_each_within_the_budget(lengths, slots, budget, packing):
    batches, left = share_out(lengths, slots, budget, packing=packing)
    assert sorted([*left, *(i for batch in batches for i in batch)]) == list(range(len(lengths)))
    for batch in batches:
        sizes = [lengths[i] for i in batch]
        assert (sum(sizes) if packing else max(sizes, default=0) * len(sizes)) <= budget
    if all(length <= budget for length in lengths) and len(lengths) >= slots:
        assert all(batches)


def test_a_text_in_circles_is_cut_before_it_turns():
    assert cut_repeats([7, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]) == [7, 1, 2, 3]
    assert cut_repeats([5, 5, 5, 5, 5, 5, 5, 5, 5]) == [5]
    assert cut_repeats(list(range(40))) == list(range(40))


def test_a_teacher_that_was_killed_in_a_batch_reads_it_whole_again(tmp_path, monkeypatch):
    """Else the texts that are left would be read in other company, and rounded otherwise in the last bit."""
    source, teacher, read = rounds(problems_per_round=5, batch_size=2), hf(mode="score", batch_size=3), []
    plain = HF._score

    def watched(self, model, end, batch):
        read.append([r.key for r in batch])
        return plain(self, model, end, batch)

    monkeypatch.setattr(HF, "_score", watched)
    fit(tmp_path / "whole", source, steps=1, teacher=teacher)
    whole, add = [batch for batch in read if len(batch) > 1][-2:], Unsaved.add
    stored, left = [], 4

    def dying(self, packed):
        if len(stored) == left:
            raise KeyboardInterrupt
        stored.append(packed.about[0])
        add(self, packed)

    fit(tmp_path / "cut", source, steps=0, teacher=teacher)  # what is validated is traced before
    monkeypatch.setattr(Unsaved, "add", dying)
    with pytest.raises(SystemExit):
        fit(tmp_path / "cut", source, steps=1, teacher=teacher)
    monkeypatch.setattr(Unsaved, "add", add)
    assert set(stored) == {*whole[0], whole[1][0]}
    read.clear()
    fit(tmp_path / "cut", source, steps=1, teacher=teacher)
    assert read == [whole[1]]
    one, two = (Store(tmp_path / name / "rounds") for name in ("whole", "cut"))
    assert one.keys() == two.keys() and all(
        np.array_equal(one[key].logprobs, two[key].logprobs) for key in sorted(one.keys())
    )


def test_agreement_is_counted_by_outcome():
    """Row by row: is the token that came the row's likeliest, and was its text right?"""
    verdicts = ("correct", "wrong", "")
    some = [fake_trace(seed, rows=30)._replace(verdict=verdict) for seed, verdict in enumerate(verdicts)]
    counted = Counter()
    for trace in some[:2]:
        for row, (start, count) in enumerate(zip(np.cumsum(trace.counts) - trace.counts, trace.counts, strict=True)):
            if trace.valid[row]:
                came, *others = trace.logprobs[start : start + count]
                place = "agreed" if all(came >= other for other in others) else "parted"
                counted[f"{place}_{'right' if trace.verdict == 'correct' else 'wrong'}"] += 1
    assert len(counted) == 4
    found = by_outcome(some)
    assert found == {name: counted[name] / counted.total() for name in found}
    assert all(math.isnan(share) for share in by_outcome(some[2:]).values())
