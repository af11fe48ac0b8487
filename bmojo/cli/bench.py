"""`bmojo bench`: measurements of speed and memory, checked before they are timed."""

import contextlib
import copy
import inspect
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import typer

from bmojo.cli.common import told
from bmojo.errors import UserError, suggestion

if TYPE_CHECKING:
    from bmojo.benchmark.models import Candidate, Dimensions
    from bmojo.cli.bench_session import Measurement

REPETITIONS, QUICK = 15, 3

BENCH_EXIT_CODES = """\b
Exit codes:
  0         measured
  1         a result is wrong, and nothing was timed; or the program crashed
  2         something in the command or the config has to be mended; the error says what"""

MODELS = "transformer,mamba,mamba2,hybrid,bmojo_f,bmojo,bmojo_ssd"
PEERS = "hf_mamba2,hf_mistral,hf_zamba2,hf_falcon_h1,mamba2_jax,recurrentgemma"
OPERATIONS = "scan,ssd,attention,memory_attention,convolution,selection"
LENGTHS = (4096, 8192, 16384, 32768, 65536)
POSITIONS = (1024, 4096, 16384, 65536)

app = typer.Typer(
    help="Measure speed and memory. Wrong results are not timed. All cases take turns, together "
    "with a calibration of the machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="\b\nExamples:\n  bmojo bench ops --quick\n"
    "  bmojo bench step --models transformer,bmojo --out runs/bench/step\n\n" + BENCH_EXIT_CODES,
)


def _option(kind: Any, default: Any, text: str, *names: str, **more: Any) -> tuple[Any, Any]:
    return kind, typer.Option(default, *names, help=text, show_default=default is not None, **more)


def _size(default: int | None, text: str, least: int = 1) -> tuple[Any, Any]:
    kind: Any = int | None if default is None else int
    return _option(kind, default, text, min=least, metavar="N")


def _sizes(name: str, text: str) -> tuple[Any, Any]:
    return _option(list[int] | None, None, f"{text}; repeat for more.", name, min=1, metavar="N")


def _names(default: str, text: str, *names: str) -> tuple[Any, Any]:
    return _option(str, default, text, *names, metavar="A,B,...")


OPTIONS: dict[str, tuple[Any, Any]] = {
    "overrides": (
        list[str] | None,
        typer.Argument(None, metavar="[KEY=VALUE]...", help="Bindings for every model."),
    ),
    "models": _names(MODELS, "Models of configs/models, bmojo_ssd, or paths of gin files."),
    "model": _option(str, "bmojo", f"A model of {MODELS}.", metavar="NAME"),
    "only": _names(OPERATIONS, "Operations.", "--ops"),
    "others": _names(PEERS, "Other implementations.", "--peers"),
    "environments": _option(
        Path | None, None, "Of scripts/peers/install.py. Default: in the cache.", metavar="DIR"
    ),
    "peer_window": _size(None, "Window of hf_mistral and recurrentgemma. Default: the whole past."),
    "part": _option(
        Literal["model", "layer"], "model", "The model, or a layer of it, forward and backward."
    ),
    "lengths": _sizes("--length", "Tokens of a row. Default: the powers of two from 4096 to 65536"),
    "positions": _sizes("--position", "Tokens read before. Default: 1024, 4096, 16384, 65536"),
    "segment": _size(2048, "Tokens of a segment; divides every length."),
    "tokens": _size(16, "Tokens of a sample."),
    "batch": _size(1, "Rows."),
    "length": _size(2048, "Tokens of a row."),
    "channels": _size(512, "Channels of scans, convolution and innovation."),
    "states": _size(16, "States of a channel, in both scans."),
    "width": _size(256, "Width of the residual stream, or of all heads of attention."),
    "layers": _size(4, "Pairs of sublayers, such as attention and MLP."),
    "heads": _size(4, "Heads of attention and of Mamba-2's recurrence."),
    "window": _size(512, "Tokens of the window of attention."),
    "vocabulary": _size(256, "Number of tokens in the vocabulary."),
    "fading": _size(16, "Fading slots of B'MOJO.", least=0),
    "eidetic": _size(64, "Eidetic slots of B'MOJO.", least=0),
    "parameters": _size(
        None, "Of all models but embedding and head, within 2 %. Default: 12 width^2 a layer."
    ),
    "baseline": _option(
        str | None, None, "The case to compare with. Default: the first.", metavar="NAME"
    ),
    "dtype": _option(Literal["float32", "bfloat16"], "float32", "Dtype of the computation."),
    "repetitions": _size(None, f"Rounds: every case takes its turn. Default: {REPETITIONS}."),
    "quick": _option(bool, False, f"Take {QUICK} rounds, and change nothing else.", "--quick"),
    "out": _option(
        Path | None, None, "Write results.json, with samples, and results.md.", metavar="DIR"
    ),
    "json": _option(bool, False, "Print JSON in place of tables.", "--json"),
}
"""Type and definition of every option of every subcommand."""

