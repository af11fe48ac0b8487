"""Preparation of text: a corpus becomes shards of tokens, once.

The corpus is cut into jobs by size alone. A job makes at most one shard of each split and ends
by writing a note; without its note it is done again. So the work can be interrupted anywhere, and
the result does not depend on the number of processes.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bmojo.console import line, make_console, progress_bar
from bmojo.data.text.corpus import SPLITS, Corpus, Part, open_corpus, printable, texts
from bmojo.data.text.store import (
    BLOCK,
    FORMAT,
    MANIFEST,
    PLAN,
    Prepared,
    ShardWriter,
    json_bytes,
    manifest_hash,
    open_prepared,
    token_dtype,
)
from bmojo.data.text.tokenizers import Tokenizer, save_tokenizer, tokenizer
from bmojo.errors import UserError
from bmojo.files import file_lock, sha256, write_atomically

__all__ = ["Request", "cores", "lock", "prepare"]

LOCK = ".lock"
NOTES = "job-*.json"
UNFINISHED = (NOTES, "*.array_record", "*.documents.npy", ".*.tmp", PLAN)
JOB_BYTES = (4 * 2**20, 64 * 2**20)
"""Smallest and largest size of a job; in between, a corpus is cut into 64."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A request to prepare text.

    Attributes:
      source: a file, a folder, 'stdlib', or 'hf:NAME[:CONFIG][:SPLIT]'.
      tokenizer: its spec.
      validation: fraction of the documents for the validation split, chosen by a checksum of
        their text, so that equal documents are never in two splits. Where so few documents leave
        a split empty, this fraction of each of them, at its end.
      test: the same for the test split.
      by_folder: take subfolders train, validation and test as the splits; None: if they are there.
      field: of JSON objects, column of tables.
      suffixes: of files in a folder; None: .txt, .jsonl, .parquet.
      skip_corrupt: leave out unreadable documents, instead of stopping at the first.
    """

    source: str
    tokenizer: str = "bytes"
    validation: float = 0.01
    test: float = 0.01
    by_folder: bool | None = None
    field: str = "text"
    suffixes: tuple[str, ...] | None = None
    skip_corrupt: bool = False

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise UserError(f"--{name}: {value} is not a fraction; give one from 0 to below 1")
        if self.validation + self.test >= 1:
            raise UserError("--validation, --test: nothing is left to train on; lower them")


def prepare(
    request: Request,
    out: str | Path,
    workers: int = 1,
    console: Console | None = None,
    wait: bool = False,
) -> Prepared:
    """Prepare text, or go on preparing it, or find that all is done.

    Args:
      request: the source and its treatment.
      out: the directory to make.
      workers: processes; with one, no other is started.
      console: where to show progress; None: nowhere.
      wait: if another process prepares the same, wait for it instead of failing.

    Raises:
      UserError: something cannot be read or written, or ``out`` holds something else.
    """
    out = Path(out).expanduser()
    str(out).encode()  # libraries below take no other names
    console = console or make_console(quiet=True)
    coder = tokenizer(request.tokenizer)
    corpus = open_corpus(request.source, request.suffixes, request.by_folder)
    plan = _plan(request, corpus, coder)
    if cut := _leaves_a_split_empty(request, corpus):
        plan["cut"] = True
        line(console, "few documents: each is cut, and its end goes to validation and test")
    _refuse_other_files(out)
    with lock(out, wait, console):
        new = _write_plan(out, plan, console)
        try:
            if (out / MANIFEST).exists():
                open_prepared(out).check()
                _clear(out, NOTES)
                line(console, f"{out}: is prepared already")
            else:
                _clear(out, ".*.tmp")
                jobs = [_Job(n, *job, out, request, cut) for n, job in enumerate(_jobs(corpus))]
                _work(jobs, workers, console)
                _finish(out, request, corpus, coder, jobs)
        except UserError:
            if new and not any(out.glob(NOTES)):  # no job is done
                _clear(out, *UNFINISHED, LOCK)
                with contextlib.suppress(OSError):  # something else is there
                    out.rmdir()
            raise
    return open_prepared(out)


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _plan(request: Request, corpus: Corpus, coder: Tokenizer) -> dict[str, Any]:
    """All that the result depends on; jobs done without skip_corrupt met no corrupt document."""
    divided = "" in corpus.parts
    return {
        "format": FORMAT,
        "source": _source_name(request, corpus),
        "files": corpus.digest,
        "tokenizer": coder.spec.partition(":")[0],
        "tokenizer sha256": coder.fingerprint,
        "field": request.field,
        "validation": request.validation if divided else "by folder",
        "test": request.test if divided else "by folder",
    }


def _leaves_a_split_empty(request: Request, corpus: Corpus) -> bool:
    """Whether the checksums of the documents leave a split empty that is to have some."""
    missing = {"train", *(name for name in SPLITS[1:] if getattr(request, name))}
    for document in texts(corpus.parts.get("", ()), request.field, []):
        missing.discard(_split_of(document, request))
        if not missing:
            return False
    return "" in corpus.parts


def _source_name(request: Request, corpus: Corpus) -> str:
    """The source without the way to it, which differs between machines."""
    if request.source == "stdlib" or request.source.startswith("hf:"):
        return corpus.source
    return printable(Path(request.source).expanduser().resolve().name)


def _jobs(corpus: Corpus) -> Iterator[tuple[str, tuple[Part, ...]]]:
    """Neighbouring parts of one split, of about the same size together."""
    total = sum(part.size for parts in corpus.parts.values() for part in parts)
    wanted = min(max(total // 64, JOB_BYTES[0]), JOB_BYTES[1])
    for split, parts in corpus.parts.items():
        job: list[Part] = []
        size = 0
        for part in parts:
            job.append(part)
            size += part.size
            if size >= wanted:
                yield split, tuple(job)
                job, size = [], 0
        if job:
            yield split, tuple(job)


@contextlib.contextmanager
def lock(out: Path, wait: bool, console: Console) -> Iterator[None]:
    """Make the directory and keep every other process out of it, or wait for that."""
    with contextlib.ExitStack() as stack:
        blocked = False
        while True:
            try:
                out.mkdir(parents=True, exist_ok=True)
                stack.enter_context(file_lock(out / LOCK, wait=blocked))
                break
            except BlockingIOError:
                if not wait:
                    raise UserError(
                        f"{out}: another process prepares text here; wait for it, or choose "
                        "another directory with --out"
                    ) from None
                line(console, f"{out}: waiting for another process to prepare it")
                blocked = True
            except FileNotFoundError:
                continue  # the other process has removed the directory
            except OSError as error:
                raise UserError(
                    f"{out}: the directory cannot be written ({error.strerror}); choose another"
                ) from None
        yield


def _refuse_other_files(out: Path) -> None:
    """Leave a directory alone that holds files and no prepared text."""
    prepared = not out.is_dir() or (out / PLAN).exists()
    others = [] if prepared else sorted(p.name for p in out.iterdir() if p.name[0] != ".")
    if others:
        raise UserError(
            f"{out}: holds {others[0]!r} and no prepared text; choose a new directory with --out"
        )


def _write_plan(out: Path, plan: dict[str, Any], console: Console) -> bool:
    """Write the plan, or compare it with that in the directory; whether it was written."""
    file = out / PLAN
    if file.exists():
        try:
            found = dict(json.loads(file.read_bytes()))
        except (ValueError, TypeError):
            message = f"{file}: not readable; delete {out} and prepare the text again"
            raise UserError(message) from None
        changed = next((n for n in [*plan, *found] if found.get(n) != plan.get(n)), None)
        if changed is None:
            return False
        if {**found, "files": plan["files"]} != plan or (out / MANIFEST).exists():
            change = f"{changed} is {found.get(changed)!r} there and {plan.get(changed)!r} now"
            if changed == "files":
                change = "its files have changed since"
            raise UserError(
                f"{out}: holds other text ({change}); choose another directory with --out, or "
                "delete this one"
            )
        begun = "the files have changed since the work was interrupted; it begins anew"
        line(console, f"{out}: {begun}")
        _clear(out, *UNFINISHED)
    write_atomically(file, json_bytes(plan))
    return True


@dataclasses.dataclass(frozen=True)
class _Job:
    """Parts that go into shards of one number."""

    number: int
    split: str
    parts: tuple[Part, ...]
    out: Path
    request: Request
    cut: bool

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def note(self) -> Path:
        """The file that says that the job is done."""
        return self.out / f"job-{self.number:05}.json"

    def done(self) -> bool:
        """Whether it was done before and its files are there."""
        try:
            note = json.loads(self.note.read_bytes())
            if note["sha256"] != manifest_hash(note):
                return False
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False
        shards = note["shards"].values()
        files = [(self.out / f["file"], f["size"]) for s in shards for f in (s, s["index"])]
        return all(path.is_file() and path.stat().st_size == size for path, size in files)

    def run(self) -> None:
        """Write the shards, then the note."""
        coder = _tokenizer(self.request.tokenizer)
        writers: dict[str, ShardWriter] = {}
        skipped: list[str] = []
        kept = skipped if self.request.skip_corrupt else None
        for document in texts(self.parts, self.request.field, kept):
            for split, start, stop in self.divide(document):
                if split not in writers:
                    writers[split] = ShardWriter(self.out / f"{split}-{self.number:05}", coder)
                writers[split].add(document, start, stop)
        shards = {split: writers[split].close() for split in SPLITS if split in writers}
        note = {"shards": shards, "skipped": skipped}
        write_atomically(self.note, json_bytes({**note, "sha256": manifest_hash(note)}))

    def divide(self, document: str) -> list[tuple[str, int, int]]:
        """Splits, and the characters of each: the whole document in one, or a cut one in all."""
        end = len(document)
        sizes = [math.ceil(end * getattr(self.request, name)) for name in SPLITS[1:]]
        if self.split or not self.cut or sum(sizes) >= end:
            return [(self.split or _split_of(document, self.request), 0, end)]
        places = [0, end - sum(sizes), end - sizes[1], end]
        return [cut for cut in zip(SPLITS, places, places[1:], strict=False) if cut[1] < cut[2]]


@functools.cache
def _tokenizer(spec: str) -> Tokenizer:
    """A tokenizer, made once in each process that works on jobs."""
    return tokenizer(spec)


def _split_of(text: str, request: Request) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(text), 2**20):
        digest.update(text[start : start + 2**20].encode())
    checksum = int.from_bytes(digest.digest()[:8]) / 2**64
    if checksum < request.test:
        return "test"
    return "validation" if checksum < request.test + request.validation else "train"


def _work(jobs: Sequence[_Job], workers: int, console: Console) -> None:
    """Do the jobs that are not done, here or in other processes, and show the progress."""
    total = sum(job.size for job in jobs)
    todo = [job for job in jobs if not job.done()]
    if len(todo) < len(jobs):
        line(console, f"going on, {len(jobs) - len(todo)} of {len(jobs)} jobs are done")
    line(console, f"preparing {total / 1e6:,.1f} MB of text")
    with progress_bar("preparing text, bytes", total) as advance:
        advance(total - sum(job.size for job in todo))
        for job in _run_all(todo, workers):
            advance(job.size)


def _run_all(todo: Sequence[_Job], workers: int) -> Iterator[_Job]:
    """Run jobs, and give each when it is done."""
    if workers == 1:
        _tokenizer.cache_clear()  # its file may have changed since
        for job in todo:
            job.run()
            yield job
        return
    os.environ["PYTHONSAFEPATH"] = "1"  # or a random.py of this folder would be the library's
    # Forking a process in which JAX runs threads can hang.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker)
    try:
        waiting = {pool.submit(job.run): job for job in todo}
        for future in concurrent.futures.as_completed(waiting):
            future.result()
            yield waiting[future]
    except concurrent.futures.BrokenExecutor:
        raise UserError(
            "a worker was killed, perhaps for want of memory; the same command goes on, "
            "with fewer --workers if need be"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with(parent: Any) -> None:
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=end_with, args=(parent,), daemon=True).start()


def _finish(
    out: Path, request: Request, corpus: Corpus, coder: Tokenizer, jobs: Sequence[_Job]
) -> None:
    """Gather the notes of the jobs into the manifest."""
    notes = [json.loads(job.note.read_bytes()) for job in jobs]
    splits: dict[str, Any] = {}
    for split in SPLITS:
        shards = [note["shards"][split] for note in notes if split in note["shards"]]
        counts = {n: sum(shard[n] for shard in shards) for n in ("documents", "tokens", "bytes")}
        splits[split] = {**counts, "shards": shards}
    skipped = [line for note in notes for line in note["skipped"]]
    if not splits["train"]["tokens"]:
        reason = f"{len(skipped)} documents were skipped" if skipped else "its documents are empty"
        for job in jobs:
            job.note.unlink(missing_ok=True)
        raise UserError(f"{request.source}: no text to train on ({reason}); give more text")
    if skipped:
        write_atomically(out / "skipped.txt", "".join(f"{line}\n" for line in skipped).encode())
    spec = save_tokenizer(coder, out)
    file = coder.spec.partition(":")[2]
    if file and sha256(Path(file)) != coder.fingerprint:
        raise UserError(f"{file}: changed meanwhile; delete {out} and prepare the text again")
    manifest = {
        "format": FORMAT,
        "source": _source_name(request, corpus),
        "tokenizer": {
            "spec": spec,
            "fingerprint": coder.fingerprint,
            "vocab_size": coder.vocab_size,
            "eos": coder.eos,
        },
        "tokens": token_dtype(coder.vocab_size),
        "block": BLOCK,
        "skipped": len(skipped),
        "splits": splits,
    }
    manifest["sha256"] = manifest_hash(manifest)
    write_atomically(out / MANIFEST, json_bytes(manifest))
    _clear(out, NOTES)


def _clear(out: Path, *patterns: str) -> None:
    for path in itertools.chain.from_iterable(map(out.glob, patterns)):
        path.unlink()
