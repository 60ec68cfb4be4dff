"""Links that lay the package out as it is imported: `lowering/` and `sharding/` lie beside `pjax_prim/`."""

import shutil
from pathlib import Path


def link(root: Path, folder: Path) -> None:
    """Makes `folder/pjax_prim` anew."""
    package = folder / "pjax_prim"
    if package.exists():
        shutil.rmtree(package)
    package.mkdir(parents=True)
    for path in (*(root / "pjax_prim").iterdir(), root / "lowering", root / "sharding"):
        if path.name != "__pycache__":
            (package / path.name).symlink_to(path)
