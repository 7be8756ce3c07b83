#!/usr/bin/env python3
"""Checks tuning/kubernetes.yaml without a cluster: each object with Kubernetes' own schema, and
what a schema does not know, such as whether the grace period covers the drain.

    pip install kubernetes-validate
    python3 tuning/try-kubernetes.py [--node target/release/exo-ingest] [FILE]

With --node the program reads the configuration in the file, too.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import tomllib

import kubernetes_validate
import yaml

# Kubernetes before 1.30 has no preStop of kind sleep.
VERSIONS = ("1.30", "1.33")
# What the last call may take after the drain: docs/operations.md, "Drain".
LAST_CALL_S = 12
SINKS_S = 10


def seconds(text):
    """Seconds of a time such as "30s"."""
    return int(text.removesuffix("s"))


def check(documents):
    """Everything that is wrong, as sentences."""
    faults = []
    for document in documents:
        name = f"{document.get('kind')} {document.get('metadata', {}).get('name')}"
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                faults.append(f"{name}, {version}: {error.message}")
            except kubernetes_validate.InvalidSchemaError as error:
                faults.append(f"{name}: there is no such kind: {error}")

    def one(kind):
        return next(it for it in documents if it["kind"] == kind)

    pod = one("StatefulSet")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    settings = tomllib.loads(one("ConfigMap")["data"]["exo-ingest.toml"])

    def expect(holds, sentence):
        if not holds:
            faults.append(sentence)

    needed = container["lifecycle"]["preStop"]["sleep"]["seconds"] + LAST_CALL_S + SINKS_S
    needed += seconds(settings["drain_grace"]) + seconds(settings["drain"])
    grace = pod["terminationGracePeriodSeconds"]
    expect(grace >= needed, f"a stop takes up to {needed} s, and the grace period is {grace} s")
    resources = container["resources"]
    expect(resources["requests"] == resources["limits"], "not Guaranteed: requests are not limits")
    expect(str(resources["limits"]["cpu"]).isdigit(), "no whole CPUs: the pod gets none of its own")
    profile = pod["securityContext"]["seccompProfile"]
    expect(profile["type"] == "Localhost", "the default seccomp profile forbids io_uring")
    expect(pod["securityContext"]["runAsNonRoot"], "the node needs no root")
    probes = {"livenessProbe": "/health", "readinessProbe": "/ready", "startupProbe": "/health"}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe, path in probes.items():
        request = container[probe]["httpGet"]
        expect(request["path"] == path, f"{probe} asks {request['path']}, not {path}")
        expect(request["port"] in ports, f"{probe} asks a port that is not there")
    for name, setting in (("ingest", "listen"), ("admin", "admin")):
        port = int(settings[setting].rsplit(":", 1)[1])
        expect(ports[name] == port, f"port {name} is not that of the setting {setting}")
    label = one("StatefulSet")["spec"]["selector"]["matchLabels"]
    for document in documents:
        selector = document["spec"].get("selector") if "spec" in document else None
        selector = selector and selector.get("matchLabels", selector)
        expect(selector in (None, label), f"{document['metadata']['name']} selects other pods")
    expect(
        one("StatefulSet")["spec"]["serviceName"]
        in [it["metadata"]["name"] for it in documents if it["kind"] == "Service"],
        "the StatefulSet names a Service that is not there",
    )
    return faults, one("ConfigMap")["data"]["exo-ingest.toml"]


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", default=here / "kubernetes.yaml", type=pathlib.Path)
    parser.add_argument("--node", help="exo-ingest, to read the configuration")
    arguments = parser.parse_args()
    documents = list(yaml.safe_load_all(arguments.file.read_text()))
    faults, configuration = check(documents)
    if arguments.node:
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(configuration)
            file.flush()
            command = [arguments.node, "config", "--config", file.name]
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            if answer.returncode != 0:
                faults.append(answer.stderr.strip())
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(documents)} objects, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
