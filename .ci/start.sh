#!/usr/bin/env bash
# npm start: builds the app and opens it. Without a display: builds the terminal command, which does the same job.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

has_display() {
    [ "$(uname -s)" != Linux ] || [ -n "${DISPLAY:-}" ] || [ -n "${WAYLAND_DISPLAY:-}" ]
}

if has_display; then
    setup start
    say "building the app (some minutes the first time)"
    npm run --silent ui:build
    npx tauri build --debug --no-bundle
    app=$(target_dir)/debug/reprise-app
    say "opening Reprise"
    exec "$app" "$@"
fi

say "there is no display here, so no window can be opened; building the terminal command instead"
setup terminal
cargo build --locked -p reprise-cli
target=$(target_dir)
# The program looks for its model in the folders above it; a build folder outside the checkout needs a way back.
case $target in
    "$PWD"/*) ;;
    *) ln -sfn "$PWD/assets" "$target/assets" ;;
esac
# To be pasted into a shell, whatever is in the path.
printf -v reprise %q "$target/debug/reprise"
question=$(node -p 'JSON.parse(require("node:fs").readFileSync("assets/sample/suggestions.json", "utf8"))[0]')
cat <<END

The terminal command does the same job as the window. Ask the handbook a question:

    $reprise chat --attach assets/sample/reprise-handbook.pdf "$question"

Leave the question out for a conversation, or see everything it can do:

    $reprise --help
END
