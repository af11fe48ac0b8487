"""A model behind the interface of lm-evaluation-harness (the extra ``eval``).

Texts of any length go through the state in segments: nothing is cut off, whatever the
training length. As in training, a text follows the token that ends a document.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager

from bmojo.console import Progress, unseen
from bmojo.errors import UserError, suggestion
from bmojo.evaluation.streaming import BATCH_SIZE, SEGMENT_LENGTH, score
from bmojo.generation.generate import generate_all
from bmojo.generation.sampling import Sampling
from bmojo.generation.stopping import Continuation, Stop, cut

MAX_NEW_TOKENS = 256  # tokens generated where a task does not say
BOOTSTRAPS = 1000  # draws for standard errors that have no closed form

KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p", "min_p"}
# Values of further options that change nothing; None changes nothing either.
NEUTRAL = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1.0, "use_cache": True}


class HarnessModel(TemplateLM):
    """The harness's interface of a language model, and a tokenizer with eos, encode and decode.

    Texts are read as by :func:`bmojo.evaluation.streaming.score`; tasks that sample take the seed.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        segment_length: int = SEGMENT_LENGTH,
        batch_size: int = BATCH_SIZE,
        seed: int = 0,
        progress: Progress = unseen,
    ):
        super().__init__()
        self._model, self._tokenizer = model, tokenizer
        self._segment_length, self._batch_size = segment_length, batch_size
        self._seed, self._progress = seed, progress

    @property
    def eot_token_id(self) -> int:
        """The token between documents, which every text follows."""
        return int(self._tokenizer.eos)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of a text, without any added."""
        return [int(token) for token in self._tokenizer.encode(string)]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of both texts together, cut where the context's own ids end.

        Where the tokenizer joins the end of the context with the continuation, or encodes that end
        otherwise, the cut is before it. So the continuation has at least one token.
        """
        kept = context.rstrip()
        whole, alone = self.tok_encode(context + continuation), self.tok_encode(kept)
        same = (one == other for one, other in zip(whole, alone, strict=False))
        cut_at = sum(itertools.takewhile(bool, same))
        if whole == alone:
            raise UserError(
                f"continuation: {continuation!r} behind {context[-20:]!r} has no token of this "
                "tokenizer, and so no probability; leave it out of the task"
            )
        cut_at = min(cut_at, len(whole) - 1)
        return whole[:cut_at], whole[cut_at:]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability of continuations, and whether greedy decoding would give them.

        Raises:
          UserError: a continuation has no token.
        """
        pairs = [request.args for request in requests]
        return self._loglikelihood_tokens([(pair, *self._encode_pair(*pair)) for pair in pairs])

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """:meth:`loglikelihood` of token ids."""
        texts = [[*self._preceded(context), *after] for _, context, after in requests]
        results = []
        for scores, (_, _, after) in zip(self._score(texts), requests, strict=True):
            first = len(scores.losses) - len(after)
            loss = scores.losses[first:].sum(dtype=np.float64)
            results.append((-float(loss), bool(scores.right[first:].all())))
        return results

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, each token given all those before it."""
        texts = [[self.eot_token_id, *self.tok_encode(request.args[0])] for request in requests]
        return [-float(scores.losses.sum(dtype=np.float64)) for scores in self._score(texts)]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Continuations up to the first stop string, without it.

        Raises:
          UserError: a task asks for a kind of decoding that is not known here.
        """
        groups: dict[str, list[int]] = {}
        prompts = []
        for number, request in enumerate(requests):
            context, options = request.args
            prompts.append(self._preceded(self.tok_encode(context)))
            groups.setdefault(json.dumps(options, sort_keys=True), []).append(number)
        texts = [""] * len(prompts)
        for options, members in groups.items():
            until, count, sampling = _decoding(json.loads(options))
            stop = Stop((self.eot_token_id,), tuple(until), self._tokenizer.decode)
            members.sort(key=lambda number: -len(prompts[number]))
            for first in range(0, len(members), self._batch_size):
                rows = members[first : first + self._batch_size]
                drawn = generate_all(
                    self._model,
                    [prompts[number] for number in rows],
                    max_new_tokens=count,
                    sampling=sampling,
                    stop=stop,
                    seed=self._seed,
                    rows=rows,
                )
                for number, tokens in zip(rows, drawn, strict=True):
                    text = Continuation(self._tokenizer.decode, prompts[number], tokens)
                    texts[number] = cut(text.whole, until)
                self._progress(sum(map(len, drawn)))
        return texts

    def _preceded(self, tokens: list[int]) -> list[int]:
        """A text after the end of a document."""
        return tokens if tokens[:1] == [self.eot_token_id] else [self.eot_token_id, *tokens]

    def _score(self, texts: Sequence[list[int]]) -> Any:
        """Scores of texts, in segments no longer than the longest of them needs."""
        longest = max(map(len, texts), default=1)
        segment = min(self._segment_length, 1 << max(longest - 2, 0).bit_length())
        return score(self._model, texts, segment, self._batch_size, self._progress)


def run_tasks(
    lm: HarnessModel,
    tasks: str | Path,
    limit: int | None = None,
    metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Take every task of a folder of YAML files in the harness's format, or its own by name.

    Relative names of data files are looked for in the folder; names have commas between.
    ``limit``: documents of each task at most; ``metadata``: for tasks that make their data.

    Returns:
      Metrics by task.

    Raises:
      UserError: there is no such task, or their data cannot be read.
    """
    path = Path(tasks).expanduser().absolute()
    folder = str(path) if path.is_dir() else None
    # Forking after JAX has started its threads may hang.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    manager = TaskManager(
        include_path=folder, include_defaults=folder is None, metadata=metadata or {}
    )
    names = [name.strip() for name in str(tasks).split(",")] if folder is None else None
    for name in names or ():
        if name not in manager.all_tasks:
            near = suggestion(name, manager.all_tasks)
            raise UserError(f"--tasks: there is no {name!r}; {near}, or give a folder of tasks")
    if not (names := names or list(manager.all_subtasks)):
        raise UserError(f"{tasks}: no tasks are here; give a folder of the harness's YAML files")
    try:
        with contextlib.chdir(folder or "."):
            results = simple_evaluate(
                lm, tasks=names, task_manager=manager, limit=limit, bootstrap_iters=BOOTSTRAPS,
                log_samples=False, metadata=metadata,
            )  # fmt: skip
    except (OSError, ImportError, AssertionError) as error:  # a lost network among them
        line = " ".join(str(error).split())[:200]
        raise UserError(
            f"{tasks}: data of its tasks cannot be read ({type(error).__name__}: {line}); check "
            "dataset_path and data_files, metadata, and the connection"
        ) from None
    assert results is not None  # this is the only process
    return {
        task: {
            name.removesuffix(",none"): value
            for name, value in metrics.items()
            if isinstance(value, int | float)
        }
        for task, metrics in results["results"].items()
    }


def _decoding(options: dict[str, Any]) -> tuple[list[str], int, Sampling]:
    """Stop strings, number of tokens and sampling of a task."""
    wanted = dict(normalize_gen_kwargs(options, MAX_NEW_TOKENS))
    unknown = sorted(n for n, v in wanted.items() if n not in KNOWN and v != NEUTRAL.get(n))
    if unknown:
        raise UserError(
            f"generation_kwargs: {', '.join(unknown)} cannot be followed; "
            f"a task may say {', '.join(sorted(KNOWN))}"
        )
    until = [text for text in wanted.get("until", []) if text]
    sampling = Sampling(
        temperature=float(wanted.get("temperature", 0.0)),
        top_k=wanted.get("top_k") or None,
        top_p=float(wanted.get("top_p", 1.0)),
        min_p=float(wanted.get("min_p", 0.0)),
    )
    return until, int(wanted["max_gen_toks"]), sampling
