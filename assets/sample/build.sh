#!/usr/bin/env bash
# Prints handbook.html to reprise-handbook.pdf. Needs Chromium, and the fonts Lato and DejaVu Sans Mono, whose licences
# (OFL 1.1, Bitstream Vera) allow embedding.
set -euo pipefail
cd "$(dirname "$0")"

chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
[ -n "$chromium" ] || { echo "This needs Chromium: apt-get install chromium, or set CHROMIUM to its path." >&2; exit 1; }
for font in "Lato" "DejaVu Sans Mono"; do
    fc-list --quiet "$font" ||
        { echo "The font $font is missing: apt-get install fonts-lato fonts-dejavu-core" >&2; exit 1; }
done

log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$chromium" --headless --no-sandbox --disable-gpu --no-pdf-header-footer \
    --print-to-pdf=reprise-handbook.pdf "file://$PWD/handbook.html" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
ls -l reprise-handbook.pdf
