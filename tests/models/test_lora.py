"""A LoRA student: only adapters move, the loss is the distillation loss, and what is saved is what was trained."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import hf, traces
from test_data import data
from test_student import student
from torch.utils._python_dispatch import TorchDispatchMode

from ekd.data.collate import Collate
from ekd.distill.student import Student
from ekd.models.checkpoint import Checkpoints
from ekd.models.head import head_of
from ekd.models.load import load_model
from ekd.models.lora import Lora
from ekd.selector.topk import TopK

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")


def lora(**changes) -> Lora:
    return Lora(**({"r": 4, "alpha": 8, "dropout": 0.0, "targets": "all-linear"} | changes))


def batches():
    made = traces(12, teacher=hf(mode="score"))
    return [Collate(272)(made[i : i + 3]) for i in range(0, 12, 3)]


def fit(module: Student, steps: int, folder: Path, ckpt: Path | None = None, callbacks=()) -> None:
    if "log" in vars(module):
        del module.log
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder, limit_val_batches=0,
        callbacks=list(callbacks),
    )  # fmt: skip
    trainer.strategy.checkpoint_io = Checkpoints({"seed": 0}, steps)
    trainer.fit(module, data(max_tokens=300), ckpt_path=ckpt, weights_only=True)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
def test_the_first_loss_is_that_of_the_student_without_adapters(targets):
    batch, topk = batches()[0], TopK(k_percent=40, scope="sequence")
    plain, adapted = student(selector=topk), student(selector=topk, lora=lora(targets=targets))
    expected = plain.training_step(batch, 0)
    loss = adapted.training_step(batch, 0)
    assert loss > 1  # not the loss of nothing
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-6)
    assert "lm_head" not in targets or len(head_of(adapted.model).adapters) == 1


def test_the_adapters_gradients_are_those_of_the_dense_loss():
    batch = Collate(272)(traces(4, teacher=hf(mass=1.0, max_k=272)))
    ours, plain = student(lora=lora(targets=["v_proj", "lm_head"])), student(lora=lora(targets=["v_proj", "lm_head"]))
    plain.model.load_state_dict(ours.model.state_dict())
    p = student(model="tiny:1").model(batch.input_ids).logits[batch.mask].log_softmax(-1).detach()
    q = plain.model(batch.input_ids).logits[batch.mask].log_softmax(-1)
    ((p.exp() * (p - q)).sum()).backward()
    ours.training_step(batch, 0).backward()
    moved = {name for name, parameter in ours.model.named_parameters() if parameter.grad is not None}
    assert moved and all("lora_" in name for name in moved)
    for name in moved:
        a, b = ours.model.get_parameter(name).grad, plain.model.get_parameter(name).grad
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


class Shapes(TorchDispatchMode):
    """Notes the shape of every tensor that is newly made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {a.untyped_storage()._cdata for a in args if isinstance(a, torch.Tensor)}
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in known:
                self.seen.add(tuple(tensor.shape))
        return out


def test_no_gradient_of_the_heads_weight_is_made():
    for adapters, expected in ((lora(), False), (None, True)):
        module, batch = student(lora=adapters), batches()[0]
        with Shapes() as shapes:
            module.training_step(batch, 0).backward()
        assert ((272, 32) in shapes.seen) == expected


def test_training_moves_the_adapters_and_nothing_else_and_learns(tmp_path):
    torch.manual_seed(0)  # of the adapters
    module = student(lora=lora(), optimizer=partial(torch.optim.AdamW, lr=1e-2))
    before = module.training_step(batches()[0], 0).item()
    fit(module, 12, tmp_path)
    assert module.training_step(batches()[0], 0).item() < 0.99 * before
    fresh = load_model("tiny").state_dict()
    for name, parameter in module.model.named_parameters():
        if "lora_" in name:
            assert "lora_B" not in name or parameter.abs().max() > 0
        else:
            assert torch.equal(parameter, fresh[name.replace(".base_layer", "")])


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
def test_the_saved_student_is_plain_and_equals_the_trained_one(tmp_path, targets):
    module = student(lora=lora(targets=targets))
    fit(module, 4, tmp_path)
    module.save(tmp_path / "student")
    assert (tmp_path / "student" / "adapter" / "adapter_model.safetensors").exists()
    saved, ids = load_model(str(tmp_path / "student")), batches()[0].input_ids
    assert not any("lora_" in name for name, _ in saved.named_parameters())
    module.model.eval()
    torch.testing.assert_close(saved.eval()(ids).logits, module.model(ids).logits, atol=1e-4, rtol=1e-4)


