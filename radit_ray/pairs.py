"""Which LM, query encoder and index play which role: read from a run or a variants file."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.data import storage
from radit_ray.data.artifacts import inside_run, run_index
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
    long_new_tokens: int = 128
    max_answers: int = 0
    eos_token: str = ""


def read_pairs(spec: str) -> dict[str, Pair]:
    """{role: pair} of several parts, separated by commas, each one of
    - the folder of a finished run: all its variants that are roles;
    - a variants file (.toml, .json): one table a role, with the fields of Pair;
    - ROLE=RUN or ROLE=RUN:VARIANT: one role, by the run's variant of that name, else by the one
      whose name the role's begins with (`replug-contriever=RUN` is that run's `replug`).

    A role that is named by ROLE= comes from there. InputError names the file, and the field or
    role that is wrong; or the two sources of a role that is given twice.
    """
    found: dict[str, tuple[str, Pair]] = {}
    named: dict[str, Pair] = {}
    for part in (part.strip() for part in spec.split(",")):
        role, is_named, run = part.partition("=")
        if is_named:
            if role in named:
                raise InputError(f"--variants names role {role!r} twice; leave one out")
            named[role] = _chosen(role, run)
            continue
        for role, pair in _of_source(part).items():
            if role in found:
                raise InputError(
                    f"role {role!r} is in {found[role][0]} and in {part}; say which one with "
                    f"--variants ...,{role}=RUN, or give it another role: OTHER_ROLE=RUN"
                )
            found[role] = part, pair
    return {role: pair for role, (_, pair) in found.items()} | named


def _of_source(path: str) -> dict[str, Pair]:
    """Every role of a run or of a variants file."""
    if storage.exists(storage.join(path, "run.json")):
        return {role: pair for role, pair in _of_run(path).items() if role in ROLES}
    if path.endswith((".toml", ".json")) and storage.exists(path):
        return {role: _named_pair(role, value, path) for role, value in _tables(path).items()}
    raise InputError(
        f"--variants {path!r}, expected the folder of a finished run (with run.json), a variants "
        "file (.toml or .json: one table a role) or ROLE=RUN[:VARIANT]"
    )


def _of_run(path: str) -> dict[str, Pair]:
    """Every variant of a run. Demonstrations are the table's affair."""
    record = storage.join(path, "run.json")
    found = {}
    for name, fields in storage.read_json(record)["variants"].items():
        places = {key: inside_run(path, fields[key]) for key in ("lm", "query_encoder")}
        places["index"] = run_index(path, fields)
        found[name] = _pair(name, {**fields, **places}, record)
    return found


def _chosen(role: str, spec: str) -> Pair:
    """The pair of `RUN` or `RUN:VARIANT` that shall play a role."""
    if role not in ROLES:
        raise InputError(f"--variants {role}={spec}: unknown role {role!r}{nearest(role, ROLES)}")
    run, colon, variant = spec.rpartition(":")
    if not colon or "/" in variant:  # none, or that of a URI
        run, variant = spec, ""
    if not storage.exists(storage.join(run, "run.json")):
        raise InputError(f"--variants {role}={spec}: {run!r} is no finished run (no run.json)")
    pairs = _of_run(run)
    if not variant:
        fitting = [name for name in pairs if role == name or role.startswith(f"{name}-")]
        variant = max(fitting, key=len, default="")
    if variant not in pairs:
        raise InputError(
            f"--variants {role}={spec}: {run} has no variant {variant or role!r}; it has: "
            f"{', '.join(pairs)}"
        )
    return pairs[variant]


def _tables(path: str) -> dict[str, Any]:
    try:
        text = storage.read_bytes(path).decode()
        found = tomllib.loads(text) if path.endswith(".toml") else json.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {not_utf8(error)}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; expected TOML with one table a role") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no table; expected one table a role")
    return found


def _named_pair(role: str, fields: Any, path: str) -> Pair:
    if role not in ROLES:
        raise InputError(f"{path}: unknown role {role!r}{nearest(role, ROLES)}")
    known = [field.name for field in dataclasses.fields(Pair)]
    for name in fields if isinstance(fields, dict) else ():
        if name not in known:
            raise InputError(f"{path}: unknown field {role}.{name}{nearest(name, known)}")
    return _pair(role, fields, path)


def _pair(role: str, fields: Any, path: str) -> Pair:
    needed = ("lm", "query_encoder", "index")
    if not isinstance(fields, dict) or any(not fields.get(name) for name in needed):
        raise InputError(f"{path}: role {role!r} needs {', '.join(needed)}")
    kinds = typing.get_type_hints(Pair)
    known = {name: value for name, value in fields.items() if name in kinds}
    for name, value in known.items():
        kind = (int, float) if kinds[name] is float else kinds[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(f"{path}: {role}.{name}={value!r}, expected {kinds[name].__name__}")
    return Pair(**known)
