"""What went wrong, out of an error that crossed Ray's processes.

In: any exception. Out: the InputError inside it, or one line for the root of the failure. Ray wraps
what a worker raised (RayTaskError, UserCodeException, ActorDiedError, WorkerGroupError), keeps the
original as `cause` or `__cause__` where pickling spared it, and as the text of a traceback
everywhere; the last line of that text is Ray's own advice.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from radit_ray.core.errors import InputError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# "package.KindError: what", as traceback has it
_RAISED = re.compile(r"([A-Za-z_][\w.]*)(?:: (.*))?")


def input_error(error: BaseException) -> str | None:
    """The message of the InputError that `error` is or wraps; None where there is none."""
    for found in _wrapped(error):
        if isinstance(found, InputError) and not _is_rays(found):
            return str(found)
    return next((what for kind, what in _told(error) if kind.endswith("InputError")), None)


def root_cause(error: BaseException) -> str:
    """One line: kind and message of what a worker raised; of an error that is not Ray's, its own
    kind and last line.

    >>> root_cause(RuntimeError("a long story\\nthe point"))
    'RuntimeError: the point'
    """
    for found in _wrapped(error):
        if not _is_rays(found):
            return f"{type(found).__name__}: {_last_line(found)}"
    for kind, what in _told(error):
        if not kind.startswith("ray."):
            return f"{kind}: {what}"
    return f"{type(error).__name__}: {_last_line(error)}"


def _last_line(error: BaseException) -> str:
    lines = [line for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


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


def _told(error: BaseException) -> Iterator[tuple[str, str]]:
    """(kind, message) of each exception in the tracebacks that Ray's errors carry as text, the last
    raised first: in each the unindented line after the frames.
    """
    for found in filter(_is_rays, _wrapped(error)):
        lines = _COLOURS.sub("", str(found)).splitlines()
        for before, line in reversed(list(itertools.pairwise(lines))):
            match = _RAISED.fullmatch(line)
            if match and before.startswith((" ", "ray::", "Traceback ")):
                yield match[1], (match[2] or "").strip()
