"""An Optuna study in durable storage: which values to try next, and what came of those tried.

The study is the only state of a sweep: a killed one is continued from its storage, no searcher is
pickled. Trials that were running when their process died are marked failed and their values asked
for again. With one trial at a time a continued study asks for the same values as an uninterrupted
one, since the sampler of each trial is seeded by how many were finished before it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.engines.study_storage import check_same, open_stored

SAMPLERS = ("grid", "random", "tpe")
DIRECTIONS = {"max": "maximize", "min": "minimize"}
# share of earlier trials, in percent, of which one may be behind before it is stopped
STOPPERS = {"median": 50.0, "quartile": 75.0}
COMPARED = 4  # earlier trials that must have come as far, or none is stopped


@dataclasses.dataclass(frozen=True)
class Choices:
    """Some values of a field, as text or TOML gives them."""

    values: tuple[Any, ...]


def parts(text: str) -> tuple[str, ...]:
    """What is listed by commas, or by semicolons where one of it has commas.

    >>> parts("1, 3"), parts("query,context;minilm")
    (('1', '3'), ('query,context', 'minilm'))
    """
    found = text.split(";" if ";" in text else ",")
    return tuple(part.strip() for part in found if part.strip())


@dataclasses.dataclass(frozen=True)
class Range:
    """All numbers between two; whole ones where both ends are (`of` knows the field)."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only integers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def of(self, plain: Any) -> Range:
        """The range of a field that holds such a value: 0..1 of a float has all between.

        >>> Range(0, 1).of(0.5).whole, Range(0, 1).of(3).whole
        (False, True)
        """
        if not isinstance(plain, float):
            return self
        return dataclasses.replace(self, low=float(self.low), high=float(self.high))


Space = Mapping[str, Choices | Range]


def read_space(settings: Sequence[str]) -> dict[str, Choices | Range]:
    """A space from `field=value,value,...` (as `parts`) and `field=low..high[:log]`; InputError on
    what is neither.

    >>> read_space(["lm_ft.lr=1e-5..1e-3:log", "k_infer=1,3"])
    {'lm_ft.lr': Range(low=1e-05, high=0.001, log=True), 'k_infer': Choices(values=('1', '3'))}
    """
    space: dict[str, Choices | Range] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        # the third part is a key, such as a task of lm_ft.shares
        path = name.strip().split(".", 2)
        name = ".".join([*(part.replace("-", "_") for part in path[:2]), *path[2:]])
        values = parts(text)
        if not separator or not name or not values:
            raise InputError(
                f"space {setting!r}, expected field=value,value,... or field=low..high[:log]"
            )
        if name in space:
            raise InputError(f"space names {name!r} twice; give its values in one setting")
        if len(set(values)) != len(values):
            raise InputError(f"space {setting!r} holds a value twice")
        space[name] = _range(setting, text.strip()) or Choices(values)
    return space


def _range(setting: str, text: str) -> Range | None:
    """The range that a text spells; None where its ends are no numbers (`../models/a`)."""
    ends, _, scale = text.partition(":")
    low, high = (_number(end) for end in (ends + "..").split("..")[:2])
    if low is None or high is None or ends.count("..") != 1:
        return None
    log = scale == "log"
    if not low < high or (log and low <= 0) or scale not in ("", "log"):
        raise InputError(
            f"space {setting!r}, expected low..high or low..high:log, with a lower end below the "
            "upper one (log: above 0)"
        )
    return Range(low, high, log)


def _number(text: str) -> float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return None


