#!/bin/sh
# Builds one lab tree: a small Debian SUITE with the real sshd, sudo, ufw and systemd.
# Usage: suite.sh SUITE        prints the tree's path; SUITE-bare is one without sshd, sudo and ufw
# KEYWARD_LAB_DIR (default /var/cache/keyward-lab) keeps the trees between runs.
# The archive is the one this machine's own apt sources name; nothing else is contacted.
set -eu
suite=$1
lab=${KEYWARD_LAB_DIR:-/var/cache/keyward-lab}
tree=$lab/$suite
stamp=$lab/$suite.stamp
packages=openssh-server,sudo,ufw,iproute2,iptables,systemd-sysv,dbus,procps
base=${suite%-bare}
[ "$base" = "$suite" ] || packages=ca-certificates
# sudo's rewrite lies beside sudo where Debian has it; a test that wants it makes it the host's sudo.
case $suite in trixie | sid) packages=$packages,sudo-rs ;; esac
want="v2 $packages"

mirror() {
    # deb822 first, then one-line sources; the first Debian archive wins.
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -f "$file" ] || continue
        sed -n 's/^URIs:[[:space:]]*//p' "$file" | tr ' ' '\n' | grep -E '/debian/?$' && return
    done
    sed -n -E 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*/\2/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | grep -E '/debian/?$'
}

mkdir -p "$lab"
exec 9>"$lab/$suite.lock"
flock 9
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ]; then
    echo "$tree"
    exit 0
fi
free=$(df -Pk "$lab" | awk 'NR==2 {print $4}')
[ "$free" -gt 2097152 ] || { echo "suite.sh: $lab: less than 2 GiB free" >&2; exit 1; }
url=$(mirror | head -n 1)
[ -n "$url" ] || { echo "suite.sh: no Debian archive in this machine's apt sources" >&2; exit 1; }
rm -rf "$tree" "$tree.new" "$stamp"
log=$lab/$suite.log
try=1
until debootstrap --variant=minbase \
    --include="$packages" \
    "$base" "$tree.new" "$url" >"$log" 2>&1; do
    rm -rf "$tree.new"
    [ "$try" -lt 3 ] || { tail -n 20 "$log" >&2; exit 1; }
    try=$((try + 1))
    sleep 2
done
rm -rf "$tree.new"/var/cache/apt/archives/*.deb "$tree.new"/var/lib/apt/lists/*
mv "$tree.new" "$tree"
printf '%s\n' "$want" >"$stamp"
echo "$tree"
