"""`bmojo bench`: measurements of speed and memory, checked before they are timed."""

import contextlib
import enum
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bmojo.cli.bench_session import QUICK, REPETITIONS, Session
from bmojo.cli.common import told
from bmojo.errors import UserError, suggestion

if TYPE_CHECKING:
    from bmojo.benchmark.cases import Check
    from bmojo.benchmark.models import Chosen

BENCH_EXIT_CODES = """\b
Exit codes:
  0         measured
  1         something computes a wrong result, and nothing was timed; or the program crashed
  2         something in the command or the config has to be mended; the error says what"""

MODELS = "transformer,mamba,mamba2,hybrid,bmojo_f,bmojo,bmojo_ssd"
PEERS = "hf_mamba2,hf_mistral,hf_zamba2,hf_falcon_h1,mamba2_jax,recurrentgemma"
OPERATIONS = "scan,ssd,attention,memory_attention,convolution,selection"
LENGTHS = (4096, 8192, 16384, 32768, 65536)
POSITIONS = (1024, 4096, 16384, 65536)

app = typer.Typer(
    help="Measure speed and memory. What is wrong is not timed; what is timed takes turns with "
    "everything else, and with a calibration of the machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="\b\nExamples:\n  bmojo bench ops --quick\n"
    "  bmojo bench step --models transformer,bmojo --out results/step\n\n" + BENCH_EXIT_CODES,
)