SIZES = ("batch", "length", "channels", "states", "heads", "width", "window", "fading", "eidetic")
MODEL = ("width", "layers", "heads", "window", "vocabulary", "fading", "eidetic", "parameters")
OUTPUT = ("repetitions", "quick", "out", "json")
Run = Callable[["Measurement", Any], None]


def _command(*names: str, **defaults: Any) -> Callable[[Run], Run]:
    """Make a function of a measurement and its options a subcommand; ``defaults`` override."""
    chosen = (*names, *OUTPUT)

    def make(function: Run) -> Run:
        name = function.__name__

        def run(**options: Any) -> None:
            settings = {n: value for n, value in options.items() if n not in OUTPUT}
            settings |= {n: str(v) for n, v in settings.items() if isinstance(v, Path)}
            rounds, quick, *output = (options[n] for n in OUTPUT)
            with told():
                if quick and rounds is not None:
                    raise UserError("--quick: it is a number of repetitions; give one of the two")
                from bmojo.cli.bench_session import Measurement

                rounds = rounds or (QUICK if quick else REPETITIONS)
                function(Measurement(name, settings, rounds, *output), SimpleNamespace(**options))

        parameters = []
        for n in chosen:
            kind, option = OPTIONS[n]
            option = copy.copy(option)
            option.default = defaults.get(n, option.default)
            only = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(n, only, default=option, annotation=kind))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {n: OPTIONS[n][0] for n in chosen}
        app.command(name, epilog=BENCH_EXIT_CODES, help=inspect.getdoc(function))(run)
        return function

    return make


@_command("only", *SIZES)
def ops(session: "Measurement", given: Any) -> None:
    """Time operations forward, and with their gradients, beside the same written plainly.

    Baselines are loops of lax.scan, whole and in chunks of 64 under jax.checkpoint, softmax
    over all pairs of tokens with a mask, jax.nn.dot_product_attention, and XLA's convolution.

    Before that, outputs and gradients of every form are compared with a slow oracle at an odd
    size, and with each other at the measured one.

    \b
    Examples:
      bmojo bench ops
      bmojo bench ops --ops scan --length 8192 --channels 256 --out runs/bench/scan
    """
    for name in ("width", "channels"):
        if (value := getattr(given, name)) % given.heads:
            raise UserError(
                f"--{name}: {value} is no multiple of {given.heads} heads; change one of them"
            )
    if given.fading > given.window:
        raise UserError(
            f"--fading: {given.fading} slots need a window as long; it is {given.window}"
        )
    from bmojo.benchmark.operations import Sizes, check_operations, operation_cases

    wanted = _list("--ops", given.only, OPERATIONS)
    sizes = Sizes(*(getattr(given, name) for name in SIZES))
    session.begin()
    checks = session.require(check_operations(wanted, tell=session.tell))
    cases, more, notes = operation_cases(sizes, wanted, tell=session.tell)
    session.end(checks + more, cases, given.length, given.width, lambda rows: notes)


@_command("overrides", "models", "part", "batch", "length", *MODEL, "baseline", "dtype")
def step(session: "Measurement", given: Any) -> None:
    """Time a whole training step of models with equal parameters: forward, backward, AdamW.

    The step is the one that bmojo train runs, its buffers donated. With --part layer: forward
    and backward of one layer, a mixer and an MLP, at any length.

    Before that, the logits of a sequence at once are compared with those of segments with the
    state carried, and the loss of the first step with that of the same tokens in segments.

    \b
    Examples:
      bmojo bench step
      bmojo bench step --models transformer,bmojo --length 8192 --baseline transformer
      bmojo bench step --part layer --length 32768 --out runs/bench/layer
    """
    chosen, against = _candidates(session, given)
    from bmojo.benchmark.steps import layer_cases, step_cases

    checks = session.check_segments(chosen, given.length)
    make = layer_cases if given.part == "layer" else step_cases
    cases, more = make(chosen, given.batch, given.length, against, session.tell)
    session.end(checks + more, cases, given.batch * given.length, given.width)


@_command("overrides", "models", "lengths", "segment", "batch", *MODEL, "dtype", models="bmojo")
def length(session: "Measurement", given: Any) -> None:
    """Time training steps against the length, on whole sequences and in segments.

    In segments, as with Trainer.segments_per_document, the state is carried from one to the
    next, and the last one is timed. Says whether time is linear in the length, and whether
    temporary memory is constant.

    \b
    Examples:
      bmojo bench length
      bmojo bench length --models bmojo,transformer --length 4096 --length 8192 --quick
    """
    wanted = sorted(set(given.lengths or LENGTHS))
    for tokens in wanted:
        if tokens % given.segment:
            raise UserError(
                f"--length: {tokens} is no multiple of --segment {given.segment}; change one of "
                "them"
            )
    chosen, _ = _candidates(session, given)
    from bmojo.benchmark.steps import conclude_lengths, length_cases

    checks = session.check_segments(chosen, wanted[0])
    cases, more = length_cases(chosen, wanted, given.segment, given.batch, session.tell)
    session.end(checks + more, cases, given.segment, given.width, conclude_lengths)


