"""The SIMD vocabulary and its elementary functions: errors, special cases, and the same bits everywhere.

``tests/c/test_simd_math.c`` is compiled once for each instruction set that this machine can run (NEON under emulation
where a cross compiler and QEMU are installed), apart from the package, by the system's compiler.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "tests/c/test_simd_math.c"
FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/src", f"-I{ROOT}/include"]

#: Every 16411th float32 on every instruction set, every 257th on those with more than one lane that run natively.
STRIDE, DENSE_STRIDE = 16411, 257

#: Every function's hash for each stride. One changes only if the arithmetic does, which is a change of what
#: users get and has to be said in the changelog.
GOLDEN = {
    STRIDE: {
        "exp": "0002103504137429",
        "expm1": "00020ff5df48237b",
        "log1p": "00020ed70a0e5911",
        "erf": "00020fa2e4f5af0b",
        "sigmoid": "00021075df234943",
        "tanh": "00020fc7ed46c242",
        "sigmoid_times": "00020f00bc66ad6e",
        "sigmoid_tanh": "00020f48f1bd35b5",
        "linear": "00020fa81f6d32a4",
        "activate_sigmoid": "00021075df234943",
        "activate_tanh": "00020fc7ed46c242",
        "relu": "00020fb3aa3ac21c",
        "hard_sigmoid": "000210315fc189db",
        "softsign": "0002104d89705f3d",
        "elu": "0002103754d0a7e0",
        "selu": "00020f33e7c97574",
        "softplus": "00020fedf8c459a1",
        "exponential": "0002103504137429",
        "gelu": "00020f7d106d4b1f",
        "gelu_tanh": "00020ef1e181f12f",
        "silu": "00020ee8dba70bd9",
        "leaky_relu": "00020f0e6f0efca3",
        "affine": "00020f1c0f829f46",
        "thresholded_relu": "00020fdc2a6b6287",
        "scaled_tanh": "0002101098e53a50",
    },
    DENSE_STRIDE: {
        "exp": "007f8e72a1420f93",
        "expm1": "007f90b792ea2784",
        "log1p": "007f9351022444fa",
        "erf": "007f90abfb8ec809",
        "sigmoid": "007f8ce5cf9bc837",
        "tanh": "007f8fe88e2af563",
        "sigmoid_times": "007f947572dd1c4b",
        "sigmoid_tanh": "007f986d4b40b144",
        "linear": "007f8e7c137028c9",
        "activate_sigmoid": "007f8ce5cf9bc837",
        "activate_tanh": "007f8fe88e2af563",
        "relu": "007f8dbd1931e771",
        "hard_sigmoid": "007f8d0f91257495",
        "softsign": "007f8eb966ec8e71",
        "elu": "007f936d6ecd8499",
        "selu": "007f91aec5d496f0",
        "softplus": "007f86fa73730004",
        "exponential": "007f8e72a1420f93",
        "gelu": "007f93059fcc8ebe",
        "gelu_tanh": "007f94827b0799a6",
        "silu": "007f93a40dfd8e29",
        "leaky_relu": "007f8dd38a0d399c",
        "affine": "007f8e1bb4878cb7",
        "thresholded_relu": "007f899b7416a886",
        "scaled_tanh": "007f93a87f013f23",
    },
}

Command = list[str | Path]


def compiler() -> str:
    """Return the C compiler; without one the tests fail rather than pass unrun."""
    found = shutil.which(os.environ.get("CC", "cc").split()[0])
    if found is None:
        pytest.fail("no C compiler found: set CC")
    return found


def runs_here(flags: list[str], folder: Path) -> bool:
    """Whether this CPU has the features that ``flags`` (-m...) tell the compiler to use."""
    features = [flag[2:] for flag in flags if flag.startswith("-m") and "=" not in flag]
    if not features:
        return True
    probe = folder / "probe.c"
    asked = " && ".join(f'__builtin_cpu_supports("{feature}")' for feature in features)
    probe.write_text(f"int main(void) {{ __builtin_cpu_init(); return ({asked}) ? 0 : 1; }}\n")
    subprocess.run([compiler(), probe, "-o", folder / "probe"], check=True)
    return subprocess.run([folder / "probe"], check=False).returncode == 0


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Command]:
    """The command that runs the test of each instruction set, the best native one first."""
    folder = tmp_path_factory.mktemp("simd")
    cross, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    text = (ROOT / "src/instruction_sets.def").read_text()
    builds: dict[str, Command] = {}
    commands: dict[str, Command] = {}
    for name, architecture, flags in re.findall(r'^LE_ISA\((\w+), "(\w+)", "([^"]*)"\)', text, flags=re.MULTILINE):
        program, switches = folder / name, shlex.split(flags)
        build: Command = [f"-DLE_SIMD_{name.upper()}", *FLAGS, *switches, SOURCE, "-o", program, "-lm"]
        if architecture in (platform.machine(), "any") and runs_here(switches, folder):
            builds[name], commands[name] = [compiler(), *build], [program]
        elif name == "neon" and cross is not None and emulator is not None:
            builds[name], commands[name] = [cross, "-static", *build], [emulator, program]
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(
            lambda build: subprocess.run(build, capture_output=True, text=True, check=False), builds.values()
        ):
            assert done.returncode == 0, done.stderr
    return commands


def run(command: Command, *arguments: str) -> dict[str, str]:
    """Run a test program; return the rest of its line for each function."""
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def test_every_instruction_set_gives_the_same_bits(programs: dict[str, Command]) -> None:
    assert "scalar" in programs
    for name, command in programs.items():
        assert run(command, "hash", str(STRIDE)) == GOLDEN[STRIDE], name


def test_vectors_give_the_same_bits_on_a_dense_sample(programs: dict[str, Command]) -> None:
    native = [name for name, command in programs.items() if len(command) == 1 and name != "scalar"]
    if not native:
        pytest.skip("this CPU runs the scalar code alone")
    for name in native:
        assert run(programs[name], "hash", str(DENSE_STRIDE)) == GOLDEN[DENSE_STRIDE], name


def test_errors_stay_within_the_stated_bounds(programs: dict[str, Command]) -> None:
    best = next(iter(programs.values()))
    assert set(run(best, "check", "1999")) == set(GOLDEN[STRIDE])


@pytest.mark.slow
@pytest.mark.parametrize("function", ["exp", "sigmoid", "tanh"])
def test_errors_stay_within_the_stated_bounds_for_every_float32(programs: dict[str, Command], function: str) -> None:
    best = next(iter(programs.values()))
    assert set(run(best, "check", "1", function)) == {function}
