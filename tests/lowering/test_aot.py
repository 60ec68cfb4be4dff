"""What TPU compilers make of the kernels; no chip is needed, libtpu is."""

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.lowering import (
    bytes_moved,
    compile_for,
    kernel_bytes,
    kernels,
    main,
    measured,
    memory_traffic,
    predicted,
    rows,
)
from pjax_prim import primitives as pp

ROOT = Path(__file__).parents[2]
NUMBERS = 2**24
TOPOLOGIES = ("v5e:2x2", "v6e:2x2")
KERNELS = {
    "pjax_project_linear": "solve",
    "pjax_displace_dot": "displace_dot",
    "pjax_leave_dot": "leave_dot",
    "pjax_reflect_dot": "reflect_dot",
    "pjax_project_scalar": "elementwise",
    "pjax_displace_scalar": "elementwise",
}
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra: aot)"
)


def test_every_primitive_has_a_row_and_can_be_timed() -> None:
    table = rows(2**10)
    assert set(table) == {name for name in pp.DEFINITIONS if "test" not in name}
    for name in ("pjax_project_sum", "pjax_project_linear"):
        assert all(seconds > 0 for seconds in measured(name, table[name], repeats=1))


def test_a_wrong_name_is_an_error(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lowering", "project_everything"])
    with pytest.raises(SystemExit):
        main()
    assert "primitives: expected some of pjax_absolute_error, " in capsys.readouterr().err


PROGRAM = """
ENTRY %main (a: f32[4]) -> f32[2,8] {
  %a = f32[4]{0:T(128)} parameter(0)
  %start = (f32[4]{0:T(128)S(1)}, f32[4]{0:T(128)}, u32[]{:S(2)}) copy-start(%a)
  %done = f32[4]{0:T(128)S(1)} copy-done(%start)
  %slice = ((f32[4]{0:T(128)}), f32[2]{0:T(128)S(1)}, u32[]{:S(2)}) slice-start(%a), slice={[0:2]}
  %k = (f32[2,8]{1,0}, bf16[4]{0:S(1)}) custom-call(%a, %done), custom_call_target="tpu_custom_call", \
operand_layout_constraints={f32[4]{0}, f32[4]{0}}, metadata={}
  %x = f32[2,8]{1,0} get-tuple-element(%k), index=0
  ROOT %y = f32[2,8]{1,0} fusion(%x), kind=kLoop, calls=%f
}
"""


def test_bytes_are_read_from_the_program() -> None:
    (line,) = kernels(PROGRAM)
    assert kernel_bytes(line) == 64 + 8 + 16 + 16
    # a to the chip, and half of it; of the kernel what is in main memory; of the fusion both.
    assert memory_traffic(PROGRAM) == 16 + 8 + (16 + 64) + (64 + 64)
    assert memory_traffic(PROGRAM.replace("fusion(", "while(")) is None


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("name", [name for name in KERNELS if name != "pjax_project_linear"])
def test_everything_moves_once(name: str, topology: str) -> None:
    row = rows(NUMBERS)[name]
    text = compile_for(name, row, topology).as_text()
    (kernel,) = kernels(text)
    least = bytes_moved(name, row)
    assert kernel_bytes(kernel) <= 1.2 * least
    _, _, moved = predicted(name, row, topology)
    assert least <= moved <= 1.2 * least


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_solves_of_a_product_move_four_matrices(topology: str) -> None:
    row = rows(NUMBERS)["pjax_project_linear"]
    (p, k), (q, _), _ = row.shapes
    text = compile_for("pjax_project_linear", row, topology).as_text()
    (kernel,) = kernels(text)
    matrix = 4 * p * q
    assert kernel_bytes(kernel) <= 1.2 * 4 * matrix  # products and targets in, e and outputs out
    # Three products, each of a matrix and both factors; and both factors for their norms.
    factors = 4 * k * (p + q)
    least = 4 * matrix + 3 * (matrix + factors) + factors
    _, _, moved = predicted("pjax_project_linear", row, topology)
    assert moved <= 1.2 * least


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("name", KERNELS)
def test_no_register_is_spilled(name: str, topology: str, tmp_path: Path) -> None:
    code = (
        f"from benchmarks.lowering import *; compile_for({name!r}, rows({NUMBERS})[{name!r}], {topology!r})"
    )
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={tmp_path} --xla_jf_dump_llo_text=true",
    }
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    schedules = list(tmp_path.glob(f"*pjax_{KERNELS[name]}*final_hlo-static-per-bundle-utilization.txt"))
    assert schedules
    for schedule in schedules:
        totals = utilization(schedule.read_text())
        assert totals["VALU"] > 0
        assert sum(count for slot, count in totals.items() if "SPILL" in slot) == 0


def utilization(text: str) -> Counter[str]:
    """Operations by slot, over all bundles of a schedule: a line of names, then numbers in lines."""
    lines = text.splitlines()
    names = next(line for line in lines if line.startswith("MATMUL")).split(", ")
    bundles = [line.split() for line in lines[lines.index("== UTILIZATION:") + 1 :]]
    totals: Counter[str] = Counter()
    for bundle in bundles:
        totals.update(dict(zip(names, map(int, bundle), strict=True)))
    return totals
