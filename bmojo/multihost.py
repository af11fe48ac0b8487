"""Several processes that train one model: their meeting, their agreement and their loss.

JAX's distributed runtime connects them; messages go through the key-value store of its
coordinator, not over the devices. The first process, the main one, owns the run directory, talks
to the user and decides what all have to agree on. JAX is imported where it is used, so that a
command line can look for a scheduler at once.
"""

import contextlib
import dataclasses
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bmojo.errors import UserError, first_line

PEER_LOST = 6  # exit code where another process of the run died or stopped
BEAT_SECONDS = 1.0
SILENT_BEATS = 12  # of an observer, after which a process that does not move is taken for dead
PARTING_SECONDS = 30  # that the main process waits for the others to leave before it
WAIT_SECONDS = 600  # that a process waits for another one that lives
MEET_SECONDS = 300  # that a process waits for the first one to listen
RESOLVE_SECONDS = 60  # that it waits for the first one's name to be known
NOTICE_SECONDS = 5  # after which it says that it waits
BEATS, FAILED, LOST = "bmojo/beat/", "bmojo/failed/", "bmojo/lost/"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How processes find each other; without any field, JAX asks the scheduler."""

    coordinator: str | None = None  # HOST:PORT of the first process
    count: int | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        if self.coordinator is None and self.count is None and self.index is None:
            return
        if self.coordinator is None or self.count is None or self.index is None:
            raise UserError(
                "--coordinator, --num-processes, --process-id: give all three, or none where a "
                "scheduler is to be asked"
            )
        host, _, port = self.coordinator.rpartition(":")
        if not (host and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 2**16):
            raise UserError(
                f"--coordinator: {self.coordinator!r} is not HOST:PORT, with a port up to 65535"
            )
        if self.count < 1:
            raise UserError(f"--num-processes: {self.count} is too small; give at least 1")
        if not 0 <= self.index < self.count:
            raise UserError(
                f"--process-id: {self.index} is not one of the {self.count} processes; give 0 to "
                f"{self.count - 1}"
            )


def detect(environment: Mapping[str, str] = os.environ) -> str | None:
    """The scheduler that started this process as one of several; None: it was started alone.

    Slurm (srun), Open MPI (mpirun), and TPU slices on GKE are known by their variables.
    """
    if _number(environment, "SLURM_STEP_NUM_TASKS") > 1 and "SLURM_PROCID" in environment:
        return "Slurm"
    if _number(environment, "OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    if "TPU_WORKER_ID" in environment and "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return "GKE"
    return None


def cluster(
    coordinator: str | None, count: int | None, index: int | None, distributed: bool | None
) -> Cluster | None:
    """What a command line says of other processes; None: there are none.

    ``distributed`` is whether to ask the scheduler; None: if it started several.
    """
    if coordinator is not None or count is not None or index is not None:
        return Cluster(coordinator, count, index)
    if distributed or (distributed is None and detect() is not None):
        return Cluster()
    return None


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdigit() else 0


class Processes:
    """All ``count`` processes of a run as the one with number ``index`` sees them."""

    def __init__(self, index: int = 0, count: int = 1):
        self.index, self.count = index, count
        self._calls = 0
        self._watch: _Watch | None = None
        if count > 1:
            self._watch = _Watch(_client(), index, count)
            self._watch.start()

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.index == 0

    def from_main(self, make: Callable[[], Any], patience: float = WAIT_SECONDS) -> Any:
        """The JSON value that ``make`` gives on the main process, or its UserError, on all.

        The others wait for ``patience`` seconds.
        """
        if self.count == 1:
            return make()
        self._calls += 1
        key = f"bmojo/call/{self._calls}"
        if self.main:
            answer: dict[str, Any] = {}
            try:
                answer["value"] = make()
            except UserError as error:
                answer["error"] = str(error)
                raise
            finally:
                _client().key_value_set(key, json.dumps(answer or {"error": "it died"}))
            return answer["value"]
        answer = json.loads(_client().blocking_key_value_get(key, round(patience * 1000)))
        if "error" in answer:
            raise UserError(answer["error"])
        return answer["value"]

    def gather(self, value: Any) -> list[Any]:
        """The JSON values that all processes give, in their order, on each of them."""
        if self.count == 1:
            return [value]
        self._calls += 1
        keys = [f"bmojo/gather/{self._calls}/{index}" for index in range(self.count)]
        _client().key_value_set(keys[self.index], json.dumps(value))
        limit = WAIT_SECONDS * 1000
        return [json.loads(_client().blocking_key_value_get(key, limit)) for key in keys]

    def meet(self, name: str) -> None:
        """Wait for all processes."""
        if self.count > 1:
            self._calls += 1
            _client().wait_at_barrier(f"bmojo/{name}/{self._calls}", WAIT_SECONDS * 1000)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Run a block on all processes; an error that ends it here ends it on the others too."""
        import jax

        try:
            yield
        except UserError as error:
            self._fail(str(error))
            raise
        except jax.errors.JaxRuntimeError:
            if self._watch is not None:  # it ends this process once it knows who has died
                time.sleep(BEAT_SECONDS * (SILENT_BEATS + 4))
            raise
        if self._watch is not None:
            self.meet("end")
            self._stop_watching()
            if self.main:  # the last one: the others need it to leave JAX's runtime
                end, everyone = time.monotonic() + PARTING_SECONDS, list(range(self.count))
                while len(_client().get_live_nodes(everyone)) > 1 and time.monotonic() < end:
                    time.sleep(0.1)
            jax.distributed.shutdown()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        self._watch = None

    def _fail(self, message: str) -> None:
        """Tell the others that this process stops, and why."""
        if self._watch is not None:
            self._stop_watching()
            _client().key_value_set(f"{FAILED}{self.index}", message, allow_overwrite=True)
            if self.main:
                time.sleep(3 * BEAT_SECONDS)  # with this process the key-value store goes


