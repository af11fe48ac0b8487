"""`bmojo generate`."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bmojo.cli.common import Run, Step, progress_bar, told
from bmojo.cli.stored import (
    Agree,
    Every,
    Memory,
    MemoryDir,
    Nearest,
    ReadOnly,
    Threshold,
    memory,
)
from bmojo.errors import UserError

if TYPE_CHECKING:
    import numpy as np

INTERRUPTED = 130
LARGEST_BATCH = 8


def generate(
    run: Run,
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A text to continue; repeat for more."),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A file whose text is continued; repeat for more."),
    ] = None,
    ids: Annotated[
        list[str] | None,
        typer.Option(metavar='"1 2 3"', help="Token ids to continue, just as they are."),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Tokens after which a continuation ends.")
    ] = 128,
    temperature: Annotated[
        float, typer.Option(metavar="T", help="Logits are divided by T; 0: the most likely token.")
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(metavar="K", help="Draw among the K most likely tokens.")
    ] = None,
    top_p: Annotated[
        float, typer.Option(metavar="P", help="Draw among the likeliest tokens that sum to P.")
    ] = 1.0,
    min_p: Annotated[
        float, typer.Option(metavar="M", help="Draw among tokens at least M times the likeliest.")
    ] = 0.0,
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="End before this text; repeat for more."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Same seed, same tokens.")
    ] = 0,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="B",
            help=f"Prompts continued at the same time; the tokens do not depend on it. Default: "
            f"all, at most {LARGEST_BATCH}.",
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
    Prompts are numbered in the order --prompt, --file, --ids. One continuation is shown as it
    comes; several follow one another, each behind a line "--- N ---". A run on a synthetic
    task has no tokenizer: it takes --ids, and ids come back.

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
    with told():
        # Options are checked before JAX takes its time to start.
        from bmojo.runs import open_run

        loaded = open_run(run, step)
        experiment, tokenizer = loaded.experiment, loaded.tokenizer
        prompts = read_prompts(tokenizer, prompt or [], file or [], ids or [])
        if "" in (stop or ()):
            raise UserError("--stop: an empty text would end everything at once; leave it out")
        if stop and tokenizer is None:
            raise UserError("--stop: the run has no tokenizer, so that there is no text to stop at")
        from bmojo.generation.generate import check_tokens
        from bmojo.generation.sampling import Sampling
        from bmojo.generation.stopping import Stop
        from bmojo.session import Use
        from bmojo.training.cache import use_compilation_cache

        try:
            sampling = Sampling(temperature, top_k, top_p, min_p)
            ends = Stop(
                () if tokenizer is None else (int(tokenizer.eos),),
                tuple(stop or ()),
                None if tokenizer is None else tokenizer.decode,
            )
        except ValueError as error:
            raise UserError(f"--{str(error).replace('_', '-', 1)}") from None
        for tokens in prompts:
            check_tokens(tokens, experiment.model.vocab_size, "prompt")
        if experiment.trainer.compilation_cache:
            use_compilation_cache()
        work = Work(loaded.model, tokenizer, ends, sampling, max_new_tokens, seed)
        size = batch or min(len(prompts), LARGEST_BATCH)
        if memory_dir is not None:
            if batch is not None and batch > 1:
                raise UserError("--batch: with --memory prompts are read one by one; leave it out")
            size = 1
        with memory(
            memory_dir,
            loaded.model,
            tokenizer,
            f"{run}, step {loaded.step}",
            Use(every, nearest, threshold=threshold, agree=agree, write=not read_only),
        ) as work.memory:
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
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"--file: {path} cannot be read as UTF-8 text ({reason}); give another file"
        ) from None


@contextlib.contextmanager
def remembered(session: Any | None) -> Iterator[None]:
    """What was read goes to the store at the end, also if somebody ends it early."""
    try:
        yield
    except KeyboardInterrupt:
        if session is not None:
            session.finish()
        raise
    if session is not None:
        session.finish()


class Work:
    """Generates, shows what comes, and keeps the time.

    Args:
      model: with the run's parameters.
      tokenizer: of the run, if it has one.
      stop: what ends a continuation.
      sampling: how tokens are drawn.
      max_new_tokens: of each continuation.
      seed: of the draws.

    Attributes:
      memory: a store to read with; None: there is none.
    """

    memory: Memory | None = None

    def __init__(
        self,
        model: Any,
        tokenizer: Any | None,
        stop: Any,
        sampling: Any,
        max_new_tokens: int,
        seed: int,
    ):
        self._model, self._tokenizer, self._stop = model, tokenizer, stop
        self._sampling, self._count, self._seed = sampling, max_new_tokens, seed
        self._prompt_tokens = self._new_tokens = self._steps = self._bytes = 0
        self._reading = self._decoding = self._compiling = 0.0
        self._warm: set[tuple[int, int]] = set()

    def do(self, prompts: "Sequence[np.ndarray]", rows: range) -> None:
        """Continue the prompts of these numbers together."""
        import jax
        import numpy as np

        from bmojo.generation import generate as generation

        tokens, lengths = generation.pad([prompts[row] for row in rows])
        needed = tokens.shape[1] + self._count - 1
        capacity = -(-needed // generation.CHUNK) * generation.CHUNK
        started = time.perf_counter()
        self._warm_up(len(rows), capacity)
        ready = time.perf_counter()
        session = None
        if self.memory is None:
            logits, state = generation.prefill(self._model, tokens, lengths, capacity=capacity)
        else:
            from bmojo.session import Session

            session = Session(
                self._model, self.memory.store, self.memory.use, source=f"prompt {rows[0] + 1}"
            )
            logits, state = session.read(tokens[0])[None], session.state
            session.ask = "before"
        jax.block_until_ready(logits)
        read = time.perf_counter()
        self._compiling += ready - started
        self._reading += read - ready
        self._prompt_tokens += int(lengths.sum())
        self._bytes = generation.state_bytes(state)
        drawn: list[list[int]] = [[] for _ in rows]
        alone = len(prompts) == 1
        shown = ""
        what = f"prompts {rows[0] + 1} - {rows[-1] + 1} of {len(prompts)}"
        bar = contextlib.nullcontext(None) if alone else progress_bar(what, self._count)
        steps = generation.decode(
            self._model,
            logits,
            state,
            max_new_tokens=self._count,
            sampling=self._sampling,
            stop=self._stop,
            seed=self._seed,
            rows=list(rows),
            advance=None if session is None else session.advance,
        )
        try:
            with bar as done, remembered(session):
                for step in steps:
                    self._steps += 1
                    self._new_tokens += int(np.count_nonzero(step != generation.ENDED))
                    for row, token in zip(drawn, step.tolist(), strict=True):
                        if token != generation.ENDED:
                            row.append(token)
                    if done is not None:
                        done(1)
                        continue
                    text = self._show(drawn[0], whole=False)
                    typer.echo(text[len(shown) :], nl=False)
                    shown = text
                if session is not None:
                    session.read(drawn[0][session.position - int(lengths[0]) :])
        finally:
            self._decoding += time.perf_counter() - read
            if alone:
                typer.echo(self._show(drawn[0], whole=True)[len(shown) :])
        if not alone:
            for number, ids in zip(rows, drawn, strict=True):
                typer.echo(f"--- {number + 1} ---\n{self._show(ids, whole=True)}")

    def summary(self) -> str:
        """Tokens, speed and memory in one line."""
        reading = self._prompt_tokens / self._reading if self._reading else 0.0
        step = 1000 * self._decoding / self._steps if self._steps else 0.0
        return (
            f"prompt tokens {self._prompt_tokens:,}, new tokens {self._new_tokens:,}, "
            f"prefill {reading:,.0f} tokens/s, decode {step:.2f} ms/token, "
            f"state {self._bytes:,} bytes, compilation {self._compiling:.1f} s"
        )

    def _warm_up(self, batch: int, capacity: int) -> None:
        """Compile what will run, on rows of one token, so that times are those of the work."""
        import numpy as np

        from bmojo.generation import generate as generation

        if (batch, capacity) in self._warm:
            return
        self._warm.add((batch, capacity))
        if self.memory is not None:
            from bmojo.session import Session

            session = Session(self._model, None, self.memory.use)
            session.read([0, 0])
            logits = session.read([0])[None]
            for _ in generation.decode(
                self._model,
                logits,
                session.state,
                max_new_tokens=2,
                sampling=self._sampling,
                advance=session.advance,
            ):
                pass
            return
        empty = np.zeros((batch, 1), np.int32)
        logits, state = generation.prefill(self._model, empty, capacity=capacity)
        for _ in generation.decode(
            self._model, logits, state, max_new_tokens=2, sampling=self._sampling
        ):
            pass

    def _show(self, ids: list[int], whole: bool) -> str:
        """What a reader sees of a continuation: all of it, or what will not change any more."""
        if self._tokenizer is None:
            return " ".join(map(str, ids))
        from bmojo.generation.stopping import cut, readable

        text = self._tokenizer.decode(ids)
        return (cut if whole else readable)(text, self._stop.strings)
