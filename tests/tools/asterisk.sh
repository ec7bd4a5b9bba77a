#!/usr/bin/env bash
# Fetches Asterisk into the folder given, as Debian packages it, with all that it runs on; installs nothing.
#
# No Debian release since 11 has Asterisk, unstable does. So that nothing of unstable gets onto the system, apt works
# as if nothing were installed, and the packages are only unpacked: Asterisk runs from the folder by its own loader, as
# any user. Ends with another status than 0 where there is no apt, or none of Debian's.
set -euo pipefail
. "$(dirname "$0")/packages.sh"

folder=${1:?usage: $0 FOLDER}
[ -x "$folder/root/usr/sbin/asterisk" ] && exit 0

name=asterisk
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keys" ] || no "no keys of Debian's here"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -1)
[ -n "$mirror" ] || no "apt knows no mirror of Debian"

fetch_packages asterisk \
    'Dir::Etc::sourcelist "WORK/sources.list";' \
    'Dir::Etc::sourceparts "WORK/parts";' \
    'Dir::Etc::preferencesparts "WORK/parts";' \
    'Dir::State::status "WORK/status";'
touch "$work/status"
echo "deb [signed-by=$keys] $mirror unstable main" >"$work/sources.list"
unpack asterisk asterisk-modules
libraries=$(dirname "$(ls -d "$work"/new/root/usr/lib/*/asterisk)")
"$libraries"/ld-linux*.so.* --library-path "$libraries" "$work/new/root/usr/sbin/asterisk" -V ||
    no "what was fetched does not run here"
keep "$folder"