def start(cluster: Cluster | None) -> Processes:
    """Join the other processes, before anything touches a device; UserError if it cannot."""
    if cluster is None or cluster.count == 1:
        return Processes()
    import jax

    # A dead process must not end the others at once: they report which one died, then exit.
    jax.config.update("jax_enable_recoverability", True)
    jax.config.update("jax_enable_preemption_service", False)  # the loop listens to SIGTERM
    where = cluster.coordinator or "the address that the scheduler gives"
    print(f"meeting the other processes at {where}", file=sys.stderr, flush=True)
    if cluster.coordinator is not None and cluster.index:
        _reach(cluster.coordinator)
    try:
        jax.distributed.initialize(cluster.coordinator, cluster.count, cluster.index)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes cannot find each other at {where} ({first_line(error)}); see "
            "--coordinator, --num-processes and --process-id"
        ) from None
    return Processes(jax.process_index(), jax.process_count())


def _reach(address: str) -> None:
    """Wait until the first process listens; a UserError names the address and what is wrong."""
    host, _, port = address.rpartition(":")
    begin, noticed = time.monotonic(), False
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), NOTICE_SECONDS).close()
            return
        except (OSError, UnicodeError) as error:
            waited, reason = time.monotonic() - begin, getattr(error, "strerror", None) or error
            known = not isinstance(error, socket.gaierror | UnicodeError)
        if waited >= (MEET_SECONDS if known else RESOLVE_SECONDS):
            raise UserError(
                f"--coordinator {address}: no answer in {waited:.0f} s ({reason}); give host and "
                "port of the first process, and see that it runs and no firewall is between"
            )
        if not noticed and waited >= NOTICE_SECONDS:
            noticed = True
            print(f"no answer at {address} yet ({reason}); waiting", file=sys.stderr, flush=True)
        time.sleep(BEAT_SECONDS)


