"""lm-evaluation-harness: any of its tasks through retrieval and ensemble of a finished run.

    pip install 'radit-ray[lm-eval]'
    python -m radit_ray.harness --model_args run=runs/demo,variant=radit --tasks triviaqa,arc_easy
    simple_evaluate(model=RaditLM(run="runs/demo", variant="radit"), tasks=[...])  # from Python

In: the harness's requests, which are text. Out: what it expects of a model; the work is done in
`engines/plain_text.py`. Importing this module makes the model `radit` known to the harness, which
is how its registry works, and nothing else of the package imports it. See docs/evaluation.md.
"""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from radit_ray.core.errors import InputError, nearest
from radit_ray.engines.asking import open_variant
from radit_ray.engines.plain_text import (
    QUERIES,
    continuation_logprobs,
    continuations,
    text_logprobs,
)

try:
    # its own models first: it looks for them only while its registry is empty
    import lm_eval.models  # noqa: F401
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "lm_eval":
        raise
    missing = "lm-evaluation-harness is not installed; pip install 'radit-ray[lm-eval]'"
    if __name__ == "__main__":
        print(f"radit: {missing}", file=sys.stderr)
        sys.exit(2)
    raise InputError(missing) from None

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

PART = 512  # requests between two entries in the harness's cache
MAX_NEW_TOKENS = 256  # where a task names none: the harness's own default
NUM_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# the last three say nothing where nothing is sampled
GENERATION = (*NUM_TOKENS, "until", "do_sample", "num_beams", "temperature", "top_p", "top_k")


@register_model("radit")
class RaditLM(TemplateLM):
    """A variant of a finished run as a model of the harness; greedy decoding only."""

    def __init__(
        self,
        run: str = "",
        variant: str = "radit",
        *,
        query: str = "question",  # or "context": retrieve with the end of the whole context
        precision: str = "auto",  # of the LM
        device: str = "",  # "" = a GPU where there is one
        batch_tokens: int = 16384,  # tokens of one forward pass
        batch_size: int | str = 1,  # the harness always gives it; batches hold tokens here
        max_batch_size: int | None = None,  # likewise
        **unknown: Any,
    ) -> None:
        """InputError for an unknown argument or query, and as `open_variant`."""
        super().__init__()
        known = ("run", "variant", "query", "precision", "device", "batch_tokens")
        for name in unknown:
            raise InputError(f"unknown model argument {name!r}{nearest(name, known)}")
        if not run:
            raise InputError("no run given; expected --model_args run=FOLDER,variant=NAME")
        if query not in QUERIES:
            raise InputError(f"unknown query {query!r}{nearest(query, QUERIES)}")
        # the harness's command line says cuda:0 where nothing is said
        if not device or device.startswith("cuda"):
            device = (device or "cuda") if torch.cuda.is_available() else "cpu"
        self.opened = open_variant(run, variant, device=device, lm_precision=precision)
        self.lm = self.opened.lm
        self.run, self.query, self.batch_tokens = run, query, batch_tokens

    @property
    def eot_token_id(self) -> int:
        return self.lm.eos_id

    @property
    def max_length(self) -> int:
        return self.lm.context_length

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results."""
        told = {"run": self.run, "query": self.query, "precision": self.lm.precision}
        return {"radit": {**told, "variant": dataclasses.asdict(self.opened.variant)}}

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Ids of the text alone; BOS is put in front of a whole prompt."""
        return self.lm.encode(string)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy decoding writes it) of each continuation."""
        results = []
        for part in _parts(requests, "Log-probabilities", disable_tqdm):
            found = continuation_logprobs(
                self.opened,
                [context for (context, _), _, _ in part],
                # without a context the base class puts EOS there; here that is BOS, where there is
                # one
                [(ids if context else [], answer) for (context, _), ids, answer in part],
                query=self.query,
                batch_tokens=self.batch_tokens,
            )
            for (texts, _, _), result in zip(part, found, strict=True):
                self.cache_hook.add_partial("loglikelihood", texts, result)
            results += found
        return results

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of each whole text."""
        results = []
        for part in _parts(requests, "Whole texts", disable_tqdm):
            texts = [request.args[0] for request in part]
            found = text_logprobs(self.opened, texts, batch_tokens=self.batch_tokens)
            for request, result in zip(part, found, strict=True):
                self.cache_hook.add_partial("loglikelihood_rolling", request.args, result)
            results += found
        return results

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Each context's continuation before the first of its `until` strings."""
        # one call of the LM has one number of tokens and one set of strings
        kinds = collections.defaultdict[tuple[int, tuple[str, ...]], list[int]](list)
        for number, request in enumerate(requests):
            kinds[self._generation(request.args[1])].append(number)
        results = [""] * len(requests)
        for (max_new_tokens, until), numbers in kinds.items():
            for part in _parts(numbers, "Continuations", disable_tqdm):
                found = continuations(
                    self.opened,
                    [requests[number].args[0] for number in part],
                    max_new_tokens=max_new_tokens,
                    until=until,
                    query=self.query,
                    batch_tokens=self.batch_tokens,
                )
                for number, text in zip(part, found, strict=True):
                    results[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return results

    def _generation(self, arguments: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
        """(most tokens, strings that end a text) of a request's generation arguments.

        InputError for anything but greedy decoding.
        """
        for name in arguments:
            if name not in GENERATION:
                raise InputError(f"unknown generation argument {name!r}{nearest(name, GENERATION)}")
        sampled = arguments.get("do_sample")
        if sampled is None:  # as the harness reads it
            sampled = float(arguments.get("temperature") or 0) > 0
        if sampled or int(arguments.get("num_beams") or 1) > 1:
            raise InputError(
                f"generation arguments {arguments}: only greedy decoding is supported; set "
                "--gen_kwargs do_sample=False,num_beams=1"
            )
        named = [int(arguments[name]) for name in NUM_TOKENS if arguments.get(name) is not None]
        most = named[0] if named else min(MAX_NEW_TOKENS, self.max_length // 2)
        if not 0 < most < self.max_length:
            raise InputError(
                f"max_gen_toks={most}, expected 1 or more and less than the LM's context of "
                f"{self.max_length}; set --gen_kwargs max_gen_toks=N"
            )
        until = arguments.get("until") or []
        return most, tuple(text for text in ([until] if isinstance(until, str) else until) if text)


def _parts(items: Sequence[Any], what: str, silent: bool) -> Iterator[Sequence[Any]]:
    """Items in portions, with a progress bar; a kill costs the results of one portion."""
    with tqdm(total=len(items), desc=what, disable=silent) as bar:
        for start in range(0, len(items), PART):
            part = items[start : start + PART]
            yield part
            bar.update(len(part))


def main() -> None:
    """`lm_eval`'s own command line with this model known to it, and chosen unless another is."""
    from lm_eval.__main__ import cli_evaluate

    arguments = sys.argv[1:]
    if arguments[:1] == ["run"]:
        arguments = arguments[1:]
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        sys.argv[1:] = ["run", "--model", "radit", *arguments]
    try:
        cli_evaluate()
    except InputError as error:
        print(f"radit: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
