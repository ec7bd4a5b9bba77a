#!/usr/bin/env bash
# Fetches HAProxy into the folder given, as this machine's distribution packages it, with the libraries that this machine
# lacks; installs nothing. It runs with LD_LIBRARY_PATH set to FOLDER/lib. Ends with another status than 0 where there is
# no apt, or no such package.
set -euo pipefail
. "$(dirname "$0")/packages.sh"

folder=${1:?usage: $0 FOLDER}
[ -x "$folder/root/usr/sbin/haproxy" ] && exit 0

fetch_packages haproxy
unpack haproxy
# Where the libraries are has the machine's kind in its name.
library=$(find "$work/new/root" -name '*.so.*' -printf '%P\n' | head -1)
ln -s "root/$(dirname "${library:-usr/lib/none}")" "$work/new/lib"
LD_LIBRARY_PATH=$work/new/lib "$work/new/root/usr/sbin/haproxy" -v >/dev/null 2>&1 || no "what was fetched does not run here"
keep "$folder"
