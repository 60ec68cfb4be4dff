"""What to write instead of primitives that have no projection rule."""

_COMPARISON = (
    "A comparison of values that depend on parameters can only choose: jnp.where(x > y, a, b) with >, >=, "
    "<, <=, or several of them joined by &, | and ~"
)
_INDEX = (
    "It chooses by order, which has no projection: take a maximum (jnp.max), or compute the indices "
    "from data and gather with them"
)
_FACTOR = "Factorisations have no projection: compute them from data, or write the operation with products"
_CALLBACK = (
    "The host computes it, and nothing is known of it: write it in JAX, or call it on data before the solve"
)
_COMPLEX = "Complex values have no projection: keep real and imaginary parts as two arrays"

_REMEDIES = {
    **dict.fromkeys(("eq", "ne", "gt", "ge", "lt", "le", "and", "or", "not", "xor"), _COMPARISON),
    **dict.fromkeys(("reduce_and", "reduce_or", "is_finite"), _COMPARISON),
    **dict.fromkeys(("argmax", "argmin", "sort", "top_k", "approx_top_k"), _INDEX),
    **dict.fromkeys(
        ("cholesky", "lu", "qr", "eigh", "eig", "svd", "schur", "householder_product",
         "triangular_solve", "tridiagonal_solve", "custom_linear_solve"), _FACTOR
    ),
    **dict.fromkeys(("real", "imag", "complex", "conj"), _COMPLEX),
    **dict.fromkeys(("pure_callback", "io_callback"), _CALLBACK),
    "fft": "Multiply by the matrix of the transform, a constant: x @ jnp.cos(...), x @ jnp.sin(...)",
    "reduce_prod": "For positive values write jnp.exp(jnp.sum(jnp.log(x)))",
    "cumprod": "For positive values write jnp.exp(jnp.cumsum(jnp.log(x)))",
    "cummax": "Write the maxima one by one, jnp.maximum(x[i], previous)",
    "cummin": "Write the minima one by one, jnp.minimum(x[i], previous)",
    "cumlogsumexp": "Write jnp.log(jnp.cumsum(jnp.exp(x)))",
    "atan2": "Write jnp.arctan(y / x), where x keeps its sign",
    "rem": "Write x - c * jnp.floor(x / c) with a constant c",
    "tan": "Write jnp.sin(x) / jnp.cos(x)",
    "sinh": "Write 0.5 * (jnp.exp(x) - jnp.exp(-x))",
    "cosh": "Write 0.5 * (jnp.exp(x) + jnp.exp(-x))",
    "while": (
        "Its number of iterations is not fixed, so it has no fixed graph: use jax.lax.scan, or "
        "jax.lax.fori_loop with Python integers as bounds (for eqx.internal, kind='lax')"
    ),
    "cond": (
        "A branch that is not taken would have no constraints, so it has no fixed graph: compute "
        "both and choose with jnp.where on a constant predicate, or branch in Python"
    ),
}  # fmt: skip


def remedy(name: str) -> str:
    """What to do about a primitive without a rule."""
    return _REMEDIES.get(
        name,
        "Give it one with pjp.register_projection(primitive, rule), or write the operation in terms of "
        "supported ones",
    )
