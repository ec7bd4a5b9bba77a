#!/usr/bin/env bash
# Fetches Prometheus and its promtool into the folder given, as this machine's distribution packages them; installs
# nothing. Ends with another status than 0 where there is no apt, or no such package.
set -euo pipefail
. "$(dirname "$0")/packages.sh"

folder=${1:?usage: $0 FOLDER}
[ -x "$folder/root/usr/bin/promtool" ] && exit 0

fetch_packages prometheus
unpack prometheus
"$work/new/root/usr/bin/promtool" --version >/dev/null 2>&1 || no "what was fetched does not run here"
keep "$folder"
