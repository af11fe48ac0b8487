import pytest

from bmojo.data.mqar import MQARConfig
from bmojo.training.config import Evaluation, OptimizerConfig, Stage, TrainerConfig
from bmojo.training.experiment import Experiment, check
from bmojo.training.metrics import Best
from bmojo.training.run_dir import RunError
from tests.training.standin import StandInConfig


def row(step, value, name="recall", group=None, field="accuracy"):
    return {"step": step, "evaluation": name, "group": group, field: value}


def test_the_highest_accuracy_and_the_lowest_loss():
    best = Best("recall/accuracy")
    assert best.take([{"step": 1, "accuracy": 0.9}, row(2, 0.9, group=4), row(2, 0.5)])
    assert not best.take([row(4, 0.9, name="other")])
    assert not best.take([row(4, 0.5)])  # the first of equal ones stays
    assert best.take([row(6, 0.6)])
    assert not best.take([row(8, 0.55)])
    assert (best.step, best.value) == (6, 0.6)
    best = Best("a/b/loss")
    assert best.take([row(2, 3.0, "a/b", field="loss")])
    assert not best.take([row(3, None, "a/b", field="loss")])  # it was not finite
    assert not best.take([row(3, float("nan"), "a/b", field="loss")])
    assert best.take([row(4, 2.5, "a/b", field="loss")])
    assert best.step == 4
    assert not Best(None).take([row(2, 0.5)])


def test_numbers_count_as_they_are_written():
    best = Best("recall/accuracy")
    best.take([row(2, 0.12345671)])
    assert not best.take([row(4, 0.12345672)])  # the same to seven digits


@pytest.mark.parametrize("wanted", ["recall", "/accuracy", "recall/perplexity", "recall/"])
def test_what_is_no_field_is_refused(wanted):
    with pytest.raises(ValueError, match=r"Trainer.best: .* accuracy, loss, bits_per_byte"):
        TrainerConfig(best=wanted)


def test_what_is_not_measured_is_refused():
    task = MQARConfig(16, (2,), 32)

    def check_best(best, *evaluations):
        stages, trainer = (Stage(task, 1, 1),), TrainerConfig(best=best)
        check(Experiment(StandInConfig(), OptimizerConfig(), trainer, stages, evaluations))

    recall = Evaluation("recall", task)
    check_best("recall/loss", recall)
    check_best(None)
    with pytest.raises(RunError, match="no evaluation is called 'recal'; did you mean 'recall'"):
        check_best("recal/loss", recall)
    with pytest.raises(RunError, match="has no bits_per_byte; take recall/loss"):
        check_best("recall/bits_per_byte", recall)
