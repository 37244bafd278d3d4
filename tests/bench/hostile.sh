#!/bin/sh
# What hostile hosts cost the others: a second run of the reference job on HOSTS honest machines, and the same with a tenth
# more that mean harm. They hang before they say anything, flood before and after the login, and say one line a second.
#
#   sh tests/bench/hostile.sh [SUITE] [HOSTS] [ROUNDS]      default: bookworm 20 5
#
# The time is that at which the last honest host has ended, in ms, medians; both kinds of run take turns. Needs root, docker
# and tests/lab. See fleet.sh for what surrounds it.
set -eu
cd "$(dirname "$0")/../.."
if [ "${1:-}" != --inside ]; then
    exec unshare -m --propagation private sh tests/bench/hostile.sh --inside "$@"
fi
shift
suite=${1:-bookworm}
count=${2:-20}
rounds=${3:-5}
here=tests/bench
. $here/common.sh
. $here/peers.sh
scratch hostile
program
picture
laptop
export XDG_STATE_HOME="$out/state"
fresh_fleet
timed first 0 "$KEYWARD_BIN" -i "$out/root.ini" --waves 100% apply --yes "$out/first.yml"

# perl-base is on every Debian.
flood='$c = IO::Socket::INET->new(Listen => 9, LocalPort => 22, ReuseAddr => 1) or die; $SIG{PIPE} = "IGNORE";
    while ($s = $c->accept) { next if fork; 1 while print $s "x" x 65536; exit }'
drip='$c = IO::Socket::INET->new(Listen => 9, LocalPort => 22, ReuseAddr => 1) or die; $SIG{PIPE} = "IGNORE";
    while ($s = $c->accept) { next if fork; $s->autoflush; sleep 1 while print $s "x\n"; exit }'
hostile=$(((count + 9) / 10))
cp "$out/deploy.ini" "$out/both.ini"
n=0
while [ $n -lt $hostile ]; do
    n=$((n + 1))
    one=$name-bad-$n
    machine "$one"
    case $((n % 4)) in
    1) docker exec "$one" systemctl stop ssh ssh.socket && docker exec -d "$one" perl -MIO::Socket::INET -e "$flood" ;;
    2) docker pause "$one" >/dev/null ;;
    3) docker exec "$one" systemctl stop ssh ssh.socket && docker exec -d "$one" perl -MIO::Socket::INET -e "$drip" ;;
    0)
        docker exec "$one" install -d -m 700 /root/.ssh
        { printf 'command="yes" '; cat "$out/key.pub"; } >"$out/yes.pub"
        put "$one" "$out/yes.pub" /root/.ssh/authorized_keys 600
        ;;
    esac
    host=$(docker inspect -f '{{.NetworkSettings.IPAddress}}' "$one")
    [ $((n % 4)) != 0 ] ||
        printf '%s %s\n' "$host" "$(docker exec "$one" cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub)" >>"$HOME/.ssh/known_hosts"
    # In between the others, where they take places.
    sed -i "$((n * 10 - 5))i bad$n ansible_host=$host ansible_user=root ansible_port=22" "$out/both.ini"
done

round=1
while [ "$round" -le "$rounds" ]; do
    for what in deploy both; do
        python3 $here/last.py "$out/last-$what" "$count" "$KEYWARD_BIN" --format json -i "$out/$what.ini" \
            --waves 100% --max-fail 100% --host-limit 30s --anew apply --yes "$out/first.yml"
    done
    echo "round $round of $rounds" >&2
    round=$((round + 1))
done
echo "suite $suite, $count honest hosts, $hostile hostile ones, $rounds rounds, medians in ms; load $(cut -d' ' -f1 /proc/loadavg)"
"$KEYWARD_BIN" --version
awk -v a="$(median last-deploy)" -v b="$(median last-both)" 'BEGIN {
    printf "%-40s %9.0f\n%-40s %9.0f %7.2fx  at most 1.1x %s\n", "honest hosts alone", a,
        "honest hosts beside hostile ones", b, b / a, b / a <= 1.1 ? "met" : "missed" }'
