#!/bin/sh
# Installs the Autobahn test suite for tests/protocol/conformance.rs into an environment of its own
# in the target directory. A second run changes nothing. The suite needs Python 2.7 (`pyenv install
# 2.7.18` installs it). The last virtualenv that makes environments for it runs on Python 3.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}
mkdir -p "$target"
environment=$(cd "$target" && pwd)/conformance

if cmp -s "$here/requirements.txt" "$environment/installed.txt"; then
    exit 0
fi

for python in python2.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python2.7; do
    # pyenv has the name also for a version that is not installed.
    if "$python" -c 'import ssl' 2>/dev/null; then
        found=$(command -v "$python")
        break
    fi
done
if [ -z "${found:-}" ]; then
    echo "the Autobahn test suite needs Python 2.7: install it, for example with \`pyenv install 2.7.18\`" >&2
    exit 1
fi

rm -rf "$environment"
python3 -m venv "$environment/virtualenv"
"$environment/virtualenv/bin/pip" install --quiet --disable-pip-version-check virtualenv==20.21.1
"$environment/virtualenv/bin/virtualenv" --quiet --python "$found" "$environment/python"
"$environment/python/bin/pip" install --quiet --disable-pip-version-check --no-python-version-warning \
    --requirement "$here/requirements.txt"
cp "$here/requirements.txt" "$environment/installed.txt"
