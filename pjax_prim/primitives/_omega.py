"""The Wright omega function, which takes x to the root of w + log w = x, and its branch below zero."""

from jaxtyping import Array


def refined(w: Array, rest: Array) -> Array:
    """A root nearer to that of w + log |w| = x, from what is left of x, `rest` = x - w - log |w|.

    A step of Fritsch, Shafer and Crowley (1973) takes the fourth power of the relative error.
    """
    one = 1 + w
    part, double = rest / one, 2 * (one + 2 / 3 * rest)
    return w * (1 + part * (double - part) / (double - 2 * part))
