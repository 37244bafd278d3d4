#!/bin/sh
# The reference job, keyward against an expert's shell script (expert.sh), on fresh machines with systemd.
#
#   sh tests/bench/run.sh [SUITE] [ROUNDS]       default: bookworm 5
#
# Each round starts two containers made from one lab tree: in one the script runs, in the other keyward, in turn first
# and last. Times are taken inside, around the one command, in milliseconds; the table gives medians and their ratio.
# Only ratios within one run mean anything: the figures themselves are those of the machine and of what else it does.
# "proof" is the part of the first apply spent in real logins and connections; the script proves nothing. "Armed" is the
# same apply with its guard, decided by accepted evidence; what arming costs is the difference of the two without proof.
# Needs root, docker and tests/lab. KEYWARD_BIN names the program; without it a release build is made.
set -eu
cd "$(dirname "$0")/../.."
suite=${1:-bookworm}
rounds=${2:-5}
here=tests/bench
out=$(mktemp -d)
accept=--i-accept-that-this-host-may-lock-me-out
name=keyward-test-bench-$$
trap 'docker rm -f -v "$name-script" "$name-keyward" "$name-armed" >/dev/null 2>&1; rm -rf "$out"' EXIT INT TERM

. $here/common.sh
program
picture
ssh-keygen -q -t ed25519 -N '' -C ops@laptop -f "$out/key"

# Runs a command in a machine; its time goes to the file of that name, its output to the log.
timed() { # MACHINE FIGURE EXPECTED COMMAND
    docker exec "$1" sh -c "start=\$(date +%s%N); $4 >/run/out 2>&1; code=\$?; end=\$(date +%s%N)
        echo \$(( (end - start) / 10000 )) \$code" >"$out/last"
    read -r hundredths code <"$out/last"
    case " $3 " in
    *" $code "*) awk "BEGIN { print $hundredths / 100 }" >>"$out/$2" ;;
    *) echo "run.sh: $2 ended with $code:" >&2; docker exec "$1" cat /run/out >&2; exit 1 ;;
    esac
}

script() {
    machine "$name-script"
    timed "$name-script" script-first 0 'sh /root/play/expert.sh'
    timed "$name-script" script-second 0 'sh /root/play/expert.sh'
    docker rm -f -v "$name-script" >/dev/null
}

keyward() {
    machine "$name-keyward"
    put "$name-keyward" "$KEYWARD_BIN" /usr/local/bin/keyward 755
    timed "$name-keyward" keyward-version 0 'keyward --version'
    timed "$name-keyward" keyward-plan 2 'keyward plan /root/play/first.yml'
    # 9: over loopback the firewall's openings cannot be shown.
    timed "$name-keyward" keyward-first '0 9' "keyward --format json apply --yes $accept /root/play/first.yml"
    # Logins of one moment run side by side, so the longest counts; `decided` parts the two moments.
    docker exec "$name-keyward" cat /run/out | awk '
        /"event":"decided"/ { sum += most; most = 0 }
        /"event":"proof"/ { if (match($0, /"millis":[0-9]+/)) { m = substr($0, RSTART + 9, RLENGTH - 9) + 0
            if (m > most) most = m } }
        END { print sum + most }' >>"$out/proof"
    timed "$name-keyward" keyward-second 0 "keyward apply --yes $accept /root/play/first.yml"
    timed "$name-keyward" keyward-plan-second 0 'keyward plan /root/play/first.yml'
    timed "$name-keyward" keyward-rollback 0 "keyward rollback --yes $accept"
    docker rm -f -v "$name-keyward" >/dev/null
}

