"""Where an Optuna study lives, and whether it is the one that is meant.

In: an SQLAlchemy URL, and all that decides a study's numbers as one record in JSON. Out: Optuna's
study, new or continued.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from radit_ray.core.errors import InputError, redacted

NAMED, SHOWN = 3, 60  # fields that an error names of all that differ, characters of a value


def open_stored(storage: str, *, name: str, directions: Sequence[str], pruner: Any) -> Any:
    """Optuna's study of that name in that storage (an SQLAlchemy URL), which may hold others, new
    or known; InputError where it cannot be used.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if _in_memory(storage):
        raise InputError(
            f"--storage {storage}: a database in memory is gone with its process; expected "
            "sqlite:///FILE or a server's URL"
        )
    try:
        return optuna.create_study(
            study_name=name,
            # a server may have dropped a connection while a trial took hours
            storage=optuna.storages.RDBStorage(storage, engine_kwargs={"pool_pre_ping": True}),
            directions=list(directions),
            load_if_exists=True,
            pruner=pruner,
        )
    except (
        ImportError,
        ValueError,  # a URL of no database
        RuntimeError,  # tables of another Optuna
        SQLAlchemyError,
        optuna.exceptions.StorageInternalError,
    ) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise InputError(
            f"--storage {redacted(storage)} cannot be used ({redacted(reason)}); expected an "
            "SQLAlchemy URL such as sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME of a "
            "database that answers, and its driver installed"
        ) from None


def check_same(study: Any, record: Mapping[str, Any], storage: str) -> None:
    """Writes the record into a new study; InputError where a known one has another."""
    now = json.loads(json.dumps(record))
    known = study.user_attrs.get("radit")
    if known is None:
        study.set_user_attr("radit", now)
    elif known != now:
        found = list(_differing(known, now))
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise InputError(
            f"{redacted(storage)} holds a study of another {', '.join(found[:NAMED])}{more}; "
            "choose another --output and --storage, or the settings (and the version of "
            "radit-ray) it was begun with"
        )


def _differing(known: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """`field (what the study has, here what is asked for)`, dotted, of each that differs."""
    for name in {**now, **known}:
        was, here = known.get(name), now.get(name)
        if isinstance(was, dict) and isinstance(here, dict):
            yield from _differing(was, here, f"{path}{name}.")
        elif was != here or (name in known) != (name in now):
            yield f"{path}{name} ({_shown(was, here)}, here {_shown(here, was)})"


def _shown(value: Any, other: Any) -> str:
    """A value in a line; of a list what the other one lacks, of a sha256 as much as names show."""
    if isinstance(value, list) and isinstance(other, list):
        value = [item for item in value if item not in other] or value
    text = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", json.dumps(value))
    return redacted(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")


def _in_memory(storage: str) -> bool:
    """Whether an SQLAlchemy URL names a database without a file or a server."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        url = make_url(storage)
    except SQLAlchemyError:  # whoever opens it says so
        return False
    name = url.database or ":memory:"
    return url.get_backend_name() == "sqlite" and ":memory:" in name
