#!/bin/sh
# The reference job on one host over SSH: keyward --host against an expert's shell script piped into ssh, pyinfra and
# Ansible, on fresh machines with systemd.
#
#   sh tests/bench/far.sh [SUITE] [ROUNDS] [CONTENDERS]      default: bookworm 5 "script keyward pyinfra ansible"
#
# Each round gives every contender a fresh machine, in another order each time: a first apply as root on port 22, then
# three second runs and three checks, as deploy on the new port. All run here, with the same key, known_hosts and
# configuration: this script has a mount namespace of its own, in which ~/.ssh is a temporary directory. Times are taken
# here, around the one command, in milliseconds; the table gives medians, and ratios of this one run. keyward's program is
# put on the host by a `status` first, which is shown apart. What the others do not do: keyward's first apply is armed with
# its guard, proves both doors by real logins there, and is decided by a fresh login from here, with one more at the end.
# Needs root, docker, tests/lab and PyPI; the peers are kept in KEYWARD_BENCH_DIR (/var/cache/keyward-bench).
set -eu
cd "$(dirname "$0")/../.."
if [ "${1:-}" != --inside ]; then
    exec unshare -m --propagation private sh tests/bench/far.sh --inside "$@"
fi
shift
suite=${1:-bookworm}
rounds=${2:-5}
contenders=${3:-script keyward pyinfra ansible}
each=3
here=tests/bench
ansible=12.2.0
pyinfra=3.10.0
. $here/common.sh
. $here/peers.sh
scratch far
program
picture
peers

laptop

# A fresh machine; its address is in `host`.
fresh() { # CONTENDER
    docker rm -f -v "$name-$1" >/dev/null 2>&1 || true
    machine "$name-$1"
    docker exec "$name-$1" install -d -m 700 /root/.ssh
    put "$name-$1" "$out/key.pub" /root/.ssh/authorized_keys 600
    host=$(docker inspect -f '{{.NetworkSettings.IPAddress}}' "$name-$1")
    key=$(docker exec "$name-$1" cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub)
    printf '%s %s\n[%s]:2222 %s\n' "$host" "$key" "$host" "$key" >"$HOME/.ssh/known_hosts"
}

piped() { # FILE SSH-WORDS...
    file=$1
    shift
    ssh -o BatchMode=yes "$@" <"$file"
}

script() {
    timed script-first 0 piped $here/expert.sh "root@$host" sh -s
    often script-second 0 piped $here/expert.sh -p 2222 "deploy@$host" sudo sh -s
    often script-check 0 piped $here/check.sh -p 2222 "deploy@$host" sudo sh -s
}

keyward() {
    timed keyward-upload 0 "$KEYWARD_BIN" --host "root@$host" status
    timed keyward-first 0 "$KEYWARD_BIN" --format json --host "root@$host" apply --yes "$out/first.yml"
    cp "$out/said" "$out/first.json"
    often keyward-second 0 "$KEYWARD_BIN" --host "deploy@$host:2222" apply --yes "$out/first.yml"
    often keyward-check 0 "$KEYWARD_BIN" --host "deploy@$host:2222" plan "$out/first.yml"
}

pyinfra() {
    at="$peers/bin/pyinfra --data pub=$out/deploy.pub $host"
    timed pyinfra-first 0 $at -y --user root --port 22 $here/peer.py
    often pyinfra-second 0 $at -y --user deploy --port 2222 --sudo $here/peer.py
    often pyinfra-check 0 $at --user deploy --port 2222 --sudo --dry $here/peer.py
}

ansible() {
    at="$peers/bin/ansible-playbook -i $host, -e pub=$out/deploy.pub"
    timed ansible-first 0 $at -u root $here/peer.yml
    often ansible-second 0 $at -u deploy -b -e ansible_port=2222 $here/peer.yml
    often ansible-check 0 $at -u deploy -b -e ansible_port=2222 --check $here/peer.yml
}

# Every contender must leave what was asked for, and say in a check that nothing differs.
held() {
    piped $here/check.sh -p 2222 "deploy@$host" sudo sh -s >"$out/held" 2>&1 || {
        echo "far.sh: what $1 leaves:" >&2; cat "$out/held" "$out/said" >&2; exit 1; }
}

round=1
order=$contenders
while [ "$round" -le "$rounds" ]; do
    for one in $order; do
        fresh "$one"
        "$one"
        held "$one"
        docker rm -f -v "$name-$one" >/dev/null
    done
    # The next order begins with the second of this one.
    order="${order#* } ${order%% *}"
    echo "round $round of $rounds" >&2
    round=$((round + 1))
done

echo "suite $suite, $rounds rounds, medians in ms; load $(cut -d' ' -f1 /proc/loadavg)"
echo "$("$KEYWARD_BIN" --version); $(ssh -V 2>&1); ansible $ansible ($("$peers/bin/pip" list 2>/dev/null |
    awk '$1 == "ansible-core" { print $1, $2 }')); pyinfra $pyinfra; $("$peers/bin/python" --version)"
printf '%-40s %9s %9s %8s %8s  %s\n' '' keyward peer ratio faster goal
row 'first apply, against the script' first script 1 '1.0x'
row 'second run, against the script' second script 0.25 '0.25x'
row 'check, against its checking form' check script 0.25 '0.25x'
for peer in pyinfra ansible; do
    case $peer in pyinfra) goals='3 15 15' ;; *) goals='8 80 50' ;; esac
    set -- $goals
    row "first apply, against $peer" first $peer "$1" "$1x faster"
    row "second run, against $peer" second $peer "$2" "$2x faster"
    row "check, against $peer" check $peer "$3" "$3x faster"
done
[ ! -e "$out/keyward-upload" ] ||
    printf '%-40s %9.0f\n' 'a first status, which sends the program' "$(median keyward-upload)"
