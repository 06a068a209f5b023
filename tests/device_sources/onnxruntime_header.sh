#!/bin/sh
# Puts onnxruntime_c_api.h, with which tests compile samples/c, into a folder: from Debian's package libonnxruntime-dev
# (85 kB), of this release or, as Debian 12 has none, of Debian 13. Nothing is installed.
set -eu
mkdir -p "$1"
folder=$(cd "$1" && pwd)
part=$(mktemp -d)
trap 'rm -rf "$part"' EXIT
chmod 755 "$part"
mkdir -p "$part/lists/partial" "$part/cache/archives/partial"
cd "$part"

if ! apt-get -qq download libonnxruntime-dev 2>/dev/null; then
  mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI) $(COMPONENT)' 'Created-By: Packages' | awk '$2 == "main" && !/security/ {print $1; exit}')
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > sources.list
  here="-o Dir::Etc::sourcelist=$part/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$part/lists -o Dir::Cache=$part/cache"
  apt-get $here -o Acquire::Languages=none -o APT::Sandbox::User= -qq update
  apt-get $here -o APT::Sandbox::User= -qq download libonnxruntime-dev
fi
dpkg-deb -x libonnxruntime-dev*.deb unpacked
cp unpacked/usr/include/onnxruntime/onnxruntime_c_api.h "$folder/"
