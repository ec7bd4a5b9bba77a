#!/usr/bin/env bash
# Fetches Chromium without windows into the folder given, as this machine's distribution packages it, with the libraries
# that this machine lacks, and a font; installs nothing. It runs with LD_LIBRARY_PATH set to FOLDER/lib and FONTCONFIG_FILE
# to FOLDER/fonts.conf. Ends with another status than 0 where there is no apt, or no such package.
set -euo pipefail
. "$(dirname "$0")/packages.sh"

folder=${1:?usage: $0 FOLDER}
program=root/usr/lib/chromium/chromium-headless-shell
[ -x "$folder/$program" ] && exit 0

fetch_packages chromium
# What they share is named too: a part of it may be installed without the rest.
unpack chromium-headless-shell chromium-common fonts-dejavu-core
# Libraries lie in several folders, and some are looked for where they would be installed.
mkdir "$work/new/lib"
(cd "$work/new/lib" && find ../root -path ../root/usr/lib/chromium -prune -o -name '*.so*' -print0 | xargs -0 -r ln -sf -t .)
cat >"$work/new/fonts.conf" <<'CONF'
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <dir prefix="relative">root/usr/share/fonts</dir>
</fontconfig>
CONF
# Validation layers of a graphics library that is not used.
rm -f "$work"/new/root/usr/lib/chromium/libVk*
LD_LIBRARY_PATH=$work/new/lib "$work/new/$program" --version >/dev/null 2>&1 || no "what was fetched does not run here"
keep "$folder"
