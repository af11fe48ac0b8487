"""`bmojo generate`."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bmojo.cli.common import INTERRUPTED, Run, Step, Words, option, progress_bar
from bmojo.cli.stored import Agree, Every, Memory, MemoryDir, Nearest, ReadOnly, Threshold, memory
from bmojo.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from bmojo.generation.sampling import Sampling
    from bmojo.generation.stopping import Stop

LARGEST_BATCH = 8


def generate(
    run: Run,
    prompt: Annotated[Words, option("TEXT", "A text to continue; repeat for more.")] = None,
    file: Annotated[
        list[Path] | None, option("FILE", "A file whose text is continued; repeat for more.")
    ] = None,
    ids: Annotated[Words, option('"1 2 3"', "Token ids to continue; repeat for more.")] = None,
    max_new_tokens: Annotated[int, option("N", "Longest continuation, in tokens.", min=1)] = 128,
    temperature: Annotated[
        float, option("T", "Logits are divided by T; 0: the most likely token.")
    ] = 1.0,
    top_k: Annotated[int | None, option("K", "Draw among the K most likely tokens.")] = None,
    top_p: Annotated[float, option("P", "Draw among the likeliest tokens that sum to P.")] = 1.0,
    min_p: Annotated[float, option("M", "Draw among tokens at least M times the likeliest.")] = 0.0,
    stop: Annotated[Words, option("TEXT", "End before this text; repeat for more.")] = None,
    seed: Annotated[int, option("N", "Same seed, same tokens.", min=0, max=2**32 - 1)] = 0,
    batch: Annotated[
        int | None,
        option(
            "B",
            "Prompts continued at the same time; the tokens do not depend on it. Default: all, at "
            f"most {LARGEST_BATCH}.",
            min=1,
        ),
    ] = None,
    memory_dir: MemoryDir = None,
    read_only: ReadOnly = False,
    every: Every = None,
    nearest: Nearest = 2,
    agree: Agree = 0,
    threshold: Threshold = 1.0,
    step: Step = None,
) -> None:
    """Continue prompts with the newest checkpoint of a run, or that of --step.

    A text is continued as the beginning of a document; without a prompt a document is begun.
    Prompts are numbered in the order --prompt, --file, --ids. One continuation is shown while it
    grows; several follow one another, each below a line "--- N ---". A run on a synthetic
    task has no tokenizer: it takes --ids, and prints ids.

    Standard error gets the numbers of tokens, the speed, and the bytes of the state.

    With --memory, prompts are read one after the other, and each may remember those before it,
    also those of earlier commands. Nothing is stored unless that is asked for.

    \b
    Examples:
      bmojo generate runs/prose --prompt "Once upon a time" --temperature 0.8 --top-p 0.95
      bmojo generate runs/prose --file chapter.txt --stop $'\\n\\n' --max-new-tokens 512
      bmojo generate runs/quickstart --ids "17 200 9 143 17" --temperature 0 --max-new-tokens 1
      bmojo generate runs/prose --file chapter.txt --memory read --max-new-tokens 1
    """
    # Options are checked before JAX takes its time to start.
    from bmojo.runs import open_run

    loaded = open_run(run, step)
    tokenizer = loaded.tokenizer
    prompts = read_prompts(tokenizer, prompt or [], file or [], ids or [])
    sampling, ends = decoding(tokenizer, stop or [], temperature, top_k, top_p, min_p)
    from bmojo.cache import use_compilation_cache
    from bmojo.generation.generate import check_tokens
    from bmojo.session import Use

    for tokens in prompts:
        check_tokens(tokens, loaded.experiment.model.vocab_size, "prompt")
    if loaded.experiment.trainer.compilation_cache:
        use_compilation_cache()
    work = Work(loaded.model, tokenizer, ends, sampling, max_new_tokens, seed)
    size = batch or min(len(prompts), LARGEST_BATCH)
    if memory_dir is not None:
        if batch is not None and batch > 1:
            raise UserError("--batch: with --memory prompts are read one by one; leave it out")
        size = 1
    use = Use(every, nearest, threshold=threshold, agree=agree, write=not read_only)
    description = f"{run}, step {loaded.step}"
    with memory(memory_dir, loaded.model, tokenizer, description, use) as work.memory:
        try:
            for first in range(0, len(prompts), size):
                work.do(prompts, range(first, min(first + size, len(prompts))))
        except KeyboardInterrupt:
            typer.echo(work.summary(), err=True)
            raise typer.Exit(INTERRUPTED) from None
    typer.echo(work.summary(), err=True)


def read_prompts(
    tokenizer: Any | None, texts: Sequence[str], files: Sequence[Path], ids: Sequence[str]
) -> "list[np.ndarray]":
    """Prompts as token ids; texts follow the token that ends a document.

    Raises:
      UserError: there is none, a text has no tokenizer, or a file or an id cannot be read.
    """
    import numpy as np

    if tokenizer is None and (texts or files):
        option = "--prompt" if texts else "--file"
        raise UserError(
            f"{option}: the run was trained on a task without text; give token ids with "
            '--ids "1 2 3"'
        )
    if not (texts or files or ids):
        if tokenizer is None:
            raise UserError('--ids: nothing to continue; give token ids, such as --ids "1 2 3"')
        texts = [""]
    texts = [*texts, *map(_text, files)]
    prompts = [
        np.concatenate([[tokenizer.eos], tokenizer.encode(text)]).astype(np.int32)  # type: ignore[union-attr]
        for text in texts
    ]
    for words in ids:
        try:
            numbers = [int(word) for word in words.replace(",", " ").split()]
            prompts.append(np.asarray(numbers, np.int32))
        except (ValueError, OverflowError):
            raise UserError(
                f'--ids: {words!r} is not a row of token ids, such as "1 2 3"'
            ) from None
        if not numbers:
            raise UserError("--ids: it is empty; give at least one token id")
    return prompts


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"--file: {path} cannot be read as UTF-8 text ({reason}); give another file"
        ) from None


def decoding(
    tokenizer: Any | None,
    stop: Sequence[str],
    temperature: float,
    top_k: int | None,
    top_p: float,
    min_p: float,
) -> "tuple[Sampling, Stop]":
    """Sampling and stop conditions.

    Raises:
      UserError: an option is out of range.
    """
    if "" in stop:
        raise UserError("--stop: an empty text would end everything at once; leave it out")
    if stop and tokenizer is None:
        raise UserError("--stop: the run has no tokenizer, so that there is no text to stop at")
    from bmojo.generation.sampling import Sampling
    from bmojo.generation.stopping import Stop

    try:
        sampling = Sampling(temperature, top_k, top_p, min_p)
    except ValueError as error:
        raise UserError(f"--{str(error).replace('_', '-', 1)}") from None
    if tokenizer is None:
        return sampling, Stop()
    return sampling, Stop((int(tokenizer.eos),), tuple(stop), tokenizer.decode)


@dataclasses.dataclass
class Work:
    """Generation with its output and its times.

    Attributes:
      model: with the run's parameters.
      tokenizer: of the run, if it has one.
      stop: ends of a continuation.
      sampling: of the tokens.
      count: tokens of each continuation, at most.
      seed: of the draws.
      memory: a store to read with, or None.
    """

    model: Any
    tokenizer: Any | None
    stop: "Stop"
    sampling: "Sampling"
    count: int
    seed: int
    memory: Memory | None = None
    prompt_tokens: int = 0
    new_tokens: int = 0
    steps: int = 0
    state_bytes: int = 0
    reading: float = 0.0
    decoding: float = 0.0
    compiling: float = 0.0
    _shown: int = 0
    _warm: set[tuple[int, int]] = dataclasses.field(default_factory=set)

    def do(self, prompts: "Sequence[np.ndarray]", rows: range) -> None:
        """Continue the prompts of these numbers together."""
        import jax

        from bmojo.generation.generate import CHUNK, pad, prefill, state_bytes
        from bmojo.session import Session

        tokens, lengths = pad([prompts[row] for row in rows])
        capacity = -(-(tokens.shape[1] + self.count - 1) // CHUNK) * CHUNK
        started = time.perf_counter()
        self._warm_up(len(rows), capacity)
        ready = time.perf_counter()
        session = None
        if self.memory is None:
            logits, state = prefill(self.model, tokens, lengths, capacity=capacity)
        else:
            source = f"prompt {rows[0] + 1}"
            session = Session(self.model, self.memory.store, self.memory.use, source=source)
            logits, state = session.read(tokens[0])[None], session.state
            session.ask = "before"
        jax.block_until_ready(logits)
        read = time.perf_counter()
        self.compiling += ready - started
        self.reading += read - ready
        self.prompt_tokens += int(lengths.sum())
        self.state_bytes = state_bytes(state)
        drawn: list[list[int]] = [[] for _ in rows]
        alone = len(prompts) == 1
        title = f"prompts {rows[0] + 1} - {rows[-1] + 1} of {len(prompts)}"
        shown: Any = self._stream() if alone else progress_bar(title, self.count)
        try:
            with shown as show, _finished(session):
                for step in self._decode(logits, state, session, self.count, list(rows)):
                    self._note(step, drawn)
                    show(drawn[0] if alone else 1)
                if session is not None:
                    session.read(drawn[0][session.position - int(lengths[0]) :])
        finally:
            self.decoding += time.perf_counter() - read
            if alone:
                typer.echo(self._text(drawn[0], whole=True)[self._shown :])
        if not alone:
            for number, ids in zip(rows, drawn, strict=True):
                typer.echo(f"--- {number + 1} ---\n{self._text(ids, whole=True)}")

    def summary(self) -> str:
        """Tokens, speed and memory in one line."""
        reading = self.prompt_tokens / self.reading if self.reading else 0.0
        step = 1000 * self.decoding / self.steps if self.steps else 0.0
        return (
            f"prompt tokens {self.prompt_tokens:,}, new tokens {self.new_tokens:,}, "
            f"prefill {reading:,.0f} tokens/s, decode {step:.2f} ms/token, "
            f"state {self.state_bytes:,} bytes, compilation {self.compiling:.1f} s"
        )

    def _warm_up(self, batch: int, capacity: int) -> None:
        """Compile the programs on rows of one token, so that times are those of the work."""
        import numpy as np

        from bmojo.generation.generate import prefill
        from bmojo.session import Session

        if (batch, capacity) in self._warm:
            return
        self._warm.add((batch, capacity))
        session = None
        if self.memory is None:
            tokens = np.zeros((batch, 1), np.int32)
            logits, state = prefill(self.model, tokens, capacity=capacity)
        else:
            session = Session(self.model, None, self.memory.use)
            session.read([0, 0])
            logits, state = session.read([0])[None], session.state
        for _ in self._decode(logits, state, session, 2):
            pass

    def _decode(
        self, logits: Any, state: Any, session: Any, count: int, rows: list[int] | None = None
    ) -> "Iterator[np.ndarray]":
        from bmojo.generation.generate import decode

        return decode(
            self.model,
            logits,
            state,
            max_new_tokens=count,
            sampling=self.sampling,
            stop=self.stop if rows else None,
            seed=self.seed,
            rows=rows,
            advance=None if session is None else session.advance,
        )

    def _note(self, step: "np.ndarray", drawn: list[list[int]]) -> None:
        """Add the tokens of a step to their rows."""
        from bmojo.generation.generate import ENDED

        self.steps += 1
        for row, token in zip(drawn, step.tolist(), strict=True):
            if token != ENDED:
                row.append(token)
                self.new_tokens += 1

    @contextlib.contextmanager
    def _stream(self) -> Iterator[Callable[[list[int]], None]]:
        """Print the continuation as far as no further token will change it."""
        self._shown = 0

        def show(ids: list[int]) -> None:
            text = self._text(ids, whole=False)
            typer.echo(text[self._shown :], nl=False)
            self._shown = len(text)

        yield show

    def _text(self, ids: list[int], whole: bool) -> str:
        """The text of a continuation: all of it, or as far as no further token will change it."""
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        from bmojo.generation.stopping import cut, readable

        return (cut if whole else readable)(self.tokenizer.decode(ids), self.stop.strings)


@contextlib.contextmanager
def _finished(session: Any | None) -> Iterator[None]:
    """Write the rest of the session's tokens to the store at the end, also if interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if session is not None:
            session.finish()
        raise
    if session is not None:
        session.finish()
