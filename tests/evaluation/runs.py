"""Run directories as training leaves them, with known numbers."""

import json

CONFIG = """# Every binding in force, defaults included.

BMojo.num_eidetic = {slots}
BMojo.window = 32

recall/Evaluation.name = 'recall'

Optimizer.learning_rate = {rate}

Trainer.seed = {seed}
"""


def fabricate(folder, name, accuracy=0.5, slots=32, rate=0.005, seed=0, finished=True, **extra):
    """A run with accuracy ``accuracy`` for group 8, half of it for 16, 3/4 of it over all.

    ``extra`` goes into the summary; ``bits`` adds bits per byte to its rows.
    """
    run = folder / name
    run.mkdir(parents=True)
    (run / "config.gin").write_text(CONFIG.format(slots=slots, rate=rate, seed=seed))
    rows = []
    for group, share in ((8, 1.0), (16, 0.5), (None, 0.75)):
        value = accuracy * share
        row = {"evaluation": "recall", "group": group, "accuracy": value, "loss": 2 - value}
        if "bits" in extra:
            row["bits_per_byte"] = extra["bits"] - value
        rows.append({**row, "count": 64})
    lines = []
    for step in (10, 20, 30):
        lines.append({"step": step, "stage": 1 + (step > 20), "tokens": 100 * step,
                      "loss": 5 - step / 10 + seed / 10, "accuracy": step / 100})  # fmt: skip
        if step > 10:
            lines += [{"step": step, **row} for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    speed = [
        {"step": 10, "tokens_per_second": None, "seconds": 5.0},
        {"step": 20, "tokens_per_second": 100.0 + seed, "seconds": 10.0},
        {"step": 30, "tokens_per_second": 300.0 + seed, "seconds": 15.0},
    ]
    (run / "speed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in speed))
    if finished:
        summary = {
            "status": "finished", "step": 30, "tokens": 3000,
            "final": {"loss": 2 + seed / 10, "accuracy": 0.3, "grad_norm": 1.0},
            "evaluations": rows, "parameters": 147392, "state_bytes": 1000 + slots,
            "key_value_bytes": 2000, "wall_seconds": 15.0 + seed, "git_revision": "abc",
            "device": "1 x cpu (cpu)", "command": f"bmojo train x.gin --run-dir {name}",
        }  # fmt: skip
        (run / "summary.json").write_text(json.dumps({**summary, **extra}))
    return run
