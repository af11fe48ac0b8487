"""Who writes the rows: a thread beside the caller, or the caller itself.

The caller decides what happens, and what it writes it can find at once; here it is put into the
database, committed, and indexed. Jobs are done in the order in which they came.
"""

import contextlib
import dataclasses
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from bmojo.errors import UserError
from bmojo.storage.database import Database
from bmojo.storage.entries import Entries

__all__ = ["Call", "Forget", "Insert", "Job", "Publish", "Source", "Touch", "WriteError", "Writer"]

WAITING = 64
"""Jobs that may wait before a caller waits for them."""
PUBLISH_ENTRIES = 8192
PUBLISH_SECONDS = 5.0
IDLE_SECONDS = 0.25


@dataclasses.dataclass(frozen=True)
class Source:
    """A source has a number."""

    number: int
    name: str


@dataclasses.dataclass(frozen=True)
class Insert:
    """Entries are written."""

    first: int
    layer: int
    entries: Entries
    source: int
    born: int
    written: float


@dataclasses.dataclass(frozen=True)
class Forget:
    """Entries are deleted."""

    ids: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Touch:
    """Entries were retrieved: id, further uses, when, strength then, the clock then."""

    rows: Sequence[tuple[int, int, float, float, int]]


@dataclasses.dataclass(frozen=True)
class Publish:
    """All before is committed; ``clock`` is the store's clock."""

    clock: int
    done: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass(frozen=True)
class Call:
    """A function of the database is called; work on indexes that was begun is given up."""

    function: Callable[[Database], None]
    done: threading.Event = dataclasses.field(default_factory=threading.Event)


Job = Source | Insert | Forget | Touch | Publish | Call


class WriteError(UserError):
    """A store cannot be written."""

    exit_code = 4


class Writer:
    """Does the jobs of a store.

    Args:
      database: which only this writer uses from now on.
      maintain: work on indexes that follows from what is published; each step of it is short.
      behind: whether so much of it waits that nothing else should be done before.
      synchronous: whether jobs are done inside of :meth:`submit` instead of in a thread; then
        nothing depends on time.

    Attributes:
      published: ids below it are committed.
    """

    def __init__(
        self,
        database: Database,
        maintain: Callable[[], Iterator[object]],
        behind: Callable[[], bool],
        synchronous: bool,
    ):
        self._database = database
        self._maintain = maintain
        self._behind = behind
        self._error: BaseException | None = None
        self._next = self.published = database.counter("next_id")
        self._clock = database.counter("clock")
        self._pending, self._since = 0, time.monotonic()
        self._work: Iterator[object] | None = None
        self._dirty, self._closing = True, False
        self._jobs: queue.Queue[Job | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        if not synchronous:
            self._thread = threading.Thread(target=self._run, name="bmojo-store", daemon=True)

    def start(self) -> None:
        """Begin: with work on indexes that is left from before, if any."""
        if self._thread is not None:
            self._thread.start()
        else:
            self._work_through()

    def submit(self, job: Job) -> None:
        """Have a job done; waits while too many wait.

        Raises:
          Exception: what has ended the thread.
        """
        self.raise_error()
        if self._thread is None:
            with self._told():
                self._do(job)
                if self._pending >= PUBLISH_ENTRIES:
                    self.commit()
            self._work_through()
            return
        while True:
            try:
                self._jobs.put(job, timeout=1.0)
                return
            except queue.Full:
                self.raise_error()

    def finish(self, job: Publish | Call) -> None:
        """Have a job done and wait for it."""
        self.submit(job)
        while not job.done.wait(0.1):
            self.raise_error()
        self.raise_error()

    def raise_error(self) -> None:
        """Raise what has ended the thread, if anything has."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread; what is not published is given up, and so is work on indexes."""
        if self._thread is not None and self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()
        self._database.close()

    def commit(self) -> None:
        """Publish what was done so far; in the thread that does it."""
        self._database.begin()
        self._database.set_counter("next_id", self._next)
        self._database.set_counter("clock", self._clock)
        self._database.commit()
        self.published = self._next
        self._pending, self._dirty = 0, True

    def _do(self, job: Job) -> None:
        if not self._pending:
            self._since = time.monotonic()
        if not isinstance(job, (Publish, Call)):
            self._database.begin()
            self._pending += 1
        match job:
            case Source(number, name):
                self._database.add_source(number, name)
            case Insert(first, layer, entries, source, born, written):
                self._database.insert(first, layer, entries, source, born, written)
                self._next = first + len(entries)
                self._clock = max(self._clock, born)
                self._pending += len(entries)
            case Forget(ids):
                self._database.forget(ids)
            case Touch(rows):
                self._database.touch(rows)
            case Publish(clock, done):
                self._clock = max(self._clock, clock)
                self.commit()
                done.set()
            case Call(function, done):
                self._work, self._dirty = None, True
                function(self._database)
                done.set()

    def _run(self) -> None:
        try:
            with self._told():
                while not self._closing:
                    self._turn()
        except BaseException as error:
            self._error = error

    def _turn(self) -> None:
        """A job, if there is one, and a step of the work, all of it if it lags."""
        if self._dirty and self._work is None:
            self._dirty, self._work = False, self._maintain()
        job = self._wait(self._work is not None)
        if job is not None:
            self._do(job)
        late = self._pending and time.monotonic() - self._since > PUBLISH_SECONDS
        if late or self._pending >= PUBLISH_ENTRIES:
            self.commit()
        while self._work is not None:
            if next(self._work, self) is self:
                self._work = None
            elif not self._behind():
                break

    def _wait(self, busy: bool) -> Job | None:
        """The next job, or None: there is none for now, or never again."""
        try:
            if busy:
                job = self._jobs.get_nowait()
            else:
                job = self._jobs.get(timeout=IDLE_SECONDS if self._pending else None)
        except queue.Empty:
            return None
        self._closing = job is None
        return job

    def _work_through(self) -> None:
        """All work on indexes, without a thread."""
        while self._dirty:
            self._dirty = False
            with self._told():
                for _ in self._maintain():
                    pass

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tell what the disk refuses."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise WriteError(
                f"{self._database.path.parent}: the store cannot be written ({error}); see to "
                "space and rights there, and to the rows with bmojo memory verify"
            ) from error
