"""Settings of every test: the CPU as eight devices, 64-bit types on.

Set through `jax.config` rather than the environment, so that a subprocess of a test starts
as a user's would.
"""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
