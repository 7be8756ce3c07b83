#!/usr/bin/env python3
"""Runs the failed tests of a `cargo test` once more, alone: `again.py LOG`.

On two busy cores a test can fail because its process did not run for seconds. Such a test passes
alone, and a broken one fails again. Both are named, so that an unsteady test gets mended. Exit 0 if
at most MOST tests failed and all of them pass now.
"""

import re
import subprocess
import sys

MOST = 3


def failed(log):
    """The failed tests by target, from the output of `cargo test --no-fail-fast`."""
    targets, names, is_list = [], [], False
    for line in log.splitlines():
        if line == "failures:":
            # Each target prints the outputs after such a line, and the names after a second one.
            names, is_list = [], True
        elif is_list and (name := re.fullmatch(r"    ([\w:]+)", line)):
            names.append(name[1])
        elif line.startswith("test result: "):
            is_list = False
        elif rerun := re.search(r"error: .*test failed, to rerun pass `([^`]+)`", line):
            words = rerun[1].split()
            targets.append((words[2:] if words[0] == "-p" else words, names))
            names = []
    return targets


def main():
    with open(sys.argv[1], encoding="utf-8", errors="replace") as file:
        targets = failed(file.read())
    count = sum(len(names) for _, names in targets)
    # Without names it was no test that failed: a build, a doc test, or a whole program.
    if not targets or not all(names for _, names in targets):
        sys.exit("the tests failed as a whole, so none is run again")
    if count > MOST:
        sys.exit(f"{count} tests failed, more than {MOST}: none is run again")
    broken = False
    for target, names in targets:
        for name in names:
            print(f"=== again, alone: {' '.join(target)} {name}", flush=True)
            # All packages: for one alone, cargo would build its dependencies with other features.
            command = ["cargo", "test", "--workspace", *target, "--", "--exact", name]
            result = subprocess.run(command, check=False)
            print(f"{'BROKEN' if result.returncode else 'UNSTEADY'}: {name}", flush=True)
            broken = broken or result.returncode != 0
    sys.exit(1 if broken else 0)


main()
