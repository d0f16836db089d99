"""Build of the C core (one static library for each instruction set) and of the Cython boundary.

Environment
-----------
LSTM_ENGINE_WERROR=1
    Warnings of the C compiler are errors (continuous integration sets it).
LSTM_ENGINE_SANITIZE=address,undefined
    Build with these sanitizers, with debug information.
"""

import os
import platform
import re
import shlex
import sys
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
# What every object is made from, beside its source: the headers, and the flags in this file.
DEPENDS = [
    "setup.py",
    *sorted(
        str(path.relative_to(ROOT))
        for folder in ("include", "src")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".h", ".inc", ".def"}
    ),
]
CORE = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "src").glob("*.c"))
# What the libraries are made from: setuptools does not see that a module is older than a library that it links.
SOURCES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "src").rglob("*.c"))

# No contraction: a*b+c must round as it is written, or the bits would depend on the compiler's mood.
FLAGS = ["-std=c11", "-O2", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra"]
# Hot loops are unrolled by hand: -O3 makes 17 KB more of them, and none faster on AVX-512. They begin where a cache
# line does: without it a change anywhere moved them about, and some by 2 to 5%.
KERNEL_FLAGS = ["-O2", "-falign-functions=64", "-falign-loops=64"]
# No module needs all of the core: what is not called is left out, function by function.
SECTIONS = ["-ffunction-sections", "-fdata-sections"]
# Nothing is thrown through C, and the tables for it would be a twentieth of the library.
NO_UNWINDING = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"]
# Without a symbol table, which nobody reads in a wheel; what Python looks for is in the dynamic one.
LINK = ["-Wl,-s", "-Wl,--gc-sections"] if sys.platform.startswith("linux") else []
DEFINES = [("_POSIX_C_SOURCE", "200809L")]
if os.environ.get("LSTM_ENGINE_WERROR") == "1":
    FLAGS.append("-Werror")
if sanitizers := os.environ.get("LSTM_ENGINE_SANITIZE"):
    FLAGS += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1"]
    LINK = [f"-fsanitize={sanitizers}"]


def instruction_sets() -> list[tuple[str, list[str]]]:
    """Return name and compiler flags of this machine's instruction sets, and of their extensions."""
    text = (ROOT / "src/instruction_sets.def").read_text(encoding="utf-8")
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    found = re.findall(r'^LE_(?:ISA|EXTENSION)\((\w+),.* "(\w+)", "([^"]*)"\)', text, flags=re.MULTILINE)
    return [(name, shlex.split(flags)) for name, architecture, flags in found if architecture in (machine, "any")]


def library(name: str, sources: list[str], flags: list[str]) -> tuple[str, dict[str, object]]:
    """Return one static library in the form that setuptools' build_clib takes."""
    return name, {
        "sources": sources,
        "include_dirs": ["include", "src"],
        "macros": DEFINES,
        "cflags": [*FLAGS, *flags],
        "obj_deps": {"": DEPENDS},
    }


class BuildExtension(build_ext):
    """build_ext that builds the static libraries first, in place too."""

    def run(self) -> None:
        self.run_command("build_clib")
        super().run()


def extension(name: str, **options: object) -> Extension:
    """Return one Cython module of the package."""
    return Extension(
        f"lstm_engine.{name}",
        [f"lstm_engine/{name}.pyx"],
        include_dirs=["include", numpy.get_include()],
        define_macros=[
            ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
            ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
            # A shortcut for calls of Python methods, of which no step makes any: ten kilobytes.
            ("CYTHON_UNPACK_METHODS", "0"),
        ],
        # Generated code is not ours to warn about. Most of it never runs, and a step is as fast with -Os.
        # The C core is compiled with all the warnings and optimisations above.
        extra_compile_args=[
            "-std=c11",
            "-Os",
            "-g0",
            "-fvisibility=hidden",
            "-Wno-unused-function",
            *SECTIONS,
            *NO_UNWINDING,
        ],
        extra_link_args=[*LINK, "-pthread"],
        depends=[*DEPENDS, *SOURCES, *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("lstm_engine/*.px?"))],
        **options,
    )


sets = instruction_sets()
libraries = [library("lstm_engine_core", CORE, [*SECTIONS, *NO_UNWINDING])]
libraries += [
    # The flags of a set come last: the scalar reference is made small instead of fast.
    library(f"lstm_engine_{name}", [f"src/kernels/{name}.c"], [*KERNEL_FLAGS, *NO_UNWINDING, *flags])
    for name, flags in sets
]

setup(
    libraries=libraries,
    ext_modules=cythonize(
        # The C library's mathematics come last: the static libraries need it.
        [extension("_core", libraries=["m"]), extension("_blas")],
        compiler_directives={
            "language_level": 3,
            # Methods like those of the interpreter's own types, signatures included: smaller than Cython's imitation of
            # Python functions, and quicker to call, a tenth of the smallest model's step.
            "binding": False,
            "embedsignature": True,
            "embedsignature.format": "clinic",
            # A stream's state lies in C. What would be generated copies the pointers, and two streams would share it.
            "auto_pickle": False,
        },
        # Cython compares with the .pyx alone, not with these directives.
        force=any(path.stat().st_mtime < Path(__file__).stat().st_mtime for path in ROOT.glob("lstm_engine/*.c")),
    ),
    cmdclass={"build_ext": BuildExtension},
)