class Save(L.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.path)


def test_a_resumed_run_equals_an_uninterrupted_one_and_its_checkpoint_holds_no_frozen_weight(tmp_path):
    ckpt = tmp_path / "two.ckpt"
    whole = student(lora=lora())
    fit(whole, 4, tmp_path, callbacks=[Save(ckpt)])
    names = torch.load(ckpt, weights_only=True)["state_dict"]
    assert all("lora_" in n or not n.startswith("model.") for n in names) and any("lora_" in n for n in names)
    rest = student(lora=lora())  # starts with other random adapters: the checkpoint's must replace them
    fit(rest, 4, tmp_path, ckpt)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(rest.model.state_dict()[name], value, atol=0, rtol=0)


def test_a_run_may_start_with_the_adapters_of_another(tmp_path):
    ckpt = tmp_path / "two.ckpt"
    fit(student(lora=lora()), 2, tmp_path, callbacks=[Save(ckpt)])
    learned = torch.load(ckpt, weights_only=True)["state_dict"]
    begun = student(lora=lora(), start=str(ckpt))
    weights = {f"model.{name}": value for name, value in begun.model.state_dict().items()}
    assert all(torch.equal(weights[name], value) for name, value in learned.items() if name.startswith("model."))
    assert begun.start["file"] == str(ckpt)
    with pytest.raises(ValueError, match=r"two\.ckpt does not hold the weights of tiny"):
        student(lora=lora(r=2), start=str(ckpt))
    with pytest.raises(ValueError, match=r"two\.ckpt does not hold the weights of tiny"):
        student(start=str(ckpt))


def test_gradient_checkpointing_changes_no_gradient():
    batch = batches()[0]
    plain, again = student(), student(gradient_checkpointing=True)
    plain.training_step(batch, 0).backward()
    again.training_step(batch, 0).backward()
    assert again.model.is_gradient_checkpointing
    for a, b in zip(plain.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)
    adapted = student(gradient_checkpointing=True, lora=lora())
    adapted.training_step(batch, 0).backward()
    assert any(p.grad is not None for p in adapted.model.parameters())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lora": {"r": 0}}, "r is 1 or more"),
        ({"lora": {"dropout": 1.0}}, "dropout 0 to 1"),
        ({"lora": {"targets": ["nothing"]}}, "targets=.'nothing'."),
        ({"quantize": "4bit"}, "student=qlora"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(wrong, said):
    with pytest.raises(ValueError, match=said):
        student(**{k: lora(**v) if k == "lora" else v for k, v in wrong.items()})


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is not None and torch.cuda.is_available(), reason="here it can be loaded"
)
def test_quantised_weights_where_they_cannot_be_had_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match="needs the package bitsandbytes and a CUDA GPU"):
        student(quantize="4bit", lora=lora())


def drawn(seed: int, before: int) -> torch.Tensor:
    torch.manual_seed(seed)
    torch.rand(before)
    model = load_model("tiny")
    state = torch.get_rng_state()
    lora().attach(model)
    assert torch.equal(torch.get_rng_state(), state) and torch.initial_seed() == seed
    return torch.cat([weight.flatten() for name, weight in model.named_parameters() if "lora_A" in name])


def test_adapters_are_the_seeds_whatever_was_drawn_before():
    """On an empty cache a model is converted and a teacher loaded first: the student must be that of a full cache."""
    first = drawn(3, before=0)
    assert torch.equal(first, drawn(3, before=1000)) and not torch.equal(first, drawn(4, before=0))
