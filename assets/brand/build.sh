#!/usr/bin/env bash
# Draws the app's icons from logo.svg: Chromium paints it at 1024 px, the Tauri CLI cuts it into the sizes that bundles need.
set -euo pipefail
cd "$(dirname "$0")/../.."

chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
[ -n "$chromium" ] || { echo "This needs Chromium: apt-get install chromium, or set CHROMIUM to its path." >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

{
    printf '<!doctype html><style>body{margin:0}svg{display:block;width:1024px;height:1024px}</style>'
    cat assets/brand/logo.svg
} >"$work/logo.html"
"$chromium" --headless --no-sandbox --disable-gpu --hide-scrollbars --default-background-color=00000000 \
    --window-size=1024,1024 --screenshot="$work/logo.png" "file://$work/logo.html" >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; exit 1; }

npx tauri icon "$work/logo.png" --output "$work/icons" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
for icon in 32x32.png 128x128.png 128x128@2x.png icon.png icon.ico icon.icns; do
    cp "$work/icons/$icon" "src-tauri/icons/$icon"
done
ls -l src-tauri/icons
