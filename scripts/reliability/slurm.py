"""Set Slurm up on this machine, run the launcher and a sweep on it, and disturb them.

    apt-get install slurmctld slurmd slurm-client munge
    python -m scripts.reliability.slurm [CASE ...] [--out runs/reliability/slurm] [--tasks 2]

As root. The daemons have their files in OUT/slurm, listen on 127.0.0.1 and end with the script.
``scripts/slurm/train.sbatch`` trains on one node: undisturbed (straight), requeued by hand
(requeue), preempted by a job of a higher partition (preempt), with a task killed (task), with the
supervisor of a task killed (supervisor), and beyond its time (time). Each has to end finished, with
the metrics of the undisturbed run to the byte. ``bmojo sweep --slurm`` trains a sweep, of which one
job is requeued (sweep). A line for each goes to standard output and to OUT/slurm.log.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from scripts.reliability.slurm_daemons import call, slurm, wait_for
from scripts.reliability.slurm_jobs import begin, disturb, ended, said, state, submit

CASES = ("straight", "requeue", "preempt", "task", "supervisor", "time", "sweep")


def launch(case: str, out: Path, tasks: int) -> str:
    """Train with the launcher and disturb it; what came of it."""
    run, straight = out / case, out / "straight"
    more = ["Experiment.max_steps=8000"] if case == "time" else []
    job = submit(run, tasks, *more, minutes=2 if case == "time" else 30)
    if case not in ("straight", "time"):
        disturb(case, run, job)
    if case == "time":
        wait_for("end by the time limit", lambda: "saving after this step" in said(run))
        wait_for("second start", lambda: begin(job) or said(run).count("going on from step"))
        call("scancel", job)
        first, second = said(run).split("going on from step", 1)
        return f"saved and queued again; went on from step {second.split()[0]}"
    wait_for("end of the job", lambda: ended(job))
    summary = json.loads((run / "summary.json").read_text())
    same = (run / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    going = [text.split()[0] for text in said(run).split("going on from step ")[1:]]
    text = (
        f"{summary['status']}, state {state(job)}, went on from step {', '.join(going) or 'none'}"
    )
    return text + ("; metrics the same to the byte" if same else "; metrics DIFFERENT")


def sweep(out: Path) -> str:
    """Queue a sweep of two cells, requeue one job, and queue it again once all is done."""
    words = ["sweeps/smoke.gin", "Sweep.seeds=(0,)", "--out", out / "sweep"]
    command = [sys.executable, "-m", "bmojo.cli", "sweep", *words]
    queued = call(*command, "--slurm", "partition=low", "--slurm", "timeout_min=20")
    jobs = [line.rpartition(" job ")[2] for line in queued.splitlines() if ": job " in line]
    wait_for("running job", lambda: any(state(job) == "RUNNING" for job in jobs))
    call("scontrol", "requeue", next(job for job in jobs if state(job) == "RUNNING"))
    wait_for("end of the sweep", lambda: all([ended(job) for job in jobs]))
    shown = call(*command, "--list").splitlines()
    return f"{len(jobs)} jobs, one requeued; cells: {', '.join(x.split()[0] for x in shown)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", default=CASES, choices=[*CASES, []])
    parser.add_argument("--out", type=Path, default=Path("runs/reliability/slurm"))
    parser.add_argument("--tasks", type=int, default=2)
    given = parser.parse_args()
    out = given.out.absolute()
    with slurm(out / "slurm"), open(out / "slurm.log", "a", buffering=1) as log:
        for case in given.cases:
            began = time.monotonic()
            found = sweep(out) if case == "sweep" else launch(case, out, given.tasks)
            text = f"{case}: {found}; {time.monotonic() - began:.0f} s"
            print(text, flush=True)
            print(text, file=log)


if __name__ == "__main__":
    main()
