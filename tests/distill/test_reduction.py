"""The step as it is trained: what divides it, when it is taken, at what rate, and what stops it."""

from __future__ import annotations

import math
from functools import partial

import lightning as L
import pytest
import torch
from conftest import hf, traces
from test_student import student
from test_train import ekd, place, rows, train  # noqa: F401 (place is a fixture)

from ekd.data.batch_sampler import Batches
from ekd.data.collate import Collate
from ekd.distill.guard import check_step
from ekd.distill.schedule import set_rate, spread
from ekd.distill.student import Student
from ekd.selector.sampled import Sampled
from ekd.selector.vanilla import Vanilla
from ekd.signal.kl import KL
from ekd.types import Batch, Importance, Selector

TINY = ["experiment=tiny", "benchmark.problems=0"]


class Still(torch.optim.SGD):
    """Keeps each step's gradient as an optimizer sees it, and does not move."""

    def step(self, closure):
        closure()
        self.seen.append(torch.cat([p.grad.flatten() for g in self.param_groups for p in g["params"]]).double())


def trained(selector: Selector, batch: Batch, steps: int, accumulate: int = 1) -> tuple[torch.Tensor, list[float]]:
    """Gradients (steps, parameters) and losses of a student that stands still, through Lightning and its real step."""
    module: Student = student(signal=KL(), selector=selector, optimizer=partial(Still, lr=1.0))
    losses: list[float] = []
    Still.seen = []
    module.log = lambda name, value, **_: losses.append(float(value)) if name == "train/loss" else None
    trainer = quiet(max_steps=steps, accumulate_grad_batches=accumulate)
    trainer.fit(module, torch.utils.data.DataLoader([batch] * (steps * accumulate), batch_size=None))
    return torch.stack(Still.seen), losses


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_expected_step_of_corrected_sampling_is_vanillas(accumulate):
    """Drawn in proportion to the price, w_t price_t is the same for every draw: the loss has to be vanilla's each time.

    Divided by the weight that happened to be drawn, the mean of the losses would be larger (Jensen).
    """
    batch = Collate(272)(traces(3, teacher=hf(max_new_tokens=10)))
    lot = Sampled(k_percent=20, alpha=1.0, eps=1e-6, corrected=True, seed=0)
    (whole,), (price,) = trained(Vanilla(), batch, 1)
    steps, losses = trained(lot, batch, 150, accumulate)
    assert losses == pytest.approx([price] * 150, rel=1e-3)
    along = steps @ whole / (whole @ whole)  # how far each step goes in vanilla's direction
    assert float(along.mean()) == pytest.approx(1.0, abs=4 * float(along.std()) / math.sqrt(150))


@pytest.mark.parametrize(("corrected", "says"), [(True, True), (False, False)])
def test_the_selector_says_what_its_weights_are(corrected, says):
    lot = Sampled(k_percent=20, alpha=1.0, eps=1e-6, corrected=corrected, seed=0)
    assert isinstance(lot, Importance) and lot.importance is says
    assert not isinstance(Vanilla(), Importance)


def test_the_first_and_the_last_step_teach():
    for name in ("cosine", "linear", "constant_with_warmup"):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
        scheduler, rates = spread(name, optimizer, 0.1, 20), []
        for _ in range(20):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert rates[:2] == pytest.approx([0.5, 1.5]), "the middle of each step, while it rises to 2"
        assert min(rates) > 0
        set_rate(scheduler, 1.0)  # by the place, as with a budget of tokens
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1.0)


@pytest.mark.parametrize("accumulate", [1, 2, 3, 7, 50])
def test_an_epoch_is_made_of_whole_steps(accumulate):
    lengths = [20 + i % 7 for i in range(60)]
    cut = Batches(lengths, max_tokens=128, seed=0, accumulate=accumulate)
    plain = Batches(lengths, max_tokens=128, seed=0)
    assert len(cut) % accumulate == 0 and 0 <= len(cut) - len(plain) < accumulate
    assert [len(list(cut)) for _ in range(2)] == [len(cut)] * 2
    assert list(Batches(lengths, max_tokens=128, seed=0, accumulate=accumulate))[: len(plain)] == list(plain)


def test_every_step_of_a_run_has_all_its_micro_batches(place):  # noqa: F811
    """Six micro-batches a pass at most: a step of four would be cut at its end."""
    words = ["trainer.max_steps=5", "trainer.accumulate_grad_batches=4", "trainer.log_every_n_steps=1"]
    four = rows(train(place, "benchmark.problems=0", *words), "train/supervised_tokens")
    one = rows(train(place, "benchmark.problems=0", words[2], "trainer.max_steps=20"), "train/supervised_tokens")
    assert four == one[3::4]


def test_a_gradient_beyond_reason_stops_the_run_in_one_sentence(place):  # noqa: F811
    done = ekd("train", *TINY, "student.grad_limit=1e-3", cwd=place)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr.count("error: ") == 1, done.stderr
    for part in ("step 1: the gradient's norm is ", "beyond student.grad_limit=0.001", "lower student.optimizer.lr"):
        assert part in done.stderr


def test_what_there_was_before_the_bad_step_is_kept_and_named(place):  # noqa: F811
    run = place / "kept"
    words = ["callback.checkpoint.every_n_train_steps=1", "student.optimizer.lr=1e30"]
    done = ekd("train", *TINY, *words, f"hydra.run.dir={run}", cwd=place)
    assert done.returncode == 2 and "step 2: the gradient's norm is nan" in done.stderr, done.stderr
    assert f"kept: {run}/checkpoints/" in done.stderr
    assert (run / "checkpoints" / "step1.ckpt").exists() and rows(run, "val/kl")
    assert not (run / "metrics.json").exists()


def quiet(**changes) -> L.Trainer:
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", **off, **changes)


@pytest.mark.parametrize(
    ("loss", "norm", "limit", "said"),
    [
        (math.nan, 1.0, 1e4, "step 1: the loss is nan"),
        (math.inf, 1.0, None, "step 1: the loss is inf"),
        (1.0, math.inf, None, "step 1: the gradient's norm is inf"),
        (1.0, 2e4, 1e4, "student.grad_limit=null lets it pass"),
        (1.0, 2e4, None, None),
        (1.0, 1e4, 1e4, None),
    ],
)
def test_what_stops_a_step(loss, norm, limit, said):
    if said is None:
        check_step(quiet(), torch.tensor(loss), torch.tensor(norm), limit)
    else:
        with pytest.raises(ValueError, match=said):
            check_step(quiet(), torch.tensor(loss), torch.tensor(norm), limit)


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_lost_in_the_last_step_are_seen_by_the_validation():
    module = student()
    module.model.get_output_embeddings().weight.data.fill_(math.nan)
    loader = torch.utils.data.DataLoader([Collate(272)(traces(2))], batch_size=None)
    with pytest.raises(ValueError, match="after step 0 the held-out KL is nan"):
        quiet().validate(module, loader, verbose=False)


def test_a_sharp_temperature_with_reverse_kl_learns(place):  # noqa: F811
    words = ["student.temperature=0.5", "teacher.temperatures=[0.5]", "loss=reverse_kl", "trainer.max_steps=10"]
    run = train(place, "benchmark.problems=0", "trainer.log_every_n_steps=1", *words)
    losses = rows(run, "train/loss")
    assert max(losses) < 100 and losses[-1] < losses[0]
