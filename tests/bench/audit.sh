#!/bin/sh
# How long an audit takes, beside lynis and OpenSCAP where the suite has them, all on one hardened machine with five accounts.
#
#   sh tests/bench/audit.sh [SUITE] [ROUNDS]       default: bookworm 5
#
# The machine is a container with systemd, sshd and ufw. "local" runs keyward in it, "container" runs it on this machine with
# --target docker:NAME, "tree" is --target rootfs: on the lab tree. In each round everything runs once; the table gives medians
# and how many times as long as keyward's own local audit each takes. What is judged differs: see the README.
# lynis, openscap-scanner and ssg-debian are installed from the suite's own archive, in the container. Only ratios within one run
# mean anything. Needs root, docker and tests/lab. KEYWARD_BIN names the program; without it a release build is made.
set -eu
cd "$(dirname "$0")/../.."
suite=${1:-bookworm}
rounds=${2:-5}
here=tests/bench
out=$(mktemp -d)
name=keyward-test-bench-$$
trap 'docker rm -f -v "$name" >/dev/null 2>&1; rm -rf "$out"' EXIT INT TERM

. $here/common.sh
program
picture
ssh-keygen -q -t ed25519 -N '' -C ops@laptop -f "$out/key"
machine "$name"
put "$name" "$KEYWARD_BIN" /usr/local/bin/keyward 755
docker exec "$name" sh -c 'keyward apply --yes --i-accept-that-this-host-may-lock-me-out /root/play/first.yml >/dev/null 2>&1
    for user in ann bob eve joe; do useradd -m -s /bin/bash $user; done'
# The firewall that was just made would keep the archive out of reach only if outgoing connections were shut.
others=
tar -C / -c etc/apt etc/resolv.conf 2>/dev/null | docker exec -i "$name" tar -C / -x
docker exec "$name" sh -c 'apt-get -qq update && apt-get -qq install -y --no-install-recommends lynis openscap-scanner ssg-debian' \
    >"$out/apt" 2>&1 && others=yes || echo "audit.sh: lynis and OpenSCAP are left out: $(tail -n 1 "$out/apt")" >&2
stream=$(docker exec "$name" sh -c 'ls /usr/share/xml/scap/ssg/content/ssg-debian1*-ds.xml 2>/dev/null | tail -n 1' || true)

now() { date +%s%N; }
timed() { # FIGURE EXPECTED COMMAND...
    figure=$1 expected=$2
    shift 2
    start=$(now)
    code=0
    "$@" >"$out/said" 2>&1 || code=$?
    end=$(now)
    case " $expected " in
    *" $code "*) echo $(((end - start) / 10000)) | awk '{ print $1 / 100 }' >>"$out/$figure" ;;
    *) echo "audit.sh: $figure ended with $code:" >&2; cat "$out/said" >&2; exit 1 ;;
    esac
}
inside() { # COMMAND: its time in the container, the engine's own left out
    docker exec "$name" sh -c "start=\$(date +%s%N); $1 >/run/out 2>&1; code=\$?; end=\$(date +%s%N)
        echo \$(( (end - start) / 10000 )) \$code" >"$out/last"
    read -r hundredths code <"$out/last"
    awk "BEGIN { print $hundredths / 100 }" >>"$out/$2"
    case " $3 " in *" $code "*) ;; *) echo "audit.sh: $2 ended with $code" >&2; docker exec "$name" cat /run/out >&2; exit 1 ;; esac
}

for round in $(seq "$rounds"); do
    echo "round $round" >&2
    inside 'keyward audit' local '0 2'
    inside 'keyward audit /root/play/first.yml' local-playbook '0 2'
    timed container '0 2' "$KEYWARD_BIN" --target "docker:$name" audit
    timed tree '0 2 7' "$KEYWARD_BIN" --target "rootfs:$tree" audit
    if [ -n "$others" ]; then
        inside 'lynis audit system --quick --no-colors --quiet' lynis '0 1'
        [ -z "$stream" ] || inside "oscap xccdf eval --profile xccdf_org.ssgproject.content_profile_standard $stream" oscap '0 2'
    fi
done

own=$(median local)
printf '%-44s %10s %8s\n' "$suite, $rounds rounds" "median ms" "times"
for line in "local:keyward audit, local" "local-playbook:keyward audit PLAYBOOK, local" "container:keyward audit, --target docker:" \
    "tree:keyward audit, --target rootfs:" "lynis:lynis audit system --quick" "oscap:oscap xccdf eval (standard)"; do
    [ -s "$out/${line%%:*}" ] || continue
    figure=$(median "${line%%:*}")
    printf '%-44s %10.1f %8.1f\n' "${line#*:}" "$figure" "$(awk "BEGIN { print $figure / $own }")"
done
