#!/bin/sh
# swift_chroot.sh FOLDER: Swift on a Linux that has none, as root: Debian 13 with swiftlang in FOLDER/root (3.5 GB), and
# FOLDER/swiftc, which runs it. What that links runs outside, on the libraries in FOLDER/root:
#
#     sudo sh tests/device_sources/swift_chroot.sh FOLDER
#     SWIFTC=FOLDER/swiftc make samples-swift
#
# This checkout and /tmp are mounted in it: unmount them before FOLDER is removed (umount -R; findmnt lists them).
set -eu

folder=$1
root=$folder/root
mkdir -p "$folder"
if [ ! -x "$root/usr/bin/swiftc" ]; then
    mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI) $(COMPONENT)' 'Created-By: Packages' |
        awk '$2 == "main" && !/security/ {print $1; exit}')
    debootstrap --variant=minbase trixie "$root" "$mirror"
    chroot "$root" apt-get install -y --no-install-recommends swiftlang g++ libc6-dev
fi

# Sources and results have the same paths inside.
for shared in /tmp "$(cd "$(dirname "$0")/../.." && pwd)" "$(cd "$(dirname "$0")/../../.." && pwd)"; do
    mkdir -p "$root$shared"
    mountpoint -q "$root$shared" || mount --rbind "$shared" "$root$shared"
done
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"

libraries=$root/usr/lib/x86_64-linux-gnu:$root/usr/libexec/swift/lib/swift/linux
cat >"$folder/swiftc" <<END
#!/bin/sh
for word in "\$@"; do
    case \$word in -emit-object | -frontend | --version) exec chroot "$root" swiftc "\$@" ;; esac
done
exec chroot "$root" swiftc "\$@" -Xlinker --dynamic-linker=$root/usr/lib64/ld-linux-x86-64.so.2 \\
    -Xlinker --disable-new-dtags -Xlinker -rpath=$libraries -Xlinker --no-as-needed -lstdc++ -lgcc_s -lm
END
chmod +x "$folder/swiftc"
