"""Layer norms: every length of the input on a fine grid of its logarithm, then golden section."""

from collections.abc import Callable

import numpy as np

import pjax_prim.primitives as pp

from .case import Case, Rows, absolute_sum, around_minima, norm2, search

_GRID = np.geomspace(1e-19, 4.0, 3000)


def norm_case(eps: float, center: bool) -> Case:
    def rows(x: np.ndarray) -> np.ndarray:
        return x - x.mean(-1, keepdims=True) if center else x

    def f(a: np.ndarray) -> np.ndarray:
        t = rows(a)
        with np.errstate(all="ignore"):
            return t / np.sqrt(np.mean(t**2, -1, keepdims=True) + eps)

    def best(a: np.ndarray, z: np.ndarray) -> np.ndarray:
        t, y, n = rows(a), rows(z), a.shape[-1]
        size = np.sqrt(norm2(t) + norm2(y)) + 1e-300

        # In their plane: sums of products of opposite vectors would make minima of rounding.
        p = np.sqrt(norm2(t))[:, None]
        along = t / np.where(p > 0, p, 1)
        c = np.sum(along * y, -1)[:, None]
        d = np.sqrt(norm2(y - c * along))[:, None]

        def at(s: np.ndarray) -> np.ndarray:
            """The cost at the lengths s of the input, in the best direction for each."""
            s = s * size[:, None]
            g = s / np.sqrt(s**2 / n + eps)
            w = s[..., None] * t[:, None] + g[..., None] * y[:, None]
            length = np.sqrt(np.sum(w**2, -1, keepdims=True))
            u = np.where(length > 0, w / np.where(length > 0, length, 1), 0)
            moved = s[..., None] * u - t[:, None], g[..., None] * u - y[:, None]
            return sum(np.sum(x**2, -1) for x in moved)

        def roughly(s: np.ndarray) -> np.ndarray:
            s = s * size[:, None]
            g = s / np.sqrt(s**2 / n + eps)
            return s**2 + g**2 - 2 * np.hypot(p * s + c * g, d * g)

        s = np.broadcast_to(_GRID, (len(a), len(_GRID)))
        found = search(at, *around_minima(s, roughly(s), 3)).min(1)
        return np.minimum(found, norm2(t) + norm2(y)) + norm2(z - y)

    def cost(query: Rows, outputs: Rows, unit: np.ndarray) -> np.ndarray:
        """Rounding the input, which a small one enlarges, excuses as much of the output."""
        (new,), (a, z) = outputs, query
        steepness = 1 / np.sqrt(np.mean(rows(new) ** 2, -1) + eps)
        moved, missed = norm2(new - a), np.sqrt(norm2(f(new) - z))
        excused = moved + np.maximum(missed - steepness * unit / 16, 0) ** 2
        return np.maximum(excused, np.minimum(moved + missed**2, best(a, z)))

    project: Callable[..., tuple] = lambda a, z: (pp.project_normalize(a, z, eps, center),)  # noqa: E731
    return Case(
        "project_normalize", project, pp.project_normalize_p, ("vector", "vector"), 1, cost, best,
        absolute_sum, lambda a, z: (a, f(a)), static={"eps": eps, "center": center}, count=400,
    )  # fmt: skip


CASES = [norm_case(1e-5, True), norm_case(1e-12, False)]
