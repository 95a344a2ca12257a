# Builds the module tree of guests with UDP around tunnels: Debian builds its
# guest kernel without CONFIG_NET_FOU_IP_TUNNELS. Only two modules differ.
#   build.sh RELEASE TREE    in an empty directory
release=$1 tree=$2
version=$(apt-cache madison linux-source-6.1 | awk -v r="$release-" 'index($3, r) == 1 { print $3; exit }')
[ -n "$version" ] || { echo "no package linux-source-6.1 has the source of Linux $release: run apt-get update, and upgrade user-mode-linux" >&2; exit 1; }
apt-get download -q "linux-source-6.1=$version"
dpkg-deb --fsys-tarfile ./*.deb | tar -x --wildcards '*/linux-source-6.1.tar.xz'
mkdir source
tar -C source --strip-components=1 -xf usr/src/linux-source-6.1.tar.xz
cd source
zcat /usr/share/doc/user-mode-linux/config.gz >.config
scripts/config --enable NET_FOU_IP_TUNNELS
make -s ARCH=um olddefconfig
make -s ARCH=um modules_prepare
# Modules are not bound to the kernel by checksums here (no CONFIG_MODVERSIONS).
make -s ARCH=um M=net/ipv4 KBUILD_MODPOST_WARN=1 fou.ko
make -s ARCH=um M=net/ipv6 KBUILD_MODPOST_WARN=1 fou6.ko
mkdir -p "$tree/lib/modules"
cp -a "/usr/lib/uml/modules/$release" "$tree/lib/modules/"
cp net/ipv4/fou.ko "$tree/lib/modules/$release/kernel/net/ipv4/"
cp net/ipv6/fou6.ko "$tree/lib/modules/$release/kernel/net/ipv6/"
depmod -b "$tree" "$release"
