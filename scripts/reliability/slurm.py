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
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCHER = ROOT / "scripts" / "slurm" / "train.sbatch"
CASES = ("straight", "requeue", "preempt", "task", "supervisor", "time", "sweep")
PATIENCE = 280.0
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
CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={out}/munge.socket
CredType=cred/munge
StateSaveLocation={out}/state
SlurmdSpoolDir={out}/spool
SlurmctldPidFile={out}/slurmctld.pid
SlurmdPidFile={out}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 OverSubscribe=NO State=UP
PartitionName=high Nodes={host} PriorityTier=2 OverSubscribe=NO State=UP PreemptMode=OFF
"""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for(what, there, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not (found := there()):
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} after {seconds:.0f} s")
        time.sleep(0.2)
    return found


def call(*words) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextlib.contextmanager
def slurm(out: Path):
    """Run munged, slurmctld and slurmd of this machine; they are killed at the end."""
    for name in ("state", "spool"):
        (out / name).mkdir(parents=True, exist_ok=True)
    out.chmod(0o755)
    host, key = socket.gethostname().split(".")[0], out / "munge.key"
    ports = {"controller": free_port(), "daemon": free_port()}
    (out / "slurm.conf").write_text(CONF.format(host=host, out=out, cores=os.cpu_count(), **ports))
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    os.environ |= {"SLURM_CONF": str(out / "slurm.conf"), "SBATCH_EXPORT": "ALL"}
    own = [f"--{n}-file={out}/munge.{n}" for n in ("key", "log", "pid", "seed")]
    commands = {
        "munged": ["--foreground", "--force", f"--socket={out}/munge.socket", *own],
        "slurmctld": ["-D", "-c"],
        "slurmd": ["-D", "-N", host],
    }
    with contextlib.ExitStack() as stack:
        for name, words in commands.items():
            log = stack.enter_context(open(out / f"{name}.log", "ab"))
            command = ["/usr/sbin/" + name, *words]
            daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            stack.callback(daemon.wait)
            stack.callback(daemon.terminate)
            if name == "munged":
                wait_for("socket of munged", (out / "munge.socket").exists, 20)
        wait_for("idle node", lambda: "idle" in sinfo(), 60)
        yield


def sinfo() -> str:
    return subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout


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


def said(run: Path) -> str:
    path = run.with_name(f"{run.name}.out")
    return path.read_text(errors="replace") if path.exists() else ""


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
