"""What went wrong, out of an error that crossed Ray's processes.

In: any exception. Out: the InputError inside it, or one line for the root of the failure. Ray wraps
what a worker raised (RayTaskError, UserCodeException, ActorDiedError, WorkerGroupError), keeps the
original as `cause` or `__cause__` where pickling spared it, and as the text of a traceback
everywhere; the last line of that text is Ray's own advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from radit_ray.core.errors import InputError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_RAISED = re.compile(
    r"([A-Za-z_][\w.]*)(?:: (.*))?"
)  # "package.KindError: what", as traceback has it
_LONG = 400  # characters of a line that still helps


def input_error(error: BaseException) -> str | None:
    """The message of the InputError that `error` is or wraps; None where there is none."""
    for found in _wrapped(error):
        if isinstance(found, InputError) and not _is_rays(found):
            return str(found)
    for kind, message in reversed(_raised(error)):
        if kind.rpartition(".")[2] == InputError.__name__:
            return message
    return None


def root_cause(error: BaseException) -> str:
    """One line: the kind and message of what a worker raised; of an error that is not Ray's, its
    own last line.
    """
    if not _is_rays(error):
        return _last_line(error)
    for found in _wrapped(error):
        if not _is_rays(found):
            return f"{type(found).__name__}: {' '.join(str(found).split())}"[:_LONG]
    for kind, message in reversed(_raised(error)):
        if not kind.startswith("ray."):
            return f"{kind}: {message}"[:_LONG]
    return _last_line(error)


def _last_line(error: BaseException) -> str:
    lines = [line for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _is_rays(error: BaseException) -> bool:
    """Whether a class of Ray wraps the error. One of them, made on the fly, inherits from the class
    of its cause too: such an InputError has a traceback for a message.
    """
    return type(error).__module__.split(".")[0] == "ray"


def _wrapped(error: BaseException) -> Iterator[BaseException]:
    """The error and what it wraps, outermost first, each once."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        if _is_rays(found):
            workers = getattr(found, "worker_failures", None)  # of Ray Train, by rank
            waiting += list(workers.values()) if isinstance(workers, dict) else []
            waiting += [getattr(found, name, None) for name in ("cause", "controller_failure")]
        waiting.append(found.__cause__)


def _raised(error: BaseException) -> list[tuple[str, str]]:
    """(kind, message) of each exception in the traceback that Ray carries as text, the first raised
    first: the unindented line after the frames.
    """
    if not _is_rays(error):
        return []
    found = []
    before = ""
    for line in _COLOURS.sub("", str(error)).splitlines():
        match = _RAISED.fullmatch(line)
        if match and before.startswith((" ", "ray::", "Traceback ")):
            found.append((match[1], (match[2] or "").strip()))
        before = line
    return found
