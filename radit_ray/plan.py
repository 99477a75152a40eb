"""What a run costs before it is started: FLOPs, device time, memory, storage and money by stage.

    plan = plan_run(squad_open(), Sizes(num_chunks=35_000, ...), rates, num_devices=2)
    print(text(plan))

A forward pass is counted as 2 FLOPs a parameter and token, a training step as 6 (forward, and twice
that backward), without attention's own term, which is below a tenth for the lengths used here. An
exact search reads every vector once for each batch of queries, and multiplies 2 N D a query. What
a device reaches is no property of the method: `Rates` come from `radit doctor --calibrate`, or are
given; those of GPUs here are 40% of the published peak, an assumption. `plan_like` reads both off a
small run instead, for models that are there.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

from radit_ray.core.errors import InputError, nearest
from radit_ray.data import storage
from radit_ray.recipes import Recipe

BYTES_PER_WORD = 6.0  # of English text, with its space
TOKENS_PER_WORD = 1.35  # WordPiece and BPE, English
COMPRESSION = 0.45  # zstd on text in Parquet
QUERY_BATCH = 512  # queries that read the vectors together
SHOTS = 5  # demonstrations of replug-5shot
ADAM_BYTES = 16  # a parameter under AdamW in fp32: weights, gradient, two moments
MAY_BE_0 = ("start_s", "price_per_hour")  # of Rates
SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """What one device reaches: a GPU, or on CPUs one worker."""

    inference_flops_per_s: float
    training_flops_per_s: float
    search_bytes_per_s: float  # of vectors, in an exact search
    chunk_words_per_s: float = 2.0e5  # one CPU core
    index_bytes_per_s: float = 7.0e7  # of vectors, into a flat index; a core (docs/scale.md)
    start_s: float = 20.0  # of a stage: actors, and models loaded
    memory_bytes: float = 80e9
    price_per_hour: float = 0.0  # of one device, in any currency


# 40% of the published dense bf16 peak and 60% of the memory bandwidth: assumptions, not measured
DEVICES = {
    name: Rates(
        inference_flops_per_s=0.4 * peak,
        training_flops_per_s=0.4 * peak,
        search_bytes_per_s=0.6 * bandwidth,
        memory_bytes=memory,
    )
    for name, peak, bandwidth, memory in (
        ("a100", 312e12, 2.0e12, 80e9),
        ("h100", 989e12, 3.35e12, 80e9),
        ("h200", 989e12, 4.8e12, 141e9),
    )
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the recipe does not say: how much text, how many questions, how large the models."""

    num_chunks: float
    lm_parameters: float
    encoder_parameters: float = 110e6
    dimension: int = 768
    words_per_chunk: float = 100.0
    num_train: float = 500_000  # questions of all training tasks
    num_eval: float = 2_500
    question_words: float = 20.0
    answer_tokens: float = 8.0
    answers_per_question: float = 3.0  # different ones among a question's chunks


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage: `device_s` over all devices, `wall_s` on `num_devices` of them."""

    name: str
    flops: float
    device_s: float
    wall_s: float
    memory_bytes: float  # of one device; of the host where no device is used
    storage_bytes: float
    money: float
    note: str = ""


def number(value: str) -> float:
    """A count with a scale.

    >>> number("399M"), number("7B"), number("35k"), number("12")
    (399000000.0, 7000000000.0, 35000.0, 12.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kmbt]?)", value.strip().lower())
    if not found or not float(found[1]):
        raise InputError(f"{value!r}, expected a number above 0 such as 35000, 35k, 399M or 7B")
    return float(found[1]) * SCALES[found[2]]


def device_named(name: str) -> Rates:
    """The rates of a known GPU; InputError with the nearest one otherwise."""
    if name not in DEVICES:
        raise InputError(f"unknown device {name!r}{nearest(name, DEVICES)}; or give --rates FILE")
    return DEVICES[name]


def read_rates(file: str) -> Rates:
    """Rates from a JSON file with the fields of `Rates`; InputError names what is wrong."""
    if not storage.exists(file):
        raise InputError(f"{file} does not exist; expected a JSON file with rates")
    known = {field.name for field in dataclasses.fields(Rates)}
    try:
        found = dict(storage.read_json(file, fix="expected JSON with the fields of Rates"))
        for name in found:
            if name not in known:
                raise InputError(f"{file}: unknown field {name!r}{nearest(name, known)}")
        return Rates(**{name: float(value) for name, value in found.items()})
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: {error}; expected JSON with the fields of Rates") from None


