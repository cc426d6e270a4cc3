#!/usr/bin/env bash
# npm run build: the release bundle, a .deb unless told otherwise (npm run build -- --bundles rpm).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup bundle

if [ $# -eq 0 ]; then
    case $(uname -s) in
        Linux) set -- --bundles deb ;;
        Darwin) set -- --bundles app ;;
    esac
fi
say "building the release bundle (this takes a while: everything is optimised)"
npm run --silent ui:build
npx tauri build "$@"
say "done:"
find "$(target_dir)/release/bundle" -maxdepth 2 \( -name '*.deb' -o -name '*.rpm' -o -name '*.app' -o -name '*.msi' -o -name '*.exe' \) -print
