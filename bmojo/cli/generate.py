"""`bmojo generate`."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bmojo.cli.common import INTERRUPTED, Number, Run, Step, Words, option
from bmojo.cli.stored import open_store, with_store
from bmojo.console import progress_bar
from bmojo.errors import UserError
from bmojo.files import read_file

if TYPE_CHECKING:
    import numpy as np

    from bmojo.generation.sampling import Sampling
    from bmojo.generation.stopping import Continuation, Stop
    from bmojo.session import Use
    from bmojo.storage import Store

LARGEST_BATCH = 8
ECHOED = 200


@with_store
def generate(
    run: Run,
    prompt: Annotated[Words, option("TEXT", "A text to continue; repeat for more.")] = None,
    file: Annotated[list[Path] | None, option("FILE", "A file to continue; repeatable.")] = None,
    ids: Annotated[Words, option('"1 2 3"', "Token ids to continue; repeat for more.")] = None,
    max_new_tokens: Annotated[int, option("N", "Longest continuation, in tokens.", min=1)] = 128,
    temperature: Annotated[float, option("T", "Divides logits; 0: the most likely token.")] = 1.0,
    top_k: Annotated[int | None, option("K", "Draw among the K most likely tokens.")] = None,
    top_p: Annotated[float, option("P", "Draw among the likeliest tokens that sum to P.")] = 1.0,
    min_p: Annotated[float, option("M", "Draw among tokens at least M times the likeliest.")] = 0.0,
    stop: Annotated[Words, option("TEXT", "End before this text; repeat for more.")] = None,
    seed: Annotated[int, option("N", "Same seed, same tokens.", min=0, max=2**32 - 1)] = 0,
    batch: Annotated[
        Number,
        option(
            "B",
            "Prompts at a time; in bfloat16 it may change tokens by rounding, in float32 hardly "
            "ever. Default: up to 8.",
            min=1,
        ),
    ] = None,
    step: Step = None,
    stored: Any = None,
) -> None:
    """Continue prompts with the newest checkpoint of a run, or that of --step.

    A text is continued as the beginning of a document; without a prompt a document is begun.
    Prompts are numbered in the order --prompt, --file, --ids. One continuation is shown while it
    grows; several follow one another, each below a line "--- N ---". A run on a synthetic
    task has no tokenizer: it takes --ids, and prints ids.

    Standard error gets the prompts (the last characters of each), why each continuation ended,
    the numbers of tokens, the speed, and the bytes of the state.

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

    for tokens in prompts:
        check_tokens(tokens, loaded.experiment.model.vocab_size, "prompt")
    if loaded.experiment.trainer.compilation_cache:
        use_compilation_cache()
    work = Work(loaded.model, tokenizer, ends, sampling, max_new_tokens, seed, stored[1])
    size = batch or min(len(prompts), LARGEST_BATCH)
    if stored[0] is not None:
        if batch is not None and batch > 1:
            raise UserError("--batch: with --memory prompts are read one by one; leave it out")
        size = 1
    description = f"{run}, step {loaded.step}"
    with open_store(stored, loaded.model, tokenizer, description) as work.store:
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
    """Prompts as token ids; texts follow the token that ends a document."""
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
            problem = f'--ids: {words!r} is not a row of token ids, such as "1 2 3"'
            raise UserError(problem) from None
        if not numbers:
            raise UserError("--ids: it is empty; give at least one token id")
    return prompts


def _text(path: Path) -> str:
    try:
        return read_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        problem = f"--file: {path} cannot be read as UTF-8 text ({reason}); give another file"
        raise UserError(problem) from None


def decoding(tokenizer: Any | None, stop: Sequence[str], *options: Any) -> "tuple[Sampling, Stop]":
    """Sampling, from its options in their order, and stop conditions."""
    if "" in stop:
        raise UserError("--stop: an empty text would end everything at once; leave it out")
    if stop and tokenizer is None:
        raise UserError("--stop: the run has no tokenizer, so that there is no text to stop at")
    from bmojo.generation.sampling import Sampling
    from bmojo.generation.stopping import Stop

    try:
        sampling = Sampling(*options)
    except ValueError as error:
        raise UserError(f"--{str(error).replace('_', '-', 1)}") from None
    if tokenizer is None:
        return sampling, Stop()
    return sampling, Stop((int(tokenizer.eos),), tuple(stop), tokenizer.decode)


