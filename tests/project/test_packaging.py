"""What is installed, what is public, and which way the packages depend on each other."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import restart_sampling as rs
from restart_kernels.dispatch import BACKENDS
from restart_sampling.experiments.measure import shipped

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = [
    "BackendError",
    "Batch",
    "CheckpointError",
    "Condition",
    "ConfigError",
    "Denoiser",
    "NonFiniteError",
    "OutputError",
    "Parameterization",
    "Parity",
    "Plan",
    "Preset",
    "Progress",
    "RestartConfig",
    "RestartError",
    "RestartInterval",
    "Sampler",
    "SeedError",
    "Seeds",
    "__version__",
    "load",
    "load_plan",
    "noise",
    "parity",
    "parse_seeds",
    "preset",
    "presets",
    "sample",
]


def test_public_names_are_frozen():
    assert rs.__all__ == PUBLIC
    for name in rs.__all__:
        assert getattr(rs, name) is not None


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("kernels/restart_kernels", {"restart_sampling"}),
        ("bindings/restart_bindings", {"restart_sampling", "restart_kernels"}),
        ("engine/restart_sampling", {"triton"}),
    ],
)
def test_dependencies_point_one_way(package, forbidden):
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert not forbidden & {name.split(".")[0] for name in names}, path


def test_plans_need_no_tensor_library():
    """Building and explaining a plan imports neither torch nor triton."""
    code = (
        "import sys; import restart_sampling as rs; rs.preset('imagenet64-edm-623').explain();"
        "sys.exit(int('torch' in sys.modules or 'triton' in sys.modules))"
    )
    path = ":".join(str(ROOT / p) for p in ("engine", "kernels", "bindings"))
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path, "PATH": ""}, check=False).returncode == 0
    )


def copy_of_the_sources(tmp_path):
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    return source


@pytest.mark.parametrize("why", ["no C++ compiler was found", "RESTART_NATIVE=0", "configuring failed, see"])
def test_one_line_says_why_the_native_library_was_left_out(tmp_path, why):
    """The build succeeds without a compiler, when the library is not wanted, and with a compiler that does not work."""
    pytest.importorskip("setuptools", minversion="77")
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    if why.startswith("no C++"):
        environment["PATH"] = str(tmp_path)
        environment.pop("CXX", None)
    elif why.startswith("RESTART"):
        environment["RESTART_NATIVE"] = "0"
    else:
        if shutil.which("cmake") is None or importlib.util.find_spec("nanobind") is None:
            pytest.skip("no cmake or no nanobind")
        broken = tmp_path / "c++"
        broken.write_text("#!/bin/sh\nexit 1\n")
        broken.chmod(0o755)
        environment["CXX"] = str(broken)
    source = copy_of_the_sources(tmp_path)
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (said,) = [line for line in result.stderr.splitlines() if "restart-sampling" in line]
    assert f"native library left out ({why}" in said
    assert not list((source / "bindings" / "restart_bindings").glob("*.so"))
    if why.startswith("configuring"):
        (log,) = tmp_path.glob("restart-native-*.log")
        assert str(log) in said
        assert "CMake Error" in log.read_text()


@pytest.mark.slow
def test_without_a_working_nvcc_there_is_still_the_cpu_module(tmp_path):
    """If the CUDA C++ does not compile, only the CUDA module is left out, and a line says so."""
    pytest.importorskip("setuptools", minversion="77")
    missing = [name for name in ("cmake", "nvcc", "c++") if shutil.which(name) is None]
    if missing or importlib.util.find_spec("nanobind") is None:
        pytest.skip("needs cmake, nvcc, a C++ compiler and nanobind")
    source = copy_of_the_sources(tmp_path)
    (source / "bindings" / "csrc" / "cuda" / "gpu.cu").write_text("no CUDA\n")
    quick = tmp_path / "c++"  # what the compiler makes is not run here, so it need not be fast
    quick.write_text(f'#!/bin/sh\nexec "{shutil.which("c++")}" "$@" -O0\n')
    quick.chmod(0o755)
    with (source / "CMakeLists.txt").open("a") as lists:  # the eleven files of nanobind in one go
        lists.write("set_target_properties(nanobind-static PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)\n")
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=source,
        env=os.environ | {"TMPDIR": str(tmp_path), "CXX": str(quick)},
        capture_output=True,
        text=True,
        check=True,
    )
    (said,) = [line for line in result.stderr.splitlines() if "restart-sampling" in line]
    assert "native CUDA module left out (compiling failed, see" in said
    (module,) = (source / "bindings" / "restart_bindings").glob("*.so")
    assert module.name.startswith("_native_cpu")


@pytest.mark.slow
def test_wheel_and_sdist_hold_what_they_should(tmp_path):
    """The wheel has the three packages, the weights and no tests; the sdist has the sources to build it."""
    pytest.importorskip("setuptools", minversion="77")
    build = (
        "import sys; from setuptools import build_meta as b; out = sys.argv[1];"
        "b.build_wheel(out); b.build_sdist(out)"  # building changes sys.argv
    )
    source = copy_of_the_sources(tmp_path)
    # Compiling takes half a minute and is not tested here.
    environment = os.environ | {"RESTART_NATIVE": "0"}
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True, env=environment
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"restart_sampling", "restart_kernels", "restart_bindings"}
    assert "restart_sampling/models/data/fashion-mnist.safetensors" in names
    for name in shipped.NAMES:  # `score`, `bench` and `tune` need them on a machine without the data set
        assert {f"restart_sampling/models/data/{name}{end}" for end in (".safetensors", "-reference.npz")} <= set(names)
    report = "restart_sampling/experiments/report/templates/report"
    assert {f"{report}{end}" for end in (".html", ".css", ".js")} <= set(names)
    assert "restart_sampling/py.typed" in names
    assert {f"restart_kernels/backends/{name}.py" for name in BACKENDS} <= set(names)
    assert not [n for n in names if "test" in n.lower()]
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"setup.py", "CMakeLists.txt", "LICENSE", "engine/restart_sampling/plan/plan.py"} <= members
    assert {"bindings/csrc/generate_scheme.py", "bindings/csrc/cpu/kernels.inl"} <= members
