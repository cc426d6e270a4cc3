#!/usr/bin/env bash
# npm run check: formatting, lints and types of everything, without running a test.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup start
setup_rust_components

cargo fmt --all --check
npm run --silent ui:check
# The window's code embeds the page, so clippy needs one.
[ -f ui/dist/index.html ] || npm run --silent ui:build
cargo clippy --workspace --all-targets --locked -- -D warnings
if command -v shellcheck >/dev/null; then
    shellcheck -x -P SCRIPTDIR .ci/*.sh .ci/run assets/*/*.sh
fi
