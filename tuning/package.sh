#!/bin/sh
# Builds the Debian package into target/debian, with cargo-deb (`cargo install cargo-deb`).
#
#     sh tuning/package.sh                  # a release build, as users get it
#     sh tuning/package.sh --profile dev    # a quick build, to try the package itself
#
# Cargo.toml lists what is in it, below [package.metadata.deb]. This makes what is not in the
# repository: completions, manual pages, the unit for /usr/bin, and the licences and a list of all
# crates.
set -eu

fail() { echo "package.sh: $*" >&2; exit 1; }

profile=release
case ${1:-} in
'') ;;
--profile) profile=${2:?"--profile takes release or dev"} ;;
*) fail "$1 is no option: there is --profile release|dev" ;;
esac
case $profile in
release) directory=release ;;
dev) directory=debug ;;
*) fail "there is no profile $profile: use release or dev" ;;
esac

cd "$(dirname "$0")/.."
cargo deb --version >/dev/null 2>&1 || fail "cargo-deb is not here: cargo install cargo-deb"
cargo build --quiet --locked --profile "$profile" -p exo-ingest -p exo-load --bins
built=${CARGO_TARGET_DIR:-target}/$directory

# Always here, where Cargo.toml looks for it.
made=target/package
rm -rf "$made"
mkdir -p "$made/bash" "$made/zsh" "$made/fish"
for program in exo-ingest exo-load; do
    "$built/$program" completions bash >"$made/bash/$program"
    "$built/$program" completions zsh >"$made/zsh/_$program"
    "$built/$program" completions fish >"$made/fish/$program.fish"
    "$built/$program" man --out "$made/man1"
done

# By hand the program goes to /usr/local, and systemd makes a user. A package has /usr/bin, and a
# user that stays, because recordings belong to it.
sed -e 's#/usr/local/bin/#/usr/bin/#' \
    -e '/^# systemd makes a user/d' \
    -e 's#^DynamicUser=yes#User=exo-ingest\nGroup=exo-ingest#' \
    -e '/^# systemd unit/,/^$/c# systemd unit. Settings: /etc/exo-ingest/exo-ingest.toml\n' \
    tuning/exo-ingest.service >"$made/exo-ingest.service"
use='systemctl enable --now exo-ingest.socket exo-ingest.service'
sed "/^# systemd socket/,/^#   systemctl/c# systemd socket, optional. To use it:\\n#   $use" \
    tuning/exo-ingest.socket >"$made/exo-ingest.socket"

# The programs contain the crates, so their licences come with them, and a bill of materials.
python3 -B tuning/licences.py >"$made/THIRD-PARTY.txt"
python3 -B tuning/sbom.py >"$made/exo-ingest.cdx.json"

version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
date=$(date -R -d "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}")
cat >"$made/changelog" <<LOG
exo-ingest ($version-1) unstable; urgency=medium

  * Version $version. CHANGELOG.md has the changes.

 -- The exo-ingest maintainers <exo-ingest@example.org>  $date
LOG

# With --no-build it takes the programs that wrote the pages.
cargo deb --quiet --no-build --locked --profile "$profile" --output target/debian/
ls -l target/debian/*.deb