class Study:
    """Asks for values and is told what came of them; see `open`."""

    def __init__(self, study: Any, space: Space, sampler: str, num_trials: int, seed: int) -> None:
        self.study, self.space, self.sampler = study, space, sampler
        self.num_trials, self.seed = num_trials, seed
        self.asked: dict[int, Any] = {}  # number -> Optuna's trial, since `open`
        self.looked: set[tuple[int, int]] = set()  # (number, step) of intermediate values
        self.given_up: list[dict[str, Any]] = []  # what failed since `open`

    @classmethod
    def open(
        cls,
        storage: str,
        space: Space,
        objectives: Mapping[str, str],
        *,
        sampler: str = "grid",
        num_trials: int = 0,
        seed: int = 0,
        stop_early: str = "",
        about: Mapping[str, Any] | None = None,
    ) -> Study:
        """Makes the study in `storage` (an SQLAlchemy URL), or continues it.

        objectives: {metric: "max" or "min"}. num_trials: finished trials wanted; a grid tries all.
        stop_early: one of STOPPERS, "" = none. about: whatever else decides the numbers, in JSON.
        InputError where the storage holds another study, or the settings contradict each other.
        """
        check_settings(space, objectives, sampler, num_trials)
        check_stopper(stop_early, objectives)
        study = open_stored(
            storage,
            name=f"radit {(about or {}).get('output', '')}".strip(),
            directions=[DIRECTIONS[direction] for direction in objectives.values()],
            pruner=_pruner(stop_early),
        )
        record = {
            "space": {name: dataclasses.asdict(values) for name, values in space.items()},
            "objectives": dict(objectives),
            "sampler": sampler,
            "seed": seed,
            **({"stop_early": stop_early} if stop_early else {}),
            **(about or {}),
        }
        check_same(study, record, storage)
        made = cls(study, space, sampler, num_trials, seed)
        made._take_up()
        return made

    def total(self) -> int:
        """Trials that are wanted, those that are finished among them."""
        return len(self._grid()) if self.sampler == "grid" else self.num_trials

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """(number, {field: value}) of the next trial; None when enough are finished or running."""
        import optuna

        taken = self._params("COMPLETE", "PRUNED", "RUNNING") + self.given_up
        if self.sampler == "grid":
            left = [point for point in self._grid() if point not in taken]
            if not left:
                return None
            if left[0] not in self._params("WAITING"):  # a kill may have come before its ask
                self.study.enqueue_trial(left[0])
        elif len(taken) >= self.num_trials:
            return None
        make = (
            optuna.samplers.TPESampler if self.sampler == "tpe" else optuna.samplers.RandomSampler
        )
        self.study.sampler = make(seed=self.seed * 100_003 + len(taken))
        trial = self.study.ask()
        values: dict[str, Any] = {}
        for name, field in self.space.items():
            if isinstance(field, Choices):
                values[name] = trial.suggest_categorical(name, field.values)
            elif field.whole:
                values[name] = trial.suggest_int(name, field.low, field.high, log=field.log)
            else:
                values[name] = trial.suggest_float(name, field.low, field.high, log=field.log)
        self.asked[trial.number] = trial
        return trial.number, values

    def tell(self, number: int, values: Sequence[float]) -> None:
        """What the objectives came to, in their order."""
        self._ended(number)
        self.study.tell(number, list(values))

    def look(self, number: int, step: int, value: float) -> bool:
        """Records an intermediate value, larger is better; whether the trial is to be stopped."""
        trial = self.asked[number]
        if (number, step) not in self.looked:  # a trial that was lost and begun again says it twice
            self.looked.add((number, step))
            up = self.study.direction.name == "MAXIMIZE"
            trial.report(value if up else -value, step)
        return bool(trial.should_prune())

    def settle(self, number: int, note: str) -> None:
        """The trial ended without values, and for good: it is not tried again. `note` says why."""
        import optuna

        self._ended(number).set_user_attr("note", note)
        self.study.tell(number, state=optuna.trial.TrialState.PRUNED)

    def fail(self, number: int) -> None:
        """The trial ended without values; it is not tried again before the next `open`."""
        self._ended(number)
        self.given_up.append(self._fail(number))

    def _ended(self, number: int) -> Any:
        """Optuna's trial, forgotten here: what ended is in the storage."""
        self.looked = {look for look in self.looked if look[0] != number}
        return self.asked.pop(number)

    def _fail(self, number: int) -> dict[str, Any]:
        import optuna

        trial = self.study.tell(number, state=optuna.trial.TrialState.FAIL)
        return dict(trial.params)

    def finished(self) -> list[dict[str, Any]]:
        """{field: value} of the finished trials, in the order they were asked."""
        return self._params("COMPLETE")

    def settled(self) -> list[tuple[dict[str, Any], str]]:
        """({field: value}, note) of the trials that ended without values."""
        found = self.study.get_trials(deepcopy=False)
        return [
            (dict(trial.params), trial.user_attrs["note"])
            for trial in found
            if trial.state.name == "PRUNED"
        ]

    def best(self) -> list[dict[str, Any]]:
        """{field: value} of the best trial, or of all that no other one beats (several
        objectives).
        """
        found: list[dict[str, Any]] = []
        for trial in self.study.best_trials:
            if trial.params not in found:
                found.append(trial.params)
        return found

    def _params(self, *states: str) -> list[dict[str, Any]]:
        found = self.study.get_trials(deepcopy=False)
        # one that waits has its values in the queue only
        return [
            trial.system_attrs.get("fixed_params", trial.params)
            for trial in found
            if trial.state.name in states
        ]

    def _grid(self) -> list[dict[str, Any]]:
        """All combinations, the last field changing fastest."""
        values = [field.values for field in self.space.values() if isinstance(field, Choices)]
        return [dict(zip(self.space, point, strict=True)) for point in itertools.product(*values)]

    def _take_up(self) -> None:
        """Trials left running are failed; what failed and was not tried again is asked again."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.name == "RUNNING":
                self._fail(trial.number)
        if self.sampler == "grid":
            return
        settled = self._params("COMPLETE", "PRUNED", "WAITING")
        for params in self._params("FAIL"):
            if params not in settled and set(params) == set(self.space):
                self.study.enqueue_trial(params)
                settled.append(params)


def _pruner(stop_early: str) -> Any:
    """What Optuna holds a trial's looks against, by one of STOPPERS; "" = nothing."""
    import optuna

    if not stop_early:
        return optuna.pruners.NopPruner()
    return optuna.pruners.PercentilePruner(
        STOPPERS[stop_early], n_startup_trials=COMPARED, n_min_trials=COMPARED
    )


