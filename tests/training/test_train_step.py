import jax
import numpy as np
import pytest
from flax import nnx

from bmojo import model as model_module
from bmojo.data.mqar import MQARConfig
from bmojo.data.pipeline import Batches
from bmojo.evaluation.recall import evaluate
from bmojo.ops.cross_entropy import blocked_cross_entropy
from bmojo.training.config import Evaluation, OptimizerConfig
from bmojo.training.optimizer import make_optimizer
from bmojo.training.parameters import count, initialize, outline, split
from bmojo.training.train_step import device_fields, make_train_step
from tests.numerics import assert_close
from tests.training.standin import VOCAB_SIZE, StandInConfig

TASK = MQARConfig(length=24, num_pairs=(1, 2, 4), vocab_size=VOCAB_SIZE)


def make():
    return StandInConfig().make(nnx.Rngs(0))


def numpy_sums(model, batch):
    """Loss, right answers and targets of each row, in float64."""
    logits = np.asarray(model(batch["inputs"])[0], np.float64)
    peak = logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(logits - peak).sum(-1)) + peak[..., 0]
    counted = batch["targets"] >= 0
    chosen = np.take_along_axis(logits, np.maximum(batch["targets"], 0)[..., None], -1)[..., 0]
    right = (logits.argmax(-1) == batch["targets"]) & counted
    return ((log_sum - chosen) * counted).sum(1), right.sum(1), counted.sum(1)


def test_a_model_is_its_structure_and_its_named_parameters():
    model = make()
    structure, parameters = split(model)
    assert set(parameters) == {
        "embedding.embedding",
        "in_proj.kernel",
        "q_proj.kernel",
        "norm.scale",
    }
    assert count(parameters) == VOCAB_SIZE * 8 + 2 * 64 + 8
    tokens = np.arange(10)[None]
    np.testing.assert_array_equal(structure.merge(parameters)(tokens)[0], model(tokens)[0])
    same_structure, shapes = outline(make)
    assert {k: v.shape for k, v in shapes.items()} == {k: v.shape for k, v in parameters.items()}
    drawn = initialize(make)
    for name in parameters:
        np.testing.assert_allclose(drawn[name], parameters[name], rtol=1e-6)
    np.testing.assert_array_equal(same_structure.merge(parameters)(tokens)[0], model(tokens)[0])


def test_step_metrics_are_means_over_counted_targets():
    structure, parameters = split(make())
    optimizer = make_optimizer(OptimizerConfig(), 10, structure.groups)
    batch = next(Batches(TASK.source(0, "train"), 8))
    losses, right, counted = numpy_sums(make(), batch)
    step = make_train_step(structure, optimizer)
    *_, metrics = step(parameters, optimizer.init(parameters), None, device_fields(batch))
    assert np.isclose(metrics["loss"], losses.sum() / counted.sum(), rtol=1e-5)
    assert np.isclose(metrics["accuracy"], right.sum() / counted.sum())


def test_a_large_vocabulary_in_blocks_takes_the_same_step(monkeypatch):
    structure, parameters = split(make())
    optimizer = make_optimizer(OptimizerConfig(clip=None), 10, structure.groups)
    batch = device_fields(next(Batches(TASK.source(0, "train"), 8)))
    calls, results = [], []

    def blocked(*args):
        calls.append(args)
        return blocked_cross_entropy(*args)

    monkeypatch.setattr(model_module, "blocked_cross_entropy", blocked)
    for whole, taken in ((VOCAB_SIZE, 0), (VOCAB_SIZE - 1, 1)):
        monkeypatch.setattr(model_module, "LOGITS_AT_ONCE", whole)
        own = jax.tree.map(lambda x: x.copy(), parameters)
        step = make_train_step(structure, optimizer)
        results.append(step(own, optimizer.init(parameters), None, dict(batch)))
        assert len(calls) == taken
    (_, first, _, metrics), (_, second, _, others) = results
    assert metrics["accuracy"] == others["accuracy"]
    assert_close(others, metrics, "float32")
    # The optimizer has seen the same gradients.
    assert_close(second, first, "float32")


def test_gradient_norm_is_that_before_clipping():
    structure, parameters = split(make())
    batch = next(Batches(TASK.source(0, "train"), 8))
    norms, sizes = [], []
    for clip in (None, 1e-3):
        optimizer = make_optimizer(OptimizerConfig(clip=clip), 10, structure.groups)
        own = jax.tree.map(lambda x: x.copy(), parameters)
        step = make_train_step(structure, optimizer)
        _, state, _, metrics = step(own, optimizer.init(parameters), None, device_fields(batch))
        norms.append(float(metrics["grad_norm"]))
        sizes.append(float(np.sqrt(sum((np.asarray(m) ** 2).sum() for m in state[1].mu.values()))))
    assert norms[0] == norms[1] > 1e-2
    np.testing.assert_allclose(sizes, [0.1 * norms[0], 0.1 * 1e-3], rtol=1e-5)


def test_targets_without_loss_have_no_gradient():
    """Changing what only uncounted positions see leaves the step as it was."""
    structure, parameters = split(make())
    optimizer = make_optimizer(OptimizerConfig(), 10, structure.groups)
    batch = next(Batches(TASK.source(0, "train"), 2))
    last = np.flatnonzero((batch["targets"] >= 0).any(0)).max()
    assert last < 23
    other = {**batch, "inputs": batch["inputs"].copy()}
    other["inputs"][:, last + 1 :] = 5
    step = make_train_step(structure, optimizer)
    results = []
    for each in (batch, other):
        own = jax.tree.map(lambda x: x.copy(), parameters)
        results.append(step(own, optimizer.init(parameters), None, device_fields(each))[3])
    assert results[0]["loss"] == results[1]["loss"]
    # The tied head gets no gradient from there; a sum over more zeros may round otherwise.
    assert np.isclose(results[0]["grad_norm"], results[1]["grad_norm"], rtol=1e-6)


def test_evaluation_is_exact_by_group():
    evaluation = Evaluation("recall", TASK, batches=3, batch_size=8, seed=4)
    model = make()
    rows = evaluate(model, [evaluation])
    batches = Batches(TASK.source(4, "test"), 8)
    taken = [next(batches) for _ in range(3)]
    losses, right, counted = (
        np.concatenate(part) for part in zip(*(numpy_sums(model, b) for b in taken), strict=True)
    )
    groups = np.concatenate([batch["group"] for batch in taken])
    assert [row["group"] for row in rows] == [1, 2, 4, None]
    for row in rows:
        chosen = np.ones(24, bool) if row["group"] is None else groups == row["group"]
        assert row["evaluation"] == "recall"
        assert row["count"] == counted[chosen].sum()
        assert row["accuracy"] == pytest.approx(right[chosen].sum() / counted[chosen].sum())
        assert row["loss"] == pytest.approx(losses[chosen].sum() / counted[chosen].sum(), rel=1e-5)