@dataclasses.dataclass
class Work:
    """Generation with its output and its times; ``store`` is that of --memory."""

    model: Any
    tokenizer: Any | None
    stop: "Stop"
    sampling: "Sampling"
    count: int
    seed: int
    use: "Use"
    store: "Store | None" = None
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

        from bmojo.generation.generate import CHUNK, ENDED, pad, state_bytes

        tokens, lengths = pad([prompts[row] for row in rows])
        capacity = -(-(tokens.shape[1] + self.count - 1) // CHUNK) * CHUNK
        started = time.perf_counter()
        self._warm_up(len(rows), capacity)
        ready = time.perf_counter()
        logits, state, session = self._begin(tokens, lengths, capacity, self.store, rows[0] + 1)
        jax.block_until_ready(logits)
        read = time.perf_counter()
        self.compiling += ready - started
        self.reading += read - ready
        self.prompt_tokens += int(lengths.sum())
        self.state_bytes = state_bytes(state)
        drawn: list[list[int]] = [[] for _ in rows]
        texts = [self._continuation(prompts[row]) for row in rows]
        alone, self._shown = len(prompts) == 1, 0
        title = f"prompts {rows[0] + 1} - {rows[-1] + 1} of {len(prompts)}"
        if alone:
            self._echo(0, prompts[0])
        bar: Any = contextlib.nullcontext(self._show) if alone else progress_bar(title, self.count)
        try:
            with bar as show:
                for step in self._decode(logits, state, session, self.count, rows, prompts):
                    self.steps += 1
                    for row, text, token in zip(drawn, texts, step.tolist(), strict=True):
                        if token != ENDED:
                            row.append(token)
                            text.add(token)
                    show(texts[0] if alone else 1)
                if session is not None:
                    session.read(drawn[0][session.position - int(lengths[0]) :])
        finally:
            if session is not None:
                session.finish()
            self.new_tokens += sum(map(len, drawn))
            self.decoding += time.perf_counter() - read
            if alone:
                typer.echo(self._text(texts[0])[self._shown :])
        for number, ids, text in zip(rows, drawn, texts, strict=True):
            if not alone:
                self._echo(number, prompts[number])
                typer.echo(f"--- {number + 1} ---\n{self._text(text)}")
            typer.echo(f"continuation {number + 1} ended {self._end(ids, text)}", err=True)

    def _echo(self, number: int, prompt: "np.ndarray") -> None:
        """Show the end of a prompt on standard error."""
        ids = [token for token in prompt.tolist() if token not in self.stop.ids]
        text = " ".join(map(str, ids)) if self.tokenizer is None else self.tokenizer.decode(ids)
        start = "..." if len(text) > ECHOED else ""
        shown = json.dumps(start + text[-ECHOED:], ensure_ascii=False)
        typer.echo(f"prompt {number + 1}: {shown}", err=True)

    def _end(self, ids: list[int], text: "Continuation") -> str:
        """Why a continuation ended."""
        if self._text(text) != text.whole:
            return "at a text of --stop"
        return "after --max-new-tokens" if len(ids) == self.count else "with its document"

    def summary(self) -> str:
        """Tokens, speed and memory in one line."""
        reading = self.prompt_tokens / self.reading if self.reading else 0.0
        step = 1000 * self.decoding / self.steps if self.steps else 0.0
        return (
            f"prompt tokens {self.prompt_tokens:,}, new tokens {self.new_tokens:,}, "
            f"prefill {reading:,.0f} tokens/s, decode {step:.2f} ms/token, "
            f"state {self.state_bytes:,} bytes, compilation {self.compiling:.1f} s"
        )

    def _begin(self, tokens: Any, lengths: Any, capacity: int, store: Any, number: int) -> Any:
        """Read prompts: the next logits, the state, and the session if there is a store."""
        from bmojo.generation.generate import prefill
        from bmojo.session import Session

        if self.store is None:
            return *prefill(self.model, tokens, lengths, capacity=capacity), None
        session = Session(self.model, store, self.use, source=f"prompt {number}")
        logits = session.read(tokens[0])[None]
        session.ask = "before"
        return logits, session.state, session

    def _warm_up(self, batch: int, capacity: int) -> None:
        """Compile the programs on short rows, so that times are those of the work."""
        import numpy as np

        if (batch, capacity) not in self._warm:
            self._warm.add((batch, capacity))
            tokens = np.zeros((batch, 1 if self.store is None else 3), np.int32)
            logits, state, session = self._begin(tokens, None, capacity, None, 0)
            for _ in self._decode(logits, state, session, 2):
                pass

    def _decode(
        self,
        logits: Any,
        state: Any,
        session: Any,
        count: int,
        rows: Sequence[int] = (),
        prompts: "Sequence[np.ndarray]" = (),
    ) -> "Iterator[np.ndarray]":
        from bmojo.generation.generate import decode

        advance = None if session is None else session.advance
        options: Any = {"sampling": self.sampling, "seed": self.seed, "rows": rows or None}
        options |= {"max_new_tokens": count, "stop": self.stop if rows else None}
        options["prompts"] = [prompts[row] for row in rows] or None
        return decode(self.model, logits, state, **options, advance=advance)

    def _show(self, text: "Continuation") -> None:
        """Print a continuation as far as no further token will change it."""
        from bmojo.generation.stopping import readable

        known = readable(text.text, self.stop.strings)
        typer.echo(known[self._shown :], nl=False)
        self._shown = len(known)

    def _continuation(self, prompt: "np.ndarray") -> "Continuation":
        """The text of a continuation: without a tokenizer, ids with blanks between."""
        from bmojo.generation.stopping import Continuation

        if self.tokenizer is None:
            return Continuation(lambda ids: " ".join(map(str, ids)))
        return Continuation(self.tokenizer.decode, prompt)

    def _text(self, text: "Continuation") -> str:
        from bmojo.generation.stopping import cut

        return cut(text.whole, self.stop.strings)
