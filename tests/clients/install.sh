#!/bin/sh
# Installs what the clients of tests/protocol/real_clients.rs and the probes of tests/tls/probes.rs
# need, and for the browser of tests/operations/admin_page.rs the `ws` package. (Chromium itself is
# the distribution's.) Node's `ws` and `undici` go beside their programs; Python's `websockets`, `aiohttp` and
# `tlslite-ng` go into an environment of their own in the target directory. A second run changes
# nothing.
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