# The same apply under its guard, and the undo of one that was cut off, as the boot unit makes it.
armed() {
    machine "$name-armed"
    put "$name-armed" "$KEYWARD_BIN" /usr/local/bin/keyward 755
    put "$name-armed" "$out/key" /root/play/key 600
    timed "$name-armed" armed '0 9' \
        'keyward --format json apply --yes --accept-evidence l2 --identity /root/play/key /root/play/first.yml'
    docker exec "$name-armed" cat /run/out | tee "$out/armed.json" | awk '
        /"event":"decided"/ { sum += most; most = 0 }
        /"event":"proof"/ { if (match($0, /"millis":[0-9]+/)) { m = substr($0, RSTART + 9, RLENGTH - 9) + 0
            if (m > most) most = m } }
        END { print sum + most }' >>"$out/armed-proof"
    # Four logins of one moment share two cores: the quickest tells what one costs.
    awk '/"event":"proof"/ && /login as deploy and sudo/ { if (match($0, /"millis":[0-9]+/)) {
            m = substr($0, RSTART + 9, RLENGTH - 9) + 0; if (!least || m < least) least = m } }
        END { print least + 0 }' "$out/armed.json" >>"$out/login"
    docker rm -f -v "$name-armed" >/dev/null
    machine "$name-armed"
    put "$name-armed" "$KEYWARD_BIN" /usr/local/bin/keyward 755
    docker exec "$name-armed" keyward apply --yes --detach --confirm-within 600s /root/play/first.yml \
        >"$out/detached" 2>&1 && code=0 || code=$?
    [ "$code" = 8 ] || { cat "$out/detached" >&2; exit 1; }
    docker exec "$name-armed" pkill -KILL -x keyward
    timed "$name-armed" recovery 0 '/var/lib/keyward/guard-* __guard recover'
    docker rm -f -v "$name-armed" >/dev/null
}

round=1
while [ "$round" -le "$rounds" ]; do
    if [ $((round % 2)) = 1 ]; then script; keyward; armed; else armed; keyward; script; fi
    cp $here/first.yml "$out/first.yml"; cp "$out/key.pub" "$out/deploy.pub"; chmod 755 "$out"; chmod 644 "$out/first.yml"
    start=$(date +%s%N)
    "$KEYWARD_BIN" rehearse --root "$tree" "$out/first.yml" >"$out/rehearsal" 2>&1 && code=0 || code=$?
    end=$(date +%s%N)
    if [ "$code" = 0 ] || [ "$code" = 9 ]; then
        echo $(((end - start) / 1000000)) >>"$out/rehearse"
    else
        echo "run.sh: the rehearsal ended with $code:" >&2; cat "$out/rehearsal" >&2; exit 1
    fi
    echo "round $round of $rounds" >&2
    round=$((round + 1))
done

row() { # TEXT KEYWARD SCRIPT GOAL
    awk -v text="$1" -v a="$2" -v b="$3" -v goal="$4" 'BEGIN {
        printf "%-44s %9.1f %9.1f %7.2fx  %s\n", text, a, b, a / b, goal }'
}

first=$(median keyward-first); proof=$(median proof); slow=$(median script-first); again=$(median script-second)
echo "suite $suite, $rounds rounds, medians in ms; $(wc -c <"$KEYWARD_BIN") bytes, load $(cut -d' ' -f1 /proc/loadavg)"
printf '%-44s %9s %9s %8s  %s\n' '' keyward script ratio goal
row 'first apply, without proof' "$(awk "BEGIN { print $first - $proof }")" "$slow" '0.80x'
row 'first apply, with proof' "$first" "$slow" '-'
row 'plan of a blank host' "$(median keyward-plan)" "$slow" '-'
row 'second apply' "$(median keyward-second)" "$again" '0.15x, 30 ms'
row 'plan of a converged host' "$(median keyward-plan-second)" "$again" '0.15x, 30 ms'
row 'rollback' "$(median keyward-rollback)" "$slow" '-'
row 'rehearse (against apply with proof)' "$(median rehearse)" "$first" '2.00x'
armed=$(awk "BEGIN { print $(median armed) - $(median armed-proof) - ($first - $proof) }")
printf '%-44s %9.1f %26s\n' 'arming, journal and fsync on top' "$armed" '250 ms' 'one login of a proof' "$(median login)" '100 ms' \
    'recovery at boot' "$(median recovery)" '2000 ms'
printf '%-44s %9.1f\n' 'proof by logins' "$proof" 'start (--version)' "$(median keyward-version)"
