"""Jobs of scripts.reliability.slurm: queue them, follow them, disturb them."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from scripts.reliability.slurm_daemons import ROOT, call, wait_for

LAUNCHER = ROOT / "scripts" / "slurm" / "train.sbatch"
SETTINGS = (
    "experiments/mqar.gin",
    "models/swa.gin",
    "runs/smoke.gin",
    "Experiment.curriculum=(@short/Stage(),)",
    "Experiment.max_steps=600",
    "Model.n_layers=1",
    "recall/MQAR.length=64",
    "recall/MQAR.num_pairs=(4,)",
    "Trainer.log_every=10",
    "Trainer.checkpoint_every=50",
    "Trainer.eval_every=300",
    "Trainer.plots=False",
)


def state(job: str) -> str:
    """The state of a job; '' once Slurm has forgotten it."""
    words = ["squeue", "-h", "-t", "all", "-o", "%T", "-j", job]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


def begin(job: str) -> None:
    """Start a requeued job without Slurm's pause of two minutes."""
    with contextlib.suppress(RuntimeError):
        if state(job) == "PENDING":
            call("scontrol", "update", f"JobId={job}", "StartTime=now")


def ended(job: str) -> bool:
    begin(job)
    return state(job) in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "")


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def submit(run: Path, tasks: int, *words, minutes: int = 30) -> str:
    """Queue the launcher; the number of the job."""
    node = ["--nodes=1", f"--ntasks-per-node={tasks}", "--gpus-per-node=0", "--cpus-per-task=1"]
    log = f"--output={run}.out"
    os.environ |= {"RUN": str(run), "VENV": "", "CACHE": str(run.parent / "cache")}
    os.environ |= {"JAX_PLATFORMS": "cpu", "RESTARTS": "3"}
    return call(
        *("sbatch", "--parsable", *node, f"--time={minutes}", "--signal=TERM@30", log),
        *("--partition=low", LAUNCHER, *SETTINGS, *words),
    )


def training(run: Path, supervisor: bool) -> int:
    """The process of a task that trains in ``run``, or its supervisor."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"train" in words and os.fsencode(run) in words and b"srun" not in words[0]:
                found.append((b"--child" not in words, int(path.parent.name)))
    return max(number for whose, number in found if whose == supervisor)


def disturb(case: str, run: Path, job: str) -> None:
    wait_for("step 150", lambda: lines(run) >= 15)
    if case == "requeue":
        call("scontrol", "requeue", job)
    elif case == "preempt":
        urgent = ["--partition=high", "--exclusive", "--wrap=sleep 5", "--output=/dev/null"]
        urgent = call("sbatch", "--parsable", *urgent)
        wait_for("end of the urgent job", lambda: state(urgent) in ("COMPLETED", ""))
    elif case in ("task", "supervisor"):
        os.kill(training(run, case == "supervisor"), signal.SIGKILL)


def said(run: Path) -> str:
    path = run.with_name(f"{run.name}.out")
    return path.read_text(errors="replace") if path.exists() else ""