class _Watch(threading.Thread):
    """Reports that this process lives, and ends it when another one does not."""

    def __init__(self, client: Any, index: int, count: int):
        super().__init__(name="watch", daemon=True)
        self._client, self._index, self._count = client, index, count
        self._stopped = threading.Event()
        self._seen: dict[int, tuple[str, int]] = {}
        self._who = {index: f"pid {os.getpid()} on {socket.gethostname()}"}

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()

    def run(self) -> None:
        beat = waited = 0
        look = threading.Thread()
        found: list[str | None] = [None]

        def keep(beat: int) -> None:
            found.append(self._look(beat))

        while found[-1] is None and not self._stopped.wait(BEAT_SECONDS):
            # A frozen first process answers no call, and calls have no deadline.
            waited += 1
            if not look.is_alive():
                beat, waited = beat + 1, 0
                look = threading.Thread(target=keep, args=(beat,), daemon=True)
                look.start()
            elif waited >= SILENT_BEATS:
                found.append(self._unheard(0))
        if found[-1] is not None and not self._stopped.is_set():
            _end(found[-1])

    def _look(self, beat: int) -> str | None:
        """Report that this process lives; the sentence about one that does not, or None.

        The main process watches all others and reports a lost one to them; they watch it.
        """
        main = self._index == 0
        try:
            mine = json.dumps({"beat": beat, "who": self._who[self._index]})
            self._client.key_value_set(f"{BEATS}{self._index}", mine, allow_overwrite=True)
            beats, failed = self._others(BEATS if main else f"{BEATS}0"), self._others(FAILED)
            lost = [value for _, value in self._client.key_value_dir_get(LOST)]
        except Exception as error:  # What gRPC raises has no class of its own.
            return f"{self._called(0)} is gone ({first_line(error)})"
        if lost:
            return lost[0]
        for index, message in failed.items():
            return f"{self._called(index)} stopped: {message}"
        reason = self._silent(beats, range(1, self._count) if main else range(1))
        if main and reason is not None:
            self._client.key_value_set(f"{LOST}0", reason, allow_overwrite=True)
            time.sleep(3 * BEAT_SECONDS)  # with this process the key-value store goes
        return reason

    def _silent(self, beats: dict[int, str], expected: range) -> str | None:
        """The sentence about a process whose beat has stopped, or None."""
        for index in expected:
            text = beats.get(index, "")
            who = json.loads(text)["who"] if text else None
            if who is not None and self._who.setdefault(index, who) != who:
                return f"{self._called(index)} has died and was started again as {who}"
            before, silent = self._seen.get(index, ("", 0))
            silent = silent + 1 if text == before else 0
            self._seen[index] = (text, silent)
            if silent >= (SILENT_BEATS if text else WAIT_SECONDS / BEAT_SECONDS):
                return self._unheard(index)
        return None

    def _unheard(self, index: int) -> str:
        seconds = SILENT_BEATS * BEAT_SECONDS
        return f"{self._called(index)} has not been heard of for {seconds:.0f} s"

    def _others(self, prefix: str) -> dict[int, str]:
        pairs = self._client.key_value_dir_get(prefix)
        found = {int(key.rpartition("/")[2]): value for key, value in pairs}
        found.pop(self._index, None)
        return found

    def _called(self, index: int) -> str:
        who = f" ({self._who[index]})" if index in self._who else ""
        name = f"process {index}" if index else "the first process"
        return f"{name} of {self._count}{who}"


def _end(reason: str) -> None:
    """Leave at once: threads that wait for a dead process cannot be asked to."""
    remedy = "this process stops too, and the same command goes on from the last checkpoint"
    print(f"error: {reason}; {remedy}", file=sys.stderr, flush=True)
    os._exit(PEER_LOST)


def _client() -> Any:
    """JAX's connection to its coordinator, which has no public name."""
    from jax._src import distributed

    return distributed.global_state.client
