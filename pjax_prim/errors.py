"""Exceptions. Each names the argument or equation concerned, what was given and what is allowed."""


class PjaxError(Exception):
    """Base of every exception that `pjax_prim` defines."""


class ArgumentError(PjaxError, ValueError):
    """An argument has the wrong value, shape or dtype."""


class GraphError(PjaxError, ValueError):
    """A traced function cannot be turned into a constraint graph."""


class MissingRuleError(GraphError, NotImplementedError):
    """A JAX primitive that depends on trained values has no rule."""


class DataError(PjaxError, ValueError):
    """A data file is missing, truncated or of another format."""


class UnusedParameterWarning(UserWarning):
    """A parameter reaches no loss, so nothing constrains it."""


class LinearisedConstraintWarning(UserWarning):
    """An operation has no projection of its own: its nearest point is found by linearising it."""


class RunError(PjaxError, ValueError):
    """A run folder holds no run, or already holds one."""


class NonFiniteError(PjaxError, ArithmeticError):
    """Training met a value that is not finite."""


class CheckpointError(RunError):
    """A checkpoint is missing, damaged, cannot be written, or does not fit."""


class PreemptedError(PjaxError):
    """A run saved and stopped because it was asked to."""


class ProcessError(PjaxError, RuntimeError):
    """The processes of a run disagree."""


class LostProcessError(ProcessError):
    """Another process of the run is gone or cannot be reached."""
