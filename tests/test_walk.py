"""One sample through the whole house, with every number checked where it stands."""

from __future__ import annotations

import numpy as np
import torch
from conftest import collector, hf

from ekd.data.collate import Collate
from ekd.dataset.arithmetic import Arithmetic
from ekd.loss.forward_kl import ForwardKL
from ekd.models.head import distill, head_of
from ekd.models.load import load_model, load_tokenizer
from ekd.selector.topk import TopK
from ekd.signal.teacher_entropy import TeacherEntropy


def test_one_problem_from_its_question_to_one_number(tmp_path):
    dataset = Arithmetic(seed=0, train=4, val=1, test=1, kinds=["addition"], levels=[1])
    problem = dataset.problems("train")[0]
    assert dataset.grade(problem, problem.solution).status == "correct"

    maker = collector(
        dataset=dataset, teacher=hf(mode="score", mass=1.0, max_k=272, model="tiny:1"), store=str(tmp_path / "store")
    )
    key = maker.collect("train", 1).keys[0]
    trace = maker.open()[key]  # through the store, whose logprobs are fixed-point
    words = load_tokenizer("tiny").decode(trace.response_ids)
    assert words == problem.solution + "<|im_end|>" and trace.finish == "stop"

    text = torch.tensor([[*trace.prompt_ids, *trace.response_ids]])
    first = len(trace.prompt_ids) - 1
    with torch.no_grad():
        log_p = load_model("tiny:1").eval()(text).logits[0, first:-1].double().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    np.testing.assert_allclose(trace.entropy, entropy, atol=4e-3)  # stored as half floats

    batch = Collate(272)([trace])
    weight = TopK(k_percent=20, scope="sequence")(TeacherEntropy()(batch.rows), batch.rows.sequence)
    n = len(trace.response_ids)
    assert int(weight.sum()) == -(-n // 5)
    highest = np.argsort(-trace.entropy, kind="stable")[: -(-n // 5)]
    assert set(weight.nonzero()[:, 0].tolist()) == set(highest.tolist())

    student = load_model("tiny")
    hidden = student.get_decoder()(batch.input_ids, batch.attention_mask).last_hidden_state[batch.mask]
    keep = weight > 0
    rows = batch.rows
    total, _ = distill(
        hidden[keep], head_of(student), rows.teacher_ids[keep], rows.teacher_logprobs[keep], weight[keep], ForwardKL(),
        budget_mb=1,
    )  # fmt: skip
    log_q = student(text).logits[0, first:-1].double().log_softmax(-1)
    expected = ((log_p.exp() * (log_p - log_q)).sum(-1) * weight).sum()
    assert abs(total.item() - expected.item()) < 2e-3 * expected.item()
