"""Which LM, query encoder and index play which role: read from a run or a variants file."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.data import storage
from radit_ray.data.artifacts import inside_run
from radit_ray.data.records import not_utf8
from radit_ray.data.suites import ROLES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """An LM and a query encoder with the index it searches: what plays a role."""

    lm: str
    query_encoder: str
    index: str
    preset: str = "auto"
    nprobe: int = 0
    k: int = 10
    t_r: float = 0.0  # 0 = the preset's
    ensemble: str = "answers"
    max_new_tokens: int = 32
    max_answers: int = 0
    eos_token: str = ""


def read_pairs(spec: str) -> dict[str, Pair]:
    """{role: pair} of a run folder or of a variants file (.toml, .json: one table a role, with the
    fields of Pair); of several, separated by commas, a later one wins.

    InputError names the file, and the field or role that is wrong.
    """
    found: dict[str, Pair] = {}
    for path in (part.strip() for part in spec.split(",")):
        record = storage.join(path, "run.json")
        if storage.exists(record):
            # five demonstrations are the table's affair; a probe is no variant
            plain = {
                role: {**fields, "lm": inside_run(path, fields["lm"])}
                | {name: inside_run(path, fields[name]) for name in ("query_encoder", "index")}
                for role, fields in storage.read_json(record)["variants"].items()
                if role in ROLES
            }
            found |= {role: _pair(role, fields, record) for role, fields in plain.items()}
        elif path.endswith((".toml", ".json")) and storage.exists(path):
            found |= {role: _named_pair(role, value, path) for role, value in _tables(path).items()}
        else:
            raise InputError(
                f"--variants {path!r}, expected the folder of a finished run (with run.json) or a "
                "variants file (.toml or .json: one table a role)"
            )
    return found


def _tables(path: str) -> dict[str, Any]:
    try:
        text = storage.read_bytes(path).decode()
        found = tomllib.loads(text) if path.endswith(".toml") else json.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {not_utf8(error)}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; expected TOML with one table a role") from None
    return dict(found)


def _named_pair(role: str, fields: Any, path: str) -> Pair:
    if role not in ROLES:
        raise InputError(f"{path}: unknown role {role!r}{nearest(role, ROLES)}")
    known = [field.name for field in dataclasses.fields(Pair)]
    for name in fields if isinstance(fields, dict) else ():
        if name not in known:
            raise InputError(f"{path}: unknown field {role}.{name}{nearest(name, known)}")
    return _pair(role, fields, path)


def _pair(role: str, fields: Any, path: str) -> Pair:
    known = {field.name for field in dataclasses.fields(Pair)}
    needed = ("lm", "query_encoder", "index")
    if not isinstance(fields, dict) or any(not fields.get(name) for name in needed):
        raise InputError(f"{path}: role {role!r} needs {', '.join(needed)}")
    return Pair(**{name: value for name, value in fields.items() if name in known})
