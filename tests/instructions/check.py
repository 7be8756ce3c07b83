#!/usr/bin/env python3
"""Compares the instructions of a frame, from received bytes to the ACK, with counts.txt.

    python3 tests/instructions/check.py            fails if a count has grown by more than 5 %
    python3 tests/instructions/check.py --update   writes what it counts to counts.txt

Needs valgrind. Builds its program in release. It measures no time.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
COUNTS = HERE / "counts.txt"
PACKAGE = "exo-ingest-instructions"
TOLERANCE = 0.05

# The function with the counted turns, and the starts of names that do not belong to the node.
COUNTED = "exo_ingest_instructions::counted_turn"
WORLD = "exo_ingest::io::scripted::"
SCRIPTED = (WORLD, f"<{WORLD}", f"core::ptr::drop_in_place<{WORLD}")


def build():
    command = ["cargo", "build", "--quiet", "--release", "--locked", "--package", PACKAGE]
    subprocess.run(command, cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    return ROOT / target / "release" / PACKAGE


def count(program, level, size):
    """Instructions of one frame."""
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch) / "callgrind.out"
        command = ["valgrind", "--tool=callgrind", f"--toggle-collect={COUNTED}"]
        command += ["--compress-strings=no", "--compress-pos=no", f"--callgrind-out-file={out}"]
        command += [program, level, size]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode != 0:
            sys.exit(f"valgrind or the program failed:\n{ran.stderr}")
        return round(instructions(out) / int(ran.stdout))


def instructions(out):
    """Everything that was counted, without the scripted world and the functions that it called."""
    total = world = 0
    caller = callee = None
    is_call = False
    for line in out.open():
        if line.startswith("fn="):
            caller = line[3:]
        elif line.startswith("cfn="):
            callee = line[4:]
        elif line.startswith("calls="):
            is_call = True
        elif line[0].isdigit():
            cost = int(line.split()[1])
            if not is_call:
                total += cost
                world += cost if caller.startswith(SCRIPTED) else 0
            elif caller.startswith(SCRIPTED) and not callee.startswith(SCRIPTED):
                world += cost
            is_call = False
    if world == 0 or total == world:
        sys.exit(f"{out} names no {COUNTED}, or nothing of {WORLD}: were they renamed?")
    return total - world


def rustc():
    command = ["rustc", "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--update", action="store_true", help="write the counts to counts.txt")
    update = parser.parse_args().update
    text = COUNTS.read_text()
    program = build()
    failed, lower = [], []

    def judge(match):
        level, size, before = match.group(1), match.group(2), int(match.group(3))
        now = count(program, level, size)
        change = now / before - 1
        line = f"{level} {size}: {now} instructions a frame, {before} before ({change:+.1%})"
        print(line, flush=True)
        if change > TOLERANCE:
            failed.append(level)
        elif change < -TOLERANCE:
            lower.append(level)
        return f"{level} {size} {now}"

    # Each line that is not a comment: level, bytes of a frame, instructions.
    counted = re.sub(r"^(\w+) (\d+) (\d+)$", judge, text, flags=re.MULTILINE)
    if update:
        COUNTS.write_text(re.sub(r"^# rustc .*$", f"# {rustc()}", counted, flags=re.MULTILINE))
        print(f"written to {COUNTS.relative_to(ROOT)}")
        return
    if (failed or lower) and f"# {rustc()}" not in text.splitlines():
        print(f"counts.txt was made by another compiler; this is {rustc()}")
    if lower:
        print("a frame costs less than before: please lower counts.txt with --update")
    if failed:
        sys.exit(f"a frame costs over {TOLERANCE:.0%} more than before; if it must, use --update")


if __name__ == "__main__":
    main()
