#!/usr/bin/env python3
"""Prints a bill of materials: the crates that both programs are made of, as CycloneDX 1.5 (JSON).

    python3 tuning/sbom.py >exo-ingest.cdx.json

The same sources give the same bytes: it has no time and no random number. It lists what is linked
in, and not what only builds or tests the programs.
"""

import json
import pathlib
import sys
import tomllib

from licences import built_crates, metadata

ROOT = pathlib.Path(__file__).parent.parent
PROGRAMS = ("exo-ingest", "exo-load")


def purl(package):
    """The name of a crate among all packages of all kinds."""
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, checksums):
    found = {
        "type": "application" if package["name"] in PROGRAMS else "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        # A slash is an old OR.
        "licenses": [{"expression": package["license"].replace("/", " OR ")}],
    }
    # Crates of this repository are in no registry.
    if package["source"]:
        checksum = checksums[package["name"], package["version"]]
        found["purl"] = purl(package)
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return found


def main():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(it["name"], it["version"]): it.get("checksum") for it in lock["package"]}
    wanted, known = built_crates(), metadata()
    built = [it for it in known["packages"] if (it["name"], "v" + it["version"]) in wanted]
    built.sort(key=lambda it: (it["name"] not in PROGRAMS, it["name"], it["version"]))
    names = {it["id"]: purl(it) for it in built}
    dependencies = []
    for node in known["resolve"]["nodes"]:
        if node["id"] in names:
            linked = (
                it["pkg"]
                for it in node["deps"]
                if it["pkg"] in names and any(kind["kind"] is None for kind in it["dep_kinds"])
            )
            on = sorted({names[it] for it in linked})
            dependencies.append({"ref": names[node["id"]], "dependsOn": on})
    components = [component(it, checksums) for it in built]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": components[0]},
        "components": components[1:],
        "dependencies": sorted(dependencies, key=lambda it: it["ref"]),
    }
    print(json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
