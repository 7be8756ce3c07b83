#!/usr/bin/env python3
"""Prints the licences of all crates that the programs are made of, with their texts.

    python3 tuning/licences.py >THIRD-PARTY.txt
"""

import json
import pathlib
import subprocess
import sys

NAMES = ("licen", "copying", "notice", "unlicense")


def built_crates():
    """Names and versions of the crates of both programs, without what builds or tests them."""
    command = ["cargo", "tree", "--locked", "--package", "exo-ingest", "--package", "exo-load"]
    command += ["--edges", "normal", "--prefix", "none", "--format", "{p}"]
    lines = subprocess.run(command, check=True, text=True, stdout=-1).stdout.splitlines()
    return {tuple(line.split()[:2]) for line in lines if line}


def metadata():
    """What Cargo knows of all crates of this platform."""
    version = subprocess.run(["rustc", "-vV"], check=True, text=True, stdout=-1).stdout
    host = version.split("host: ")[1].split()[0]
    # Crates of other platforms need not be fetched.
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host]
    return json.loads(subprocess.run(command, check=True, stdout=-1).stdout)


def main():
    wanted = built_crates()
    missing = []
    # Many crates have the same text: it is printed once, after the list of its crates.
    texts = {}
    print("exo-ingest and exo-load contain these crates.\n")
    for package in sorted(metadata()["packages"], key=lambda it: (it["name"], it["version"])):
        name = (package["name"], "v" + package["version"])
        if name not in wanted or package["source"] is None:
            continue
        print(f"{package['name']} {package['version']}: {package['license']}")
        directory = pathlib.Path(package["manifest_path"]).parent
        files = [it for it in sorted(directory.iterdir()) if it.name.lower().startswith(NAMES)]
        files = [it for it in files if it.is_file()]
        if not files:
            missing.append(package["name"])
        for file in files:
            text = file.read_text(errors="replace").strip()
            texts.setdefault(text, []).append(f"{package['name']} ({file.name})")
    if missing:
        print("\nWithout a licence text of their own:", ", ".join(missing))
    for text, names in texts.items():
        print("\n" + "-" * 80 + "\n" + ", ".join(names) + "\n\n" + text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
