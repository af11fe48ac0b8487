"""What TensorBoard shows of a run that was cut off and goes on."""

import collections
import struct

import pytest

from bmojo.training.metrics import AVERAGED, COUNT, MetricsWriter
from bmojo.training.run_dir import RunDir

ROW = {"evaluation": "recall", "group": None, "count": 8, "loss": 1.0, "accuracy": 0.5}


def shown(folder):
    """How often each scalar of each step is there: a start hides what is not before it."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2", reason="it is an extra")
    seen = collections.Counter()
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event, data = proto.Event.FromString(data[12 : 12 + size]), data[16 + size :]
            if event.session_log.status == proto.SessionLog.START:
                seen = collections.Counter({k: n for k, n in seen.items() if k[1] < event.step})
            seen.update((value.tag, event.step) for value in event.summary.value)
    return seen


def test_a_resumed_step_is_shown_once(tmp_path):
    run = RunDir(tmp_path)
    for begin, end in ((0, 8), (4, 6)):
        with MetricsWriter(run, begin, [], True, True) as metrics:
            for step in range(begin + 2, end + 1, 2):
                metrics.step(step, dict.fromkeys((*AVERAGED, COUNT), 2.0), 32)
                metrics.train(step, 1.0, {"stage": 1}, {"learning_rate": 0.1})
                if step == 4:
                    metrics.evaluation(4, [ROW])
            if begin:
                metrics.evaluation(begin, [ROW])
    seen = shown(tmp_path / "tensorboard")
    assert set(seen.values()) == {1}, seen
    assert {step for tag, step in seen if tag == "train/loss"} == {2, 4, 6}
    assert ("recall/accuracy/all", 4) in seen
    assert ("speed/tokens_per_second", 4) in seen
