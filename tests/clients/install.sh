#!/bin/sh
# Installs what the real clients of tests/real_clients.rs need: Node's `ws` beside its client, Python's `websockets` in an
# environment of its own below the target directory. Does nothing where that has been done.
set -eu

clients=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$clients/../../target}
mkdir -p "$target"
target=$(cd "$target" && pwd)

cd "$clients/node"
if ! cmp -s package-lock.json node_modules/.installed.json; then
    npm ci --ignore-scripts
    cp package-lock.json node_modules/.installed.json
fi

environment=$target/clients/python
if ! cmp -s "$clients/python/requirements.txt" "$environment/installed.txt"; then
    python3 -m venv --clear "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check --requirement "$clients/python/requirements.txt"
    cp "$clients/python/requirements.txt" "$environment/installed.txt"
fi
