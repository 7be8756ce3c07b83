#!/bin/sh
# Installs the servers of tests/handover: SeaweedFS, an object store with the interface of S3, and NATS.
# They go into an environment of their own in the target directory. A second run changes nothing.
set -eu

tests=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$tests/../../target}
mkdir -p "$target"
target=$(cd "$target" && pwd)

environment=$target/handover/python
if ! cmp -s "$tests/requirements.txt" "$environment/installed.txt"; then
    python3 -m venv --clear "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check --requirement "$tests/requirements.txt"
    cp "$tests/requirements.txt" "$environment/installed.txt"
fi