@_command("overrides", "models", "positions", "tokens", *MODEL, "baseline", "dtype")
def decode(session: "Measurement", given: Any) -> None:
    """Time a decoded token against the position, and count the bytes of the state.

    Tokens are drawn greedily behind a text of that length that has been read: in the compiled
    loop that bmojo generate runs, at most a sample's tokens in a call of it, and, "a call a
    token", with a call of a program for each. Full attention keeps as many keys and values as
    there are tokens.

    Before that, decoded tokens and their logits are compared with the parallel forward pass.

    \b
    Examples:
      bmojo bench decode
      bmojo bench decode --models transformer,bmojo --position 1024 --position 8192
    """
    chosen, against = _candidates(session, given)
    from bmojo.benchmark.decoding import check_decoding, conclude_decoding, decode_cases

    checks = session.check_each(chosen, check_decoding)
    positions = given.positions or POSITIONS
    cases = decode_cases(chosen, positions, given.tokens, session.rounds, against, session.tell)
    session.end(checks, cases, 1, given.width, conclude_decoding)


@_command("model", "batch", "length", *MODEL, "dtype", length=512, layers=24)
def start(session: "Measurement", given: Any) -> None:
    """Time a process from its start to its first finished training step.

    Processes with an empty cache of compiled programs and with one that has all they need take
    turns; the caches are in a temporary folder.

    \b
    Examples:
      bmojo bench start --quick
      bmojo bench start --model transformer --layers 12
    """
    session.begin()
    from bmojo.benchmark.models import choose
    from bmojo.benchmark.starts import Starts

    choose([given.model], dimensions := _dimensions(given))

    with tempfile.TemporaryDirectory(prefix="bmojo-bench-") as folder:
        starts = Starts(given.model, dimensions, given.batch, given.length, Path(folder))
        session.tell("starting processes, the first of each kind to warm up")
        tokens = given.batch * given.length
        session.end(starts.checks, starts.cases(), tokens, given.width, starts.conclude)


@_command("overrides", "models", "others", "environments", "peer_window", "batch", "length", *MODEL,
          "baseline", models="bmojo,mamba2,transformer")  # fmt: skip
def peers(session: "Measurement", given: Any) -> None:
    """Time training steps of other implementations beside ours, in float32 with AdamW.

    Hugging Face transformers (Mamba-2, Mistral, Zamba2, Falcon-H1, in PyTorch), mamba2-jax and
    recurrentgemma (Griffin, in JAX) run in environments of their own, each in a process that
    waits while another computes. Width, depth, vocabulary and threads are the same, parameters
    as near as their widths allow.

    Before that, a peer's first loss has to be near ln V, and its earlier logits must not change
    with later tokens.

    \b
    Examples:
      python scripts/peers/install.py torch
      bmojo bench peers --peers hf_mamba2,hf_mistral --quick
    """
    session.settings["dtype"] = given.dtype = "float32"
    wanted = _list("--peers", given.others, PEERS)
    from bmojo.benchmark import peers

    commands, dimensions = peers.find(wanted, given.environments), _dimensions(given)
    chosen, against = _candidates(session, given, wanted)
    from bmojo.benchmark.machine import threads
    from bmojo.benchmark.steps import step_cases

    checks = session.check_segments(chosen, given.length)
    sizes = given.batch, given.length
    cases, more = step_cases(chosen, *sizes, against, session.tell)
    cases = [peers.interleaved(case, "bmojo") for case in cases]
    with contextlib.ExitStack() as held:
        for name, command in commands.items():
            session.tell(f"making {name}")
            worker = held.enter_context(peers.start_worker(name, command))
            model, window = peers.PEERS[name].model, given.peer_window
            case, checked, used = peers.peer_case(
                worker, model, dimensions, *sizes, window, threads(), against
            )
            cases.append(case)
            more += checked
            session.facts["versions"] |= {f"{name}: {package}": v for package, v in used.items()}
        session.end(checks + more, cases, given.batch * given.length, given.width)


def _list(option: str, text: str, choices: str) -> list[str]:
    """The names of a list with commas, each once."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"{option}: {text!r} has an empty name; give some of {choices}")
    return list(dict.fromkeys(names))


def _candidates(
    session: "Measurement", given: Any, others: Sequence[str] = ()
) -> "tuple[list[Candidate], str]":
    """Models with equal parameters, and the baseline, after the machine has been recorded."""
    from bmojo.benchmark.models import choose

    names = _list("--models", given.models, MODELS)
    baseline, every = getattr(given, "baseline", None), [*names, *others]
    if baseline not in (None, *every):
        raise UserError(f"--baseline: {baseline!r} is not measured; {suggestion(baseline, every)}")
    session.begin()
    return choose(names, _dimensions(given), given.overrides or ()), baseline or names[0]


def _dimensions(given: Any) -> "Dimensions":
    from bmojo.benchmark.models import Dimensions

    slots = {"num_fading": given.fading, "num_eidetic": given.eidetic, "dtype": given.dtype}
    shared = {n: getattr(given, n) for n in MODEL if n not in ("fading", "eidetic")}
    return Dimensions(**shared, **slots)
