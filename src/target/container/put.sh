# Runs as root in a container, in whatever sh it has, from standard input; see `target::put` for what is defined before it and
# what it says. The program is taken into a private directory of the first place where one can be executed, memory first, and
# is gone from there before it starts: nothing stays behind, however this ends. The container's disk is written only where
# none of its memory can hold a program.
say() { printf '%s\n' "$*"; }
no() { say "no $1"; exit 1; }
is_this() { [ "$1" = "$m" ] && n=$3; }

[ "$(id -u)" = 0 ] || no root
for tool in uname mktemp head stat chmod rm; do command -v "$tool" >/dev/null || no tools; done
[ -e /proc/self/fd/0 ] || no proc
m=$(uname -m)
say "arch $m"
each is_this || exit 1

w=
for d in /dev/shm /run /tmp /var/tmp /root; do
    [ -d "$d" ] && [ ! -L "$d" ] || continue
    was=$(stat -c %Y "$d" 2>/dev/null)
    w=$(mktemp -d "$d/.keyward.XXXXXXXX" 2>/dev/null) || { w=; continue; }
    trap 'rm -rf "$w"' EXIT
    trap 'exit 1' HUP INT TERM PIPE
    printf '#!/bin/sh\nexit 0\n' 2>/dev/null >"$w/try" && chmod 700 "$w/try" && "$w/try" 2>/dev/null && break
    rm -rf "$w"
    [ -z "$was" ] || touch -d "@$was" "$d" 2>/dev/null
    w=
done
[ -n "$w" ] || no nowhere

say file need
head -c "$n" >"$w/keyward" || no write
[ "$(stat -c %s "$w/keyward" 2>/dev/null)" = "$n" ] || no short
chmod 700 "$w/keyward" || no write
exec 9<"$w/keyward"
rm -rf "$w"
[ -z "$was" ] || touch -d "@$was" "$d" 2>/dev/null
trap - EXIT HUP INT TERM PIPE
say file got
[ -x /proc/self/fd/9 ] || no exec
say start now
exec /proc/self/fd/9 "$@"