class DType(enum.StrEnum):
    """What models compute in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Part(enum.StrEnum):
    """What of a model is run."""

    MODEL = "model"
    LAYER = "layer"


def _size(text: str) -> Any:
    return typer.Option(min=1, metavar="N", help=text)


def _names(what: str, choices: str) -> Any:
    return typer.Option(metavar="A,B,...", help=f"{what}, with commas between: {choices}.")


Batch = Annotated[int, _size("Rows.")]
Length = Annotated[int, _size("Tokens of a row.")]
Width = Annotated[int, _size("Width of the residual stream.")]
Layers = Annotated[int, _size("Pairs of sublayers, such as attention and MLP.")]
Heads = Annotated[int, _size("Heads of attention and of Mamba-2's recurrence.")]
Window = Annotated[int, _size("Tokens of the window of attention.")]
Vocabulary = Annotated[int, _size("Tokens there are.")]
Fading = Annotated[int, typer.Option(min=0, metavar="N", help="Fading slots of B'MOJO.")]
Eidetic = Annotated[int, typer.Option(min=0, metavar="N", help="Eidetic slots of B'MOJO.")]
Parameters = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Parameters without embedding and head that all models get, within 2 %. "
        "Default: 12 width^2 a layer.",
        show_default=False,
    ),
]
Models = Annotated[
    str, _names("Models of configs/models, or paths of gin files, but for bmojo_ssd", MODELS)
]
Baseline = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The case to compare with. Default: the first.", show_default=False
    ),
]
Computing = Annotated[DType, typer.Option("--dtype", help="Of the computation.")]
Repetitions = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help=f"Rounds in which every case takes its turn. Default: {REPETITIONS}.",
        show_default=False,
    ),
]
Quick = Annotated[
    bool, typer.Option("--quick", help=f"Take {QUICK} rounds, and change nothing else.")
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write results.json, samples included, and results.md there."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Bindings for every model."),
]


@app.command(epilog=BENCH_EXIT_CODES)
def ops(
    only: Annotated[str, typer.Option("--ops", metavar="A,B,...", help="Operations.")] = OPERATIONS,
    batch: Batch = 1,
    length: Length = 2048,
    channels: Annotated[int, _size("Channels of scans, convolution and innovation.")] = 512,
    states: Annotated[int, _size("States of a channel, in both scans.")] = 16,
    heads: Heads = 4,
    width: Annotated[int, _size("Width of attention, all heads together.")] = 256,
    window: Window = 512,
    fading: Fading = 16,
    eidetic: Eidetic = 64,
    repetitions: Repetitions = None,
    quick: Quick = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """Time operations forward, and with their gradients, beside the same written plainly.

    Baselines are loops of lax.scan, whole and in chunks of 64 under jax.checkpoint, softmax
    over all pairs of tokens with a mask, jax.nn.dot_product_attention, and XLA's convolution.

    Before that, outputs and gradients of every form are compared with a slow oracle at an odd
    size, and with each other at the measured one.

    \b
    Examples:
      bmojo bench ops
      bmojo bench ops --ops scan --length 8192 --channels 256 --out results/scan
    """
    settings = _settings(locals())
    with told():
        session = Session("ops", settings, repetitions, quick, out, json)
        for name, value, parts in (("--width", width, heads), ("--channels", channels, heads)):
            if value % parts:
                raise UserError(
                    f"{name}: {value} is no multiple of {parts} heads; change one of them"
                )
        if fading > window:
            raise UserError(f"--fading: {fading} slots need a window as long; it is {window}")
        from bmojo.benchmark.families import Sizes
        from bmojo.benchmark.operations import check_operations, operation_cases

        wanted = _list("--ops", only, OPERATIONS)
        sizes = Sizes(batch, length, channels, states, heads, width, window, fading, eidetic)
        session.begin()
        checks = session.require(check_operations(wanted, tell=session.tell))
        cases, more, notes = operation_cases(sizes, wanted, tell=session.tell)
        session.end(checks + more, cases, length, width, lambda rows: notes)


@app.command(epilog=BENCH_EXIT_CODES)
def step(
    overrides: Overrides = None,
    models: Models = MODELS,
    part: Annotated[
        Part, typer.Option(help="The whole model, or a layer of it forward and backward.")
    ] = Part.MODEL,
    batch: Batch = 1,
    length: Length = 2048,
    width: Width = 256,
    layers: Layers = 4,
    heads: Heads = 4,
    window: Window = 512,
    vocabulary: Vocabulary = 256,
    fading: Fading = 16,
    eidetic: Eidetic = 64,
    parameters: Parameters = None,
    baseline: Baseline = None,
    dtype: Computing = DType.FLOAT32,
    repetitions: Repetitions = None,
    quick: Quick = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """Time a whole training step of models with equal parameters: forward, backward, AdamW.

    The step is the one that bmojo train runs, its buffers donated. With --part layer: forward
    and backward of one layer, a mixer and an MLP, at any length.

    Before that, the logits of a sequence at once are compared with those of segments with the
    state carried, and the loss of the first step with that of the same tokens in segments.

    \b
    Examples:
      bmojo bench step
      bmojo bench step --models transformer,bmojo --length 8192 --baseline transformer
      bmojo bench step --part layer --length 32768 --out results/layer
    """
    settings = _settings(locals())
    with told():
        session = Session("step", settings, repetitions, quick, out, json)
        names = _list("--models", models, MODELS)
        against = _baseline(baseline, names)
        session.begin()
        chosen = _choose(names, settings, overrides)
        from bmojo.benchmark.steps import layer_cases, step_cases

        checks = session.check_forms(chosen, length)
        make = layer_cases if part is Part.LAYER else step_cases
        cases, more = make(chosen, batch, length, against, session.tell)
        session.end(checks + more, cases, batch * length, width)


@app.command(name="length", epilog=BENCH_EXIT_CODES)
def by_length(
    overrides: Overrides = None,
    models: Models = "bmojo",
    lengths: Annotated[
        list[int] | None,
        typer.Option(
            "--length",
            min=1,
            metavar="N",
            help="Tokens of a row; repeat for more. Default: the powers of two from 4096 to 65536.",
            show_default=False,
        ),
    ] = None,
    segment: Annotated[int, _size("Tokens of a segment; divides every length.")] = 2048,
    batch: Batch = 1,
    width: Width = 256,
    layers: Layers = 4,
    heads: Heads = 4,
    window: Window = 512,
    vocabulary: Vocabulary = 256,
    fading: Fading = 16,
    eidetic: Eidetic = 64,
    parameters: Parameters = None,
    dtype: Computing = DType.FLOAT32,
    repetitions: Repetitions = None,
    quick: Quick = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """Time training steps against the length, on whole sequences and in segments.

    In segments, as with Trainer.segments_per_document, the state is carried from one to the
    next, and the last one is timed. Says whether time is linear in the length, and whether
    temporary memory is constant.

    \b
    Examples:
      bmojo bench length
      bmojo bench length --models bmojo,transformer --length 4096 --length 8192 --quick
    """
    settings = _settings(locals())
    with told():
        session = Session("length", settings, repetitions, quick, out, json)
        names = _list("--models", models, MODELS)
        wanted = sorted(set(lengths or LENGTHS))
        for length in wanted:
            if length % segment:
                raise UserError(
                    f"--length: {length} is no multiple of --segment {segment}; change one of them"
                )
        session.begin()
        chosen = _choose(names, settings, overrides)
        from bmojo.benchmark.lengths import conclude, length_cases

        checks = session.check_forms(chosen, wanted[0])
        cases, more = length_cases(chosen, wanted, segment, batch, session.tell)
        session.end(checks + more, cases, segment, width, conclude)


@app.command(epilog=BENCH_EXIT_CODES)
def decode(
    overrides: Overrides = None,
    models: Models = MODELS,
    positions: Annotated[
        list[int] | None,
        typer.Option(
            "--position",
            min=1,
            metavar="N",
            help="Tokens that have been read; repeat for more. Default: 1024, 4096, 16384, 65536.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[int, _size("Tokens of a sample.")] = 16,
    width: Width = 256,
    layers: Layers = 4,
    heads: Heads = 4,
    window: Window = 512,
    vocabulary: Vocabulary = 256,
    fading: Fading = 16,
    eidetic: Eidetic = 64,
    parameters: Parameters = None,
    baseline: Baseline = None,
    dtype: Computing = DType.FLOAT32,
    repetitions: Repetitions = None,
    quick: Quick = False,
    out: Out = None,
    json: Json = False,
) -> None:
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
    settings = _settings(locals())
    with told():
        session = Session("decode", settings, repetitions, quick, out, json)
        names = _list("--models", models, MODELS)
        against = _baseline(baseline, names)
        session.begin()
        chosen = _choose(names, settings, overrides)
        from bmojo.benchmark.decoding import check_decoding, conclude, decode_cases

        checks: list[Check] = []
        for model in chosen:
            session.tell(f"checking {model.name}")
            checks += session.require(check_decoding(model))
        cases = decode_cases(
            chosen, positions or POSITIONS, tokens, session.rounds, against, session.tell
        )
        session.end(checks, cases, 1, width, conclude)


@app.command(epilog=BENCH_EXIT_CODES)
def start(
    model: Annotated[str, typer.Option(metavar="NAME", help=f"A model of {MODELS}.")] = "bmojo",
    batch: Batch = 1,
    length: Length = 512,
    width: Width = 256,
    layers: Layers = 24,
    heads: Heads = 4,
    window: Window = 512,
    vocabulary: Vocabulary = 256,
    fading: Fading = 16,
    eidetic: Eidetic = 64,
    parameters: Parameters = None,
    dtype: Computing = DType.FLOAT32,
    repetitions: Repetitions = None,
    quick: Quick = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """Time a process from its start to its first finished training step.

    Processes with an empty cache of compiled programs and with one that has all they need take
    turns; the caches are in a temporary folder.

    \b
    Examples:
      bmojo bench start --quick
      bmojo bench start --model transformer --layers 12
    """
    settings = _settings(locals())
    with told():
        session = Session("start", settings, repetitions, quick, out, json)
        session.begin()
        _choose([model], settings, ())
        from bmojo.benchmark.starts import Starts

        with tempfile.TemporaryDirectory(prefix="bmojo-bench-") as folder:
            starts = Starts(model, _dimensions(settings), batch, length, Path(folder))
            session.tell("starting processes, the first of each kind to warm up")
            session.end(starts.checks, starts.cases(), batch * length, width, starts.conclude)


@app.command(epilog=BENCH_EXIT_CODES)
def peers(
    overrides: Overrides = None,
    models: Models = "bmojo,mamba2,transformer",
    others: Annotated[str, typer.Option("--peers", metavar="A,B,...", help="Others.")] = PEERS,
    environments: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where scripts/peers/install.py made their environments. "
            "Default: peers in BMOJO_CACHE_DIR, or in ~/.cache/bmojo.",
            show_default=False,
        ),
    ] = None,
    peer_window: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Window of attention of hf_mistral and recurrentgemma. Default: the whole past.",
            show_default=False,
        ),
    ] = None,
    batch: Batch = 1,
    length: Length = 2048,
    width: Width = 256,
    layers: Layers = 4,
    heads: Heads = 4,
    window: Window = 512,
    vocabulary: Vocabulary = 256,
    fading: Fading = 16,
    eidetic: Eidetic = 64,
    parameters: Parameters = None,
    baseline: Baseline = None,
    repetitions: Repetitions = None,
    quick: Quick = False,
    out: Out = None,
    json: Json = False,
) -> None:
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
    settings = _settings(locals()) | {"dtype": "float32"}
    with told(), contextlib.ExitStack() as held:
        session = Session("peers", settings, repetitions, quick, out, json)
        names = _list("--models", models, MODELS)
        wanted = _list("--peers", others, PEERS)
        against = _baseline(baseline, [*names, *wanted])
        from bmojo.benchmark.peers import PEERS as KINDS
        from bmojo.benchmark.peers import Peer, default_environments, find, pausing, peer_case

        commands = find(wanted, environments or default_environments())
        session.begin()
        chosen = _choose(names, settings, overrides)
        from bmojo.benchmark.machine import threads
        from bmojo.benchmark.steps import step_cases

        checks = session.check_forms(chosen, length)
        cases, more = step_cases(chosen, batch, length, against, session.tell)
        cases = [pausing(case) for case in cases]
        versions: dict[str, str] = {}
        for name, command in commands.items():
            session.tell(f"making {name}")
            peer = held.enter_context(Peer(name, command))
            case, checked, used = peer_case(
                peer,
                KINDS[name],
                _dimensions(settings),
                batch,
                length,
                peer_window,
                threads(),
                against,
            )
            cases.append(case)
            more += checked
            versions |= {f"{name}: {package}": number for package, number in used.items()}
        session.facts["versions"] |= versions
        session.end(checks + more, cases, batch * length, width)


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """Options as they go into results."""
    left_out = ("out", "json", "quick", "repetitions")
    shown = {name: value for name, value in options.items() if name not in left_out}
    plain = {name: str(v) if isinstance(v, Path | enum.StrEnum) else v for name, v in shown.items()}
    return plain


def _list(option: str, text: str, choices: str) -> list[str]:
    """The names of a list with commas, each once."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"{option}: {text!r} has an empty name; give some of {choices}")
    return list(dict.fromkeys(names))


def _baseline(name: str | None, names: Sequence[str]) -> str:
    if name is None:
        return names[0]
    if name not in names:
        raise UserError(f"--baseline: {name!r} is not measured; {suggestion(name, names)}")
    return name


def _dimensions(settings: dict[str, Any]) -> Any:
    from bmojo.benchmark.models import Dimensions

    return Dimensions(
        width=settings["width"],
        layers=settings["layers"],
        heads=settings["heads"],
        vocabulary=settings["vocabulary"],
        window=settings["window"],
        num_fading=settings["fading"],
        num_eidetic=settings["eidetic"],
        parameters=settings["parameters"],
        dtype=settings["dtype"],
    )


def _choose(
    names: Sequence[str], settings: dict[str, Any], overrides: Sequence[str] | None
) -> "list[Chosen]":
    from bmojo.benchmark.models import choose

    return choose(names, _dimensions(settings), overrides or ())