def plan_run(recipe: Recipe, sizes: Sizes, rates: Rates, *, num_devices: int) -> list[StagePlan]:
    """Every stage of one cycle, in order. InputError where there is no device, and on sizes and
    rates that are none.
    """
    if num_devices < 1:
        raise InputError(f"num_devices={num_devices}, expected 1 or more")
    for given in (sizes, rates):
        for name, value in dataclasses.asdict(given).items():
            least = "0 or more" if name in MAY_BE_0 else "more than 0"
            if not (value > 0 or (value == 0 and name in MAY_BE_0)) or not math.isfinite(value):
                raise InputError(f"{name}={value} of {type(given).__name__}, expected {least}")
    chunk_tokens = TOKENS_PER_WORD * sizes.words_per_chunk
    query_tokens = TOKENS_PER_WORD * sizes.question_words
    text_bytes = sizes.num_chunks * sizes.words_per_chunk * BYTES_PER_WORD
    vectors = 2.0 * sizes.num_chunks * sizes.dimension
    ranked = sizes.num_train + sizes.num_eval + recipe.retrieve.corpus_examples
    encoder, lm = 2 * sizes.encoder_parameters, 2 * sizes.lm_parameters
    prompt_tokens = chunk_tokens + query_tokens
    scored = min(recipe.score.num_examples or ranked, ranked)
    drawn = scored * recipe.score.corpus_share  # a query and an answer of corpus_tokens each
    asked_tokens = (scored - drawn + recipe.score.dev_limit) * (prompt_tokens + sizes.answer_tokens)
    learnt_tokens = (scored - drawn) * query_tokens + drawn * recipe.retrieve.corpus_tokens
    drawn_tokens = drawn * (chunk_tokens + 2 * recipe.retrieve.corpus_tokens)
    step_tokens = recipe.lm_ft.batch_size * recipe.lm_ft.seq_len

    def stage(
        name: str,
        *,
        flops: float = 0.0,
        training: bool = False,
        seconds: float = 0.0,
        memory: float = 0.0,
        storage: float = 0.0,
        devices: int = num_devices,
        note: str = "",
    ) -> StagePlan:
        rate = rates.training_flops_per_s if training else rates.inference_flops_per_s
        work = max(flops / rate, seconds)
        wall = rates.start_s + work / devices
        return StagePlan(
            name=name,
            flops=flops,
            device_s=work,
            wall_s=wall,
            memory_bytes=memory,
            storage_bytes=storage,
            money=wall / 3600 * num_devices * rates.price_per_hour,
            note=note,
        )

    def search(name: str) -> StagePlan:
        reading = math.ceil(ranked / QUERY_BATCH) * vectors / rates.search_bytes_per_s
        flops = ranked * (encoder * query_tokens + 2.0 * sizes.num_chunks * sizes.dimension)
        rows = ranked * recipe.retrieve.k * sizes.words_per_chunk * BYTES_PER_WORD * COMPRESSION
        held = vectors / num_devices
        note = "" if held <= rates.memory_bytes else "the vectors do not fit these devices' memory"
        return stage(name, flops=flops, seconds=reading, memory=held, storage=rows, note=note)

    def training(name: str, share: float) -> StagePlan:
        held = ADAM_BYTES * sizes.lm_parameters
        note = ""
        if held > rates.memory_bytes:
            held /= num_devices
            note = "resources.zero_stage=3: states are sharded"
            if held > rates.memory_bytes:
                note = f"needs {math.ceil(held * num_devices / rates.memory_bytes)} devices"
        return stage(
            name,
            flops=3 * lm * recipe.lm_ft.steps * step_tokens * share,
            training=True,
            memory=held,
            storage=2.0 * sizes.lm_parameters,
            note=note,
        )

    shown = [v for v in recipe.variants if v not in ("closed-book", "it")]
    shots = sum(SHOTS for name in shown if name == "replug-5shot")  # each with a chunk of its own
    asked = sizes.num_eval * recipe.k_infer
    answers = sizes.answer_tokens * (1 + sizes.answers_per_question)
    answered = asked * (prompt_tokens * (len(shown) + shots) + answers * len(shown))
    serving = 2.0 * sizes.lm_parameters
    fits = "" if serving <= rates.memory_bytes else "the LM does not fit one device"
    plans = [
        stage(
            "chunk",
            seconds=sizes.num_chunks * sizes.words_per_chunk / rates.chunk_words_per_s,
            storage=COMPRESSION * text_bytes,
            note="CPU cores",
        ),
        stage(
            "embed",
            flops=encoder * sizes.num_chunks * chunk_tokens,
            memory=2.0 * sizes.encoder_parameters,
            storage=vectors + COMPRESSION * text_bytes,
        ),
        stage(
            "index",
            seconds=vectors / rates.index_bytes_per_s,
            memory=vectors / num_devices,
            storage=vectors + text_bytes,
            note="flat; CPU cores",
        ),
        search("retrieve"),
        training("lm-ft", 1.0),
    ]
    if {"it", "it-retrieval"} & set(recipe.variants):
        plans.append(training("it", query_tokens / prompt_tokens))
    plans += [
        stage(
            "score",
            flops=lm * (recipe.score.k or recipe.retrieve.k) * (asked_tokens + drawn_tokens),
            memory=serving,
            note=fits,
        ),
        stage(
            "r-ft",
            flops=3 * encoder * recipe.r_ft.epochs * learnt_tokens,
            training=True,
            memory=ADAM_BYTES * sizes.encoder_parameters,
            storage=12.0 * sizes.encoder_parameters,  # fp32: tuned, and both sides for others' use
        ),
        dataclasses.replace(search("retrieve"), name="retrieve-tuned"),
        stage("evaluate", flops=lm * answered, memory=serving, note=fits),
    ]
    return plans


def text(plans: Sequence[StagePlan]) -> str:
    """A table, and what all stages come to."""
    from radit_ray.report.table import text_table
    from radit_ray.report.words import seconds, si

    rows = [
        [
            plan.name,
            si(plan.flops),
            f"{plan.device_s / 3600:.3g}",
            seconds(plan.wall_s),
            f"{plan.memory_bytes / 1e9:.3g}",
            f"{plan.storage_bytes / 1e9:.3g}",
            f"{plan.money:.2f}",
            plan.note,
        ]
        for plan in [*plans, together(plans)]
    ]
    head = ["stage", "FLOPs", "device h", "wall", "GB of a device", "GB stored", "money", ""]
    return text_table(head, rows, False)


def together(plans: Sequence[StagePlan]) -> StagePlan:
    """All stages, one after the other."""
    return StagePlan(
        name="together",
        flops=sum(plan.flops for plan in plans),
        device_s=sum(plan.device_s for plan in plans),
        wall_s=sum(plan.wall_s for plan in plans),
        memory_bytes=max(plan.memory_bytes for plan in plans),
        storage_bytes=sum(plan.storage_bytes for plan in plans),
        money=sum(plan.money for plan in plans),
    )
