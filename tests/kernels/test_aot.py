"""What the compiler makes of the kernels for sm_80 and sm_90, checked on any machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.children import python

import restart_kernels
from restart_kernels import aot

BUDGET = 86  # instructions an H200 issues for each element while it moves its 14 bytes in 4.8 TB/s
# Each constant of the row at each of its values, and all of them at once.
MACHINES = (
    "row-bf16-R0-halves",
    "row-fp32-R2",
    "row-bf16-R3-guided",
    "row-fp32-noises2",
    "row-bf16-paste",
    "row-fp32-guided-weighed",
    "row-bf16-R3-noises2-guided-weighed-paste",
)


def compiled(*options):
    """Return the reports of `python -m restart_kernels.aot --json`, from a process without the interpreter."""
    triton = pytest.importorskip("triton")
    if not (Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm").exists():
        pytest.skip("this triton has no CUDA tools")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = Path(restart_kernels.__file__).parents[2]
    environment["PYTHONPATH"] = os.pathsep.join(str(root / folder) for folder in ("kernels", "bindings"))
    done = python("-m", "restart_kernels.aot", "--json", *options, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def reports():
    """Return the reports of the default variants; the three on request are checked here."""
    rows = compiled("--arch", "90", "--arch", "80")
    rows += compiled("--arch", "80", "--variant", aot.TAIL, "--variant", aot.PIXELS, "--variant", aot.ADVANCE)
    advance, pixels, tail = rows.pop(), rows.pop(), rows.pop()
    assert (advance["variant"], advance["spills"], advance["shared"]) == (aot.ADVANCE, 0, 0)
    # three channels: every sample is read once, 16 bytes are written at once, nothing goes through shared memory
    assert (pixels["variant"], pixels["spills"], pixels["shared"], pixels["contracted"]) == (aot.PIXELS, 0, 0, [])
    assert pixels["accesses"] == {"ld.global.b32": 16, "st.global.v4.b32": 1}
    assert pixels["registers"] <= 32  # so that 64 warps fit on a multiprocessor
    # samples of one element: compiled, without a vector and with every rounding
    assert (tail["variant"], tail["spills"], tail["contracted"]) == (aot.TAIL, 0, [])
    return {(row["variant"], row["arch"]): row for row in rows}


def test_norms_are_compiled_without_spills_and_move_no_more_than_they_say():
    """Every access of x and y is 16 bytes wide where rows of channels or pixels are; a group that fits is read once."""
    names = ("group-norm-bf16", "group-norm-bf16-last", "group-norm-fp32-last-loop", "pixel-norm-bf16-last")
    rows = compiled("--arch", "90", *(word for name in names for word in ("--variant", name)))
    assert [row["variant"] for row in rows] == list(names)
    for row in rows:
        assert (row["spills"], row["stack"]) == (0, 0)
        assert row["registers"] <= 128  # two programs of 8 warps on a multiprocessor
    whole, last, loop, pixel = rows
    for row, writes in ((whole, 4), (last, 4), (pixel, 4)):
        assert {access for access in row["accesses"] if access.startswith("st")} == {"st.global.v4.b32"}
        assert row["accesses"]["st.global.v4.b32"] == writes
    assert [row["bytes_per_element"] - row["least_bytes_per_element"] for row in rows] == [0, 0, 4, 0]
    assert loop["accesses"]["ld.global.v2.b32"] >= 2 * loop["accesses"]["st.global.v2.b32"]  # read twice


def test_every_variant_is_compiled(reports):
    names = {"row-fp32", "row-bf16", "row-fp32-guided", "row-bf16-guided", "normal"}
    assert set(reports) == {(name, arch) for name in names for arch in (80, 90)}
    assert set(aot.NAMES) == names


def test_instructions_stay_below_the_issue_limit(reports):
    """All the code with the slow paths, and the part that a row with noise and a stored h executes."""
    for row in reports.values():
        assert row["per_element"] <= BUDGET, row["variant"]
        assert row["longest_path"] <= 80, row["variant"]
        assert row["shortest_path"] <= (48 if row["variant"] == "normal" else 30), row["variant"]


def test_the_plain_row_has_room_for_memory(reports):
    """Without guidance, 16-bit network: the case of the H200 bound."""
    assert reports["row-bf16", 90]["longest_path"] <= 74


def test_nothing_spills_and_no_thread_waits_for_another(reports):
    for row in reports.values():
        assert row["spills"] == 0
        assert row["stack"] == 0
        assert row["shared"] == 0
        assert row["barriers"] == 0
        assert row["registers"] <= 128, "16 warps per SM need at most 128"


def test_memory_moves_in_full_vectors(reports):
    """Four elements an access: 128 bits of float32, 64 of bfloat16; single words only for coefficients and flags."""
    for (name, _), row in reports.items():
        accesses = row["accesses"]
        quads = row["elements_per_thread"] / 4
        guided = "guided" in name
        wide = {kind: sum(n for a, n in accesses.items() if a.startswith(kind) and ".v4" in a) for kind in ("ld", "st")}
        half = {kind: sum(n for a, n in accesses.items() if a.startswith(kind) and ".v2" in a) for kind in ("ld", "st")}
        if name == "normal":
            assert (wide["st"], half["st"]) == (quads, 0)
            continue
        network = 2 if guided else 1  # tensors of the network's dtype, read and written
        if "bf16" in name:
            assert (wide["ld"], half["ld"]) == (2 * quads, network * quads)
            assert (wide["st"], half["st"]) == (2 * quads, network * quads)
        else:
            assert (wide["ld"], half["ld"]) == ((2 + network) * quads, 0)
            assert (wide["st"], half["st"]) == ((2 + network) * quads, 0)
        scalar_stores = [a for a in accesses if a.startswith("st") and ".v" not in a]
        assert not scalar_stores


def test_the_row_of_every_machine_stays_in_registers():
    """No spill, no shared memory, nothing contracted, whatever the machine has; and what its rows cost at most.

    Beyond a row of one register and one noise term these are 52 instructions for each further draw, of which PASTE has
    one, and four for the two products and the two sums of each further register.
    """
    rows = {row["variant"]: row for row in compiled("--arch", "90", *(f"--variant={name}" for name in MACHINES))}
    assert tuple(rows) == MACHINES
    for name, row in rows.items():
        assert (row["spills"], row["stack"], row["shared"], row["barriers"]) == (0, 0, 0, 0), name
        assert row["contracted"] == [], name
        assert row["registers"] <= 168, "12 warps per SM need at most 168"
        draws = 1 + ("noises2" in name) + ("paste" in name)
        registers = next((r for r in range(4) if f"R{r}" in name), 1)
        assert row["longest_path"] <= 80 + 52 * (draws - 1) + 4 * max(registers - 1, 0), name
        assert row["shortest_path"] <= 30, name
        assert all(".v" in access for access in row["accesses"] if access.startswith("st")), name


def test_the_weights_stay_in_registers_and_read_in_full_vectors():
    """Five sums of two outputs: of 16 elements 48 products and 80 sums at least, in one turn of the loop."""
    for row in compiled("--arch", "90", *(f"--variant={name}" for name in aot.WEIGH)):
        quads = row["elements_per_thread"] / 4
        assert (row["spills"], row["stack"], row["contracted"]) == (0, 0, [])
        assert row["shared"] <= 128
        assert row["registers"] <= 80, "3 programs of 8 warps fit on a multiprocessor"
        assert 8 <= row["loop"] <= 14
        wide = "ld.global.v4.b32" if "fp32" in row["variant"] else "ld.global.v2.b32"
        assert row["accesses"][wide] == 2 * quads


def test_the_names_of_all_machines():
    names = aot.machines()
    assert len(set(names)) == len(names) == 2 * 4 * 2 * 4 * 2 + len(aot.WEIGH)
    assert {*MACHINES, *aot.WEIGH, *aot.NAMES} - {"normal"} <= set(names)


def test_a_variant_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        aot.main(["--variant", "row-bf16-R4"])
    assert stopped.value.code == 2
    assert "no variant is named row-bf16-R4; they are all, norms, normal," in capsys.readouterr().err


def test_no_product_is_contracted(reports):
    for row in reports.values():
        assert row["contracted"] == []


def test_the_contraction_check_sees_contractions():
    exact, not_exact = "0f2F800000", "0f3F000000"
    assert aot.contracted(f"\tfma.rn.f32 \t%f3, %f1, {exact}, 0f2F000000;\n\tmul.rn.f32 \t%f1, %f2, %f3;\n") == []
    assert len(aot.contracted(f"\tfma.rn.f32 \t%f3, %f1, {not_exact}, %f2;\n")) == 1
    assert len(aot.contracted("\tmul.f32 \t%f1, %f2, %f3;\n")) == 1
    assert len(aot.contracted("\tsqrt.approx.ftz.f32 \t%f1, %f2;\n")) == 1
    assert len(aot.contracted("\tadd.ftz.f32 \t%f1, %f2, %f3;\n")) == 1
    assert aot.contracted("\tdiv.rn.f32 \t%f1, %f2, %f3;\n\tsqrt.rn.f32 \t%f1, %f2;\n") == []
    for approximate in ("div.full.f32", "div.approx.f32", "rcp.approx.ftz.f32", "rsqrt.approx.f32"):
        assert len(aot.contracted(f"\t{approximate} \t%f1, %f2, %f3;\n")) == 1
    assert len(aot.contracted("\t@%p1 fma.rn.f32 \t%f3, %f1, %f4, %f2;\n")) == 1


def test_paths_are_counted_through_branches():
    """Entry of 2 + branch, a hot block of 3, a cold one, a tail of 2 + exit."""
    lines = ["MOV R1, R2", "MOV R3, R4", "@!P0 BRA `(.L_x_1)", "FADD R1, R2, R3", "FADD R1, R2, R3"]
    lines += ["@P1 BRA `(.L_x_1)", "CALL.REL.NOINC `(slow)", ".L_x_1", "FMUL R1, R2, R3", "NOP", "EXIT"]
    text = "\n".join(
        f"{line}:" if line.startswith(".L") else f"        /*{i:04x}*/    {line} ;" for i, line in enumerate(lines)
    )
    assert aot.path_lengths(aot.basic_blocks(text)) == (8, 5)


def test_a_loop_is_one_turn():
    """Entry of 1, a loop of 3 that is taken once, a tail of 1 + exit; a block that only repeats is padding."""
    lines = [
        "MOV R1, R2",
        ".L_x_1",
        "FADD R1, R2, R3",
        "NOP",
        "FADD R1, R2, R3",
        "@P0 BRA `(.L_x_1)",
        "FMUL R1, R2, R3",
    ]
    lines += ["EXIT", ".L_x_2", "BRA `(.L_x_2)"]
    text = "\n".join(
        f"{line}:" if line.startswith(".L") else f"        /*{i:04x}*/    {line} ;" for i, line in enumerate(lines)
    )
    blocks = aot.basic_blocks(text)
    assert aot.path_lengths(blocks) == (6, 6)
    assert aot.longest_loop(blocks) == 3
    assert aot.longest_loop(blocks[:1]) == 0


def test_the_interpreter_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit) as stopped:
        aot.main([])
    assert stopped.value.code == 2
    assert "TRITON_INTERPRET" in capsys.readouterr().err
