#!/usr/bin/env bash
# npm test: every check and every test, from formatting to the real window under a virtual display.
# Prints one line per stage at the end and "N passed, M failed"; fails if any stage did.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# Longest time a stage may take before it counts as hung. Generous: a cold build on two slow cores fits.
stage_limit=25m

passed=0
failed=0
report=""

# stage TITLE COMMAND... : runs it and notes how it went; later stages run all the same.
stage() {
    local title=$1 begun=$SECONDS outcome=ok rc=0
    shift
    printf '\n\033[1m── %s\033[0m  %s\n' "$title" "$*"
    timeout --foreground "$stage_limit" "$@" </dev/null || rc=$?
    if [ "$rc" -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        outcome="FAILED"
        [ "$rc" -ne 124 ] || outcome="FAILED (not done after $stage_limit)"
    fi
    report+=$(printf '%4d s  %-34s %s' "$((SECONDS - begun))" "$title" "$outcome")$'\n'
}

begun=$SECONDS
setup test
# A build without the CUDA kernels would pass over their checks.
if [ "$(uname -s)" = Linux ]; then export REPRISE_REQUIRE_CUDA_KERNELS=1; fi
report+=$(printf '%4d s  %-34s %s' "$((SECONDS - begun))" "set-up" "ok")$'\n'
target=$(target_dir)
# The page's tests look here; distributions name the program differently.
CHROMIUM=${CHROMIUM:-$(find_chromium || true)}
[ -n "$CHROMIUM" ] || die "Chromium is missing; the page's tests need it. Install it, or set CHROMIUM to its path."
export CHROMIUM

# The page comes first: the window's code embeds it, and its checks are the quickest to fail.
stage "page: format, lints, types" npm run --silent ui:check
stage "page: unit tests" npm run --silent ui:test
stage "page: build" npm run --silent ui:build
stage "page: in Chromium" npm run --silent ui:pages
stage "Rust: format" cargo fmt --all --check
stage "Rust: build of the tests" cargo test --workspace --locked --no-run
stage "Rust: tests" cargo test --workspace --locked
stage "Rust: lints" cargo clippy --workspace --all-targets --locked -- -D warnings
stage "window: build" npx tauri build --debug --no-bundle
stage "window: end to end" node src-tauri/tests/window/run.mjs "$target/debug/reprise-app"

printf '\n%s%4d s  in all\n\n' "$report" "$SECONDS"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
