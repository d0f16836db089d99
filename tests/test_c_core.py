"""The C core on its own: built with the system's compiler, for every instruction set, without Python in it."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WARNINGS = [
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-D_POSIX_C_SOURCE=200809L",
]

#: Hash of every fused output of tests/c/test_core.c: one for all instruction sets and architectures. It changes only
#: if the arithmetic does, which is a change of what users get and has to be said in the changelog.
#: int8 has the same bits everywhere, and bfloat16 where its products are those of float32.
GOLDEN = {
    "": "b9a55520db5fda94",
    ":bfloat16:baseline": "243ce17642290cd1",
    ":int8": "dfb76edb015d128a",
    ":int8:second": "dfb76edb015d128a",
    ":int8:baseline": "dfb76edb015d128a",
    ":int8_recurrent": "1c4231b66009e490",
    ":int8_recurrent:second": "1c4231b66009e490",
    ":int8_recurrent:baseline": "1c4231b66009e490",
}


def compile_core(
    compiler: str, machine: str, folder: Path, *, optimise: list[str], link: list[str], name: str = "test_core"
) -> Path:
    """Build a program of tests/c and everything it needs; return it."""
    text = (ROOT / "src/instruction_sets.def").read_text()
    sets = re.findall(r'^LE_(?:ISA|EXTENSION)\((\w+),.* "(\w+)", "([^"]*)"\)', text, flags=re.MULTILINE)
    include = [f"-I{ROOT / 'include'}", f"-I{ROOT / 'src'}"]
    objects = []
    jobs = [(source, []) for source in sorted((ROOT / "src").glob("*.c"))]
    jobs += [
        (ROOT / f"src/kernels/{isa}.c", shlex.split(flags))
        for isa, architecture, flags in sets
        if architecture in (machine, "any")
    ]
    jobs.append((ROOT / f"tests/c/{name}.c", []))
    for source, flags in jobs:
        target = folder / f"{source.parent.name}_{source.stem}.o"
        subprocess.run([compiler, *WARNINGS, *optimise, *include, *flags, "-c", source, "-o", target], check=True)
        objects.append(target)
    program = folder / name
    subprocess.run([compiler, *optimise, *link, *objects, "-o", program, "-lm", "-pthread"], check=True)
    return program


def run_core(command: list[str | Path]) -> dict[str, str]:
    """Run the program; return the hash of each instruction set."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


def assert_golden(hashes: dict[str, str]) -> None:
    """Check the hashes of every instruction set, which are printed with the compute type behind its name."""
    sets = {name.partition(":")[0] for name in hashes}
    wanted = {name + kind: golden for name in sets for kind, golden in GOLDEN.items()}
    # Only CPUs with two extensions for a type have a second one.
    assert hashes == {name: golden for name, golden in wanted.items() if "second" not in name or name in hashes}


def compiler() -> str:
    found = shutil.which(os.environ.get("CC", "cc").split()[0])
    if found is None:
        pytest.fail("no C compiler found: set CC")
    return found


def test_every_instruction_set_gives_the_same_bits(tmp_path: Path) -> None:
    program = compile_core(compiler(), platform.machine(), tmp_path, optimise=["-O2"], link=[])
    hashes = run_core([program])
    assert "scalar" in hashes
    assert_golden(hashes)


def test_threads_on_one_cpu_are_taken_apart(tmp_path: Path) -> None:
    program = compile_core(compiler(), platform.machine(), tmp_path, optimise=["-O1"], link=[], name="test_placement")
    done = subprocess.run([program], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "places good\n"


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    try:
        program = compile_core(
            compiler(), platform.machine(), tmp_path, optimise=["-O1", "-g", *sanitize], link=sanitize
        )
    except subprocess.CalledProcessError:
        probe = tmp_path / "probe.c"
        probe.write_text("int main(void) { return 0; }\n")
        if subprocess.run([compiler(), *sanitize, probe, "-o", tmp_path / "probe"], check=False).returncode != 0:
            pytest.skip("this compiler has no sanitizers")
        raise
    assert_golden(run_core([program]))


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_sanitizers_find_nothing_among_threads(tmp_path: Path, sanitizer: str) -> None:
    """Many callers of one pool, every split, more threads than cores, forks while all of that goes on."""
    sanitize = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    if subprocess.run([compiler(), *sanitize, probe, "-o", tmp_path / "probe"], check=False).returncode != 0:
        pytest.skip(f"this compiler has no {sanitizer} sanitizer")
    program = compile_core(
        compiler(), platform.machine(), tmp_path, optimise=["-O1", "-g", *sanitize], link=sanitize, name="test_threads"
    )
    # ThreadSanitizer does not take part in a fork of a process with threads.
    arguments = ["without forks"] if sanitizer == "thread" else []
    done = subprocess.run([program, *arguments], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "threads good\n"


@pytest.mark.slow
def test_neon_gives_the_same_bits_under_emulation(tmp_path: Path) -> None:
    cross, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if cross is None or emulator is None:
        pytest.skip("needs aarch64-linux-gnu-gcc and qemu-aarch64")
    program = compile_core(cross, "aarch64", tmp_path, optimise=["-O2"], link=["-static"])
    hashes = run_core([emulator, program])
    assert "neon" in hashes
    assert_golden(hashes)
