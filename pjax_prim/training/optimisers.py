"""Optimisers of optax by name, and their learning rates."""

import inspect
from typing import Any

import jax

from ..errors import ArgumentError
from ..sharding.mesh import nearest
from .config import TrainConfig
from .methods import LEARNING_RATES, OPTIMISERS
from .task import Task


def make_optimiser(config: TrainConfig, task: Task) -> Any:
    """The optax transformation of a run: the task's own or the one named, after clipping.

    **Errors:** `ArgumentError` for a name that is none, for settings it does not take, for a learning rate
    that has no default, and for a name beside a task's own optimiser.
    """
    import optax

    method = config.method
    maker = None if task.optimiser is not None else _maker(optimiser_name(config))
    rate = make_schedule(config, learning_rate(config))
    if task.optimiser is not None:
        for name in ("optimiser", "optimiser_settings", "decay_matrices"):
            if getattr(method, name) not in (None, False):
                raise ArgumentError(f"{name}: the task {task.name} has an optimiser of its own")
        made = task.optimiser(rate)
    else:
        made = _made(maker, optimiser_name(config), rate, config)
    if not isinstance(made, optax.GradientTransformation):
        raise ArgumentError(f"optimiser: expected an optax transformation, given {made!r}")
    return made if method.clip is None else optax.chain(optax.clip_by_global_norm(method.clip), made)


def optimiser_name(config: TrainConfig) -> str:
    """Which optimiser is handed the direction, unless the task has its own."""
    return config.method.optimiser or OPTIMISERS[config.method.solver] or "adam"


def learning_rate(config: TrainConfig) -> float:
    """The learning rate, or the default of direction and optimiser. `ArgumentError` where there is none."""
    method = config.method
    direction = "displacement" if method.solver == "displacement" else "gradient"
    rate = method.learning_rate or LEARNING_RATES.get((direction, optimiser_name(config)))
    if rate is None:
        raise ArgumentError(f"learning_rate: {optimiser_name(config)} has no default here; give one")
    return rate


def _maker(name: str) -> Any:
    """The function of optax that makes an optimiser."""
    import optax

    makers = {
        found: maker
        for place in (optax.contrib, optax)
        for found, maker in vars(place).items()
        if not found.startswith(("_", "scale_by_")) and "learning_rate" in _parameters(maker)
    }
    if name not in makers:
        raise ArgumentError(f"optimiser: optax has no optimiser {name!r}{nearest(name, sorted(makers))}")
    return makers[name]


def _made(maker: Any, name: str, rate: Any, config: TrainConfig) -> Any:
    settings = config.method.optimiser_settings or {}
    taken = [parameter for parameter in _parameters(maker) if parameter != "learning_rate"]
    for setting in settings:
        if setting not in taken:
            raise ArgumentError(
                f"optimiser_settings: {name} has no setting {setting!r}{nearest(setting, taken)}"
            )
    given: dict[str, Any] = dict(settings)
    if config.method.decay_matrices:
        masks = [taken for taken in ("mask", "weight_decay_mask") if taken in _parameters(maker)]
        if not masks:
            raise ArgumentError(f"decay_matrices: {name} has no weight decay that a mask could be given to")
        given[masks[0]] = _matrices
    try:
        return maker(learning_rate=rate, **given)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"optimiser: {name} with {settings}: {error}") from None


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim >= 2, params)


def _parameters(maker: Any) -> dict[str, Any]:
    return dict(inspect.signature(maker).parameters) if inspect.isfunction(maker) else {}


def make_schedule(config: TrainConfig, rate: float) -> Any:
    """The learning rate of each update; a number where it is the same for all."""
    import optax

    method = config.method
    warmup, updates = (n * method.steps for n in (method.warmup or 0, config.batches))
    end = method.final_learning_rate or 0.0
    schedules = {
        "constant": optax.constant_schedule(rate),
        "cosine": optax.cosine_decay_schedule(rate, updates - warmup, end / rate),
        "linear": optax.linear_schedule(rate, end, updates - warmup),
    }
    after = schedules[method.schedule or "constant"]
    if not warmup:
        return after if method.changes_over_run else rate
    # The first update is not lost on a rate of zero.
    rising = optax.linear_schedule(rate / (warmup + 1), rate, warmup)
    return optax.join_schedules([rising, after], [warmup])
