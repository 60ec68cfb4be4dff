"""Lists the packages; all else is in pyproject.toml.

`lowering/` and `sharding/` lie at the top of the repository and are imported as
`pjax_prim.lowering` and `pjax_prim.sharding`; `pjax_prim_command` is imported before either.
"""

from setuptools import find_packages, setup

BESIDE = ("lowering", "sharding")

packages = find_packages(include=["pjax_prim", "pjax_prim.*"])
for folder in BESIDE:
    packages += [f"pjax_prim.{folder}", *(f"pjax_prim.{folder}.{inner}" for inner in find_packages(folder))]

setup(
    packages=packages,
    package_dir={f"pjax_prim.{folder}": folder for folder in BESIDE},
    py_modules=["pjax_prim_command"],
)