def check_stopper(name: str, objectives: Mapping[str, str]) -> None:
    """InputError on an unknown way of stopping early, or several objectives."""
    if name and name not in STOPPERS:
        raise InputError(f"unknown stop_early {name!r}{nearest(name, STOPPERS)}")
    if name and len(objectives) > 1:
        raise InputError(
            f"stop_early={name} with {len(objectives)} objectives: a trial is behind by one "
            "measure only (Optuna stops none of a study with several); give one --objective"
        )


def check_settings(
    space: Space, objectives: Mapping[str, str], sampler: str, num_trials: int
) -> None:
    """InputError on an unknown sampler or direction, and on settings that contradict each other."""
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler {sampler!r}{nearest(sampler, SAMPLERS)}")
    for name, direction in objectives.items():
        if direction not in DIRECTIONS:
            raise InputError(f"objective {name}:{direction}{nearest(direction, DIRECTIONS)}")
    if not objectives:
        raise InputError("no objective given; expected METRIC:max or METRIC:min")
    if sampler == "grid":
        ranges = [name for name, field in space.items() if isinstance(field, Range)]
        if ranges:
            raise InputError(
                f"a grid needs the values of {ranges[0]!r} one by one; give field=a,b,c, or "
                "--sampler tpe or random"
            )
        if num_trials:
            raise InputError(
                f"num_trials={num_trials} with --sampler grid, which tries every point; leave it "
                "out, or give --sampler random or tpe"
            )
    elif not space:
        raise InputError("the space is empty; give --space field=value,value,...")
    elif num_trials < 1:
        raise InputError(f"num_trials={num_trials}, expected 1 or more with --sampler {sampler}")
