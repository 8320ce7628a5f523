"""Build hook: metadata lives in pyproject.toml, the native library in CMakeLists.txt.

The library is optional. Without a C++ compiler, or when compiling fails, the Python packages are installed all the
same, and one line says what was left out and why; so does one when only its CUDA module does not compile.
RESTART_NATIVE=0 leaves all out on purpose.

    python setup.py build_ext --inplace      # a bare checkout: the modules go into bindings/restart_bindings/
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PACKAGE = "restart_bindings"
MODULES = ("_native_cpu", "_native_cuda")  # CMake builds those that it finds a compiler for
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


def say(line: str) -> None:
    print(f"restart-sampling: {line}", file=sys.stderr)


class LeftOut(Exception):
    """Why there is no native library, in a few words."""


class BuildNative(build_ext):
    """Runs CMake once for all modules; a module that it did not make is no error."""

    def run(self) -> None:
        try:
            self.build_native()
        except LeftOut as why:
            for stale in self.built() if not self.inplace else ():
                stale.unlink()  # an earlier build of the same wheel
            say(f"native library left out ({why}); the Python backends do the work")

    def build_native(self) -> None:
        if os.environ.get("RESTART_NATIVE") == "0":
            raise LeftOut("RESTART_NATIVE=0")
        cmake, generator = tools()
        build = ROOT / "build" / f"native-{sysconfig.get_config_var('SOABI')}"
        out = self.target()
        configure = [cmake, "-S", str(ROOT), "-B", str(build), *generator, "-DCMAKE_BUILD_TYPE=Release"]
        configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dnanobind_DIR={nanobind()}"]
        configure += [f"-DRESTART_OUTPUT={out}"]
        compile_ = [cmake, "--build", str(build), "--parallel", str(os.cpu_count() or 1)]
        steps = {"configuring": configure, "compiling": [*compile_, "--target", MODULES[0]], "the rest": compile_}
        log = ""
        for what, command in steps.items():
            result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            log += result.stdout
            if result.returncode:
                with tempfile.NamedTemporaryFile("w", prefix="restart-native-", suffix=".log", delete=False) as file:
                    file.write(log)
                if what == "the rest":
                    (out / f"{MODULES[1]}{SUFFIX}").unlink(missing_ok=True)  # of an earlier build
                    say(f"native CUDA module left out (compiling failed, see {file.name}); Triton does the work")
                else:
                    raise LeftOut(f"{what} failed, see {file.name}")

    def target(self) -> Path:
        """The folder of the package that is built: in the sources, or in the wheel to be."""
        if self.inplace:
            return Path(self.get_finalized_command("build_py").get_package_dir(PACKAGE)).resolve()
        return Path(self.build_lib).resolve() / PACKAGE

    def built(self) -> list[Path]:
        return [path for name in MODULES if (path := self.target() / f"{name}{SUFFIX}").exists()]

    def get_outputs(self) -> list[str]:
        return [str(path) for path in self.built()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}  # an editable install has them in the sources already


def tools() -> tuple[str, list[str]]:
    """CMake, and the options for its generator."""
    compiler = os.environ.get("CXX", "").split(" ")[0]
    if not any(map(shutil.which, filter(None, (compiler, "c++", "g++", "clang++")))):
        raise LeftOut("no C++ compiler was found")
    cmake = shutil.which("cmake")
    if cmake is None or subprocess.run([cmake, "--version"], capture_output=True, check=False).returncode:
        raise LeftOut("cmake was not found")
    ninja = shutil.which("ninja")
    if ninja is not None:
        # Named on each run: a folder that an isolated build left behind remembers a program that is gone.
        return cmake, ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    if shutil.which("make") is None:
        raise LeftOut("neither ninja nor make was found")
    return cmake, ["-G", "Unix Makefiles"]


def nanobind() -> str:
    """The folder of nanobind's CMake files."""
    spec = importlib.util.find_spec("nanobind")
    if spec is None or spec.origin is None:
        raise LeftOut("nanobind was not found")
    return str(Path(spec.origin).parent / "cmake")


setup(
    cmdclass={"build_ext": BuildNative},
    # Without sources, since CMake knows them; named here so that a wheel says which platform it is for.
    ext_modules=[Extension(f"{PACKAGE}.{name}", sources=[], optional=True) for name in MODULES],
)
