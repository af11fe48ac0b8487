"""Slurm's daemons on one machine: munged, slurmctld and slurmd, for scripts.reliability.slurm."""

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 280.0
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
