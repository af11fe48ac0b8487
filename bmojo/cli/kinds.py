"""Kinds of evaluation: commands in a row, each group of them with its options.

`bmojo eval RUN perplexity length --documents books recall` measures three kinds with one model:
options belong to the kinds directly before them. A kind is a generator: it checks its options,
yields, and measures.
"""

import contextlib
import functools
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer.core import TyperGroup

from bmojo.cli.common import option
from bmojo.console import line, make_console, progress_bar
from bmojo.errors import UserError, suggestion

if TYPE_CHECKING:
    from bmojo.evaluation.documents import Documents as Texts
    from bmojo.evaluation.perplexity import Measured
    from bmojo.runs import TrainedRun

__all__ = ["BatchSize", "Documents", "Kind", "KindGroup", "Subject", "length_option"]

Kind = Generator[None, None, None]

Documents = Annotated[
    Path | None,
    option(
        "DIR",
        "Folder of .txt, .jsonl (field text) or .npy (token ids) files. Default: the test split of "
        "the run's data.",
    ),
]
BatchSize = Annotated[int, option("B", "Documents read at the same time.", min=1)]


def length_option(help: str) -> Any:
    """The option --context, also called --length."""
    return option("N", help, "--context", "--length", min=1)


class KindGroup(TyperGroup):
    """A group of commands that may be named one after the other."""

    allow_interspersed_args = True

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments before the first kind, and keep the others."""
        first = next((i for i, word in enumerate(args) if i and word in self.commands), len(args))
        with self._errors(None):
            super().parse_args(ctx, args[:first])
        ctx.args = args[first:]
        return ctx.args

    def invoke(self, ctx: Any) -> None:
        """Check the options of all kinds, then measure one after the other."""
        with ctx:
            contexts = list(self._parsed(ctx, ctx.args))
            super(TyperGroup, self).invoke(ctx)
            kinds = []
            for context in contexts:
                context.obj = ctx.obj
                with context:
                    kinds.append(context.command.invoke(context))
                next(kinds[-1])
            ctx.obj.measure(kinds)

    def _parsed(self, ctx: Any, args: list[str]) -> Iterator[Any]:
        """A context for each kind."""
        options = {"allow_extra_args": True, "allow_interspersed_args": False}
        seen: set[str] = set()
        while args:
            count = next((i for i, word in enumerate(args) if word not in self.commands), len(args))
            if not count:
                raise self.unknown(args[0])
            names, args = args[:count], args[count:]
            for name in names:
                if name in seen:
                    raise UserError(f"{name}: named twice; name each kind once")
                seen.add(name)
                with self._errors(name):
                    context = self.commands[name].make_context(name, [*args], ctx, **options)
                yield context
            args = context.args

    def unknown(self, word: str) -> UserError:
        """The error of a word that is no kind."""
        if "=" in word or word.endswith(".gin"):
            return UserError(f"{word}: overrides of the config go before the first kind")
        return UserError(f"{word!r} is no kind of evaluation; {suggestion(word, self.commands)}")

    @contextlib.contextmanager
    def _errors(self, kind: str | None) -> Iterator[None]:
        """Name the kinds that have an option that ``kind`` does not have."""
        try:
            yield
        except Exception as error:
            option = getattr(error, "option_name", None)
            owners = [
                name
                for name, command in self.commands.items()
                if any(option in parameter.opts for parameter in command.params)
            ]
            if option is None or kind in owners:
                raise
            remedy = f"it belongs to {', '.join(owners)}" if owners else "see --help"
            if option == "--eval":
                remedy = "name kinds after the run, as in bmojo eval RUN perplexity recall"
            where = kind or "bmojo eval RUN"
            raise UserError(f"{option}: {where} has no such option; {remedy}") from None


class Subject:
    """A run that is measured; its model is read when the first kind needs it."""

    def __init__(self, run: "TrainedRun"):
        self.run, self.experiment = run, run.experiment
        self.console, self.problem = make_console(), ""
        self.texts = functools.cache(self._texts)
        self.losses = functools.cache(self._losses)
        self.training_length = max(stage.data.length for stage in run.experiment.curriculum)

    def measure(self, kinds: Sequence[Kind]) -> None:
        """Load the model, and measure; without kinds, the evaluations of the config."""
        if not kinds:
            self.need_evaluations()
        from bmojo.cache import use_compilation_cache
        from bmojo.experiment import prepare_data
        from bmojo.training.experiment import text_of
        from bmojo.training.run_dir import WriteError

        if not (kinds and hasattr(text_of(self.experiment), "prepare")):
            prepare_data(self.experiment, training=False)
            self.run.check_text()
        if self.experiment.trainer.compilation_cache:
            use_compilation_cache()
        assert self.run.model is not None
        line(self.console, f"{self.run.path}, step {self.run.step}")
        for kind in kinds:
            for _ in kind:
                pass
        if self.problem:
            raise WriteError(f"{self.problem}; the results are shown, but not kept")
        if not kinds:
            from bmojo.evaluation.recall import evaluate
            from bmojo.training.report import result_tables

            evaluations = self.experiment.evaluations
            with progress_bar("measuring", sum(e.batches for e in evaluations)) as done:
                rows = evaluate(self.run.model, evaluations, done)
            for table in result_tables(rows, evaluations):
                self.console.print(table)

    def need_evaluations(self) -> None:
        """Raise UserError unless the config has evaluations."""
        if not self.experiment.evaluations:
            raise UserError(
                f"{self.run.path}: its config has no evaluations; add one, such as "
                "'Experiment.evaluations=(@Evaluation(),)'"
            )

    def report(self, name: str, results: dict[str, Any], *tables: Any, figure: Any = None) -> None:
        """Show tables, and keep results and figure in RUN/evaluation."""
        from bmojo.evaluation.outputs import save

        places = []
        try:
            path = save(self.run.path, name, {"step": self.run.step, **results}, figure)
            places = [path] if figure is None else [path, path.with_suffix(".png")]
        except OSError as error:
            self.problem = f"{self.run.path}/evaluation: cannot be written ({error.strerror})"
        for table in tables:
            self.console.print(table)
        for place in places:
            line(self.console, place)

    def _texts(self, folder: Path | None) -> "Texts":
        """The documents of a folder, or the test split of the run's data."""
        from bmojo.evaluation.documents import read_documents, run_documents

        if folder is None:
            self.run.check_text()
            return run_documents(self.experiment)
        return read_documents(folder, self.run.tokenizer, self.experiment.model.vocab_size)

    def _losses(self, folder: Path | None, longest: int, batch_size: int) -> "Measured":
        """Losses of the documents in windows; kinds with the same options share one pass."""
        from bmojo.evaluation.perplexity import measure

        texts = self.texts(folder)
        decode = getattr(self.run.tokenizer, "decode_bytes", None)
        with progress_bar("reading", sum(max(len(text) - 1, 0) for text in texts)) as done:
            options: dict[str, Any] = {"decode_bytes": decode, "progress": done}
            options["text_bytes"] = texts.bytes
            return measure(self.run.model, texts, longest, batch_size=batch_size, **options)
