#!/bin/sh
# The reference job on many hosts: keyward -i against pyinfra and Ansible, on fresh machines with systemd.
#
#   sh tests/bench/fleet.sh [SUITE] [HOSTS] [ROUNDS] [CONTENDERS]      default: bookworm 10 1 "keyward pyinfra ansible"
#
# Each round gives every contender HOSTS fresh machines: a first apply as root on port 22, then two second runs and two
# checks as deploy on the new port. All run here, with the same key, known_hosts and configuration: this script has a mount
# namespace of its own, in which ~/.ssh is a temporary directory. keyward goes with one wave (--waves 100%), as the others
# do, and its program is put there by a `status` first, which is shown apart. Times are in milliseconds, medians; the
# controller's own CPU time and memory are those of its process (used.py). Needs root, docker, tests/lab and PyPI.
set -eu
cd "$(dirname "$0")/../.."
if [ "${1:-}" != --inside ]; then
    exec unshare -m --propagation private sh tests/bench/fleet.sh --inside "$@"
fi
shift
suite=${1:-bookworm}
count=${2:-10}
rounds=${3:-1}
contenders=${4:-keyward pyinfra ansible}
each=2
here=tests/bench
ansible=12.2.0
pyinfra=3.10.0
. $here/common.sh
. $here/peers.sh
scratch fleet
program
picture
peers

laptop
export XDG_STATE_HOME="$out/state"

keyward() {
    timed keyward-upload 0 "$KEYWARD_BIN" -i "$out/root.ini" status
    timed keyward-first 0 "$KEYWARD_BIN" -i "$out/root.ini" --waves 100% apply --yes "$out/first.yml"
    often keyward-second 0 python3 $here/used.py "$out/used-second" "$KEYWARD_BIN" -i "$out/deploy.ini" --waves 100% apply --yes "$out/first.yml"
    often keyward-check 0 python3 $here/used.py "$out/used-check" "$KEYWARD_BIN" -i "$out/deploy.ini" plan "$out/first.yml"
}

pyinfra() {
    at="$peers/bin/pyinfra --data pub=$out/deploy.pub $list"
    timed pyinfra-first 0 $at -y --user root --port 22 $here/peer.py
    often pyinfra-second 0 $at -y --user deploy --port 2222 --sudo $here/peer.py
    often pyinfra-check 0 $at --user deploy --port 2222 --sudo --dry $here/peer.py
}

ansible() {
    at="$peers/bin/ansible-playbook -i $list, -e pub=$out/deploy.pub"
    timed ansible-first 0 $at -u root $here/peer.yml
    often ansible-second 0 $at -u deploy -b -e ansible_port=2222 $here/peer.yml
    often ansible-check 0 $at -u deploy -b -e ansible_port=2222 --check $here/peer.yml
}

round=1
while [ "$round" -le "$rounds" ]; do
    for one in $contenders; do
        fresh_fleet
        "$one"
        echo "round $round of $rounds: $one" >&2
    done
    round=$((round + 1))
done

echo "suite $suite, $count hosts, $rounds rounds, medians in ms; load $(cut -d' ' -f1 /proc/loadavg)"
echo "$("$KEYWARD_BIN" --version); ansible $ansible; pyinfra $pyinfra"
printf '%-40s %9s %9s %8s %8s  %s\n' '' keyward peer ratio faster goal
for peer in pyinfra ansible; do
    case $peer in pyinfra) goals='3 8 9' ;; *) goals='15 60 50' ;; esac
    set -- $goals
    row "first apply, against $peer" first $peer "$1" "$1x faster"
    row "second run, against $peer" second $peer "$2" "$2x faster"
    row "check, against $peer" check $peer "$3" "$3x faster"
done
[ ! -e "$out/keyward-upload" ] ||
    printf '%-40s %9.0f\n' 'a first status, which sends the program' "$(median keyward-upload)"
for one in second check; do
    [ ! -e "$out/used-$one" ] || awk -v n="$count" -v one="$one" '{ cpu += $1; kib += $2 } END {
        printf "%-40s %9.1f ms CPU and %.0f KiB a host\n", "the controller in a " one, cpu / NR / n, kib / NR / n }' "$out/used-$one"
done
