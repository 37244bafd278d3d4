# What both benchmarks share; read by run.sh and far.sh, which set `out`, `suite` and `here`.

# A release build, unless KEYWARD_BIN names one.
program() {
    [ -n "${KEYWARD_BIN:-}" ] && return
    cargo build --release --locked
    KEYWARD_BIN=$(ls target/*/release/keyward | head -n 1)
}

# The image of the suite's lab tree.
picture() {
    tree=$(sh tests/lab/suite.sh "$suite")
    image=keyward-lab-$suite
    docker image inspect "$image" >/dev/null 2>&1 || tar -C "$tree" -c . | docker import - "$image" >/dev/null
}

# A fresh machine with the job's files in /root/play.
machine() { # NAME
    docker run -d --name "$1" --cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add NET_RAW \
        --security-opt seccomp=unconfined --security-opt apparmor=unconfined --tmpfs /run --tmpfs /run/lock \
        -v /sys/fs/cgroup:/sys/fs/cgroup:rw "$image" /sbin/init >/dev/null
    docker exec "$1" sh -c 'until [ -S /run/dbus/system_bus_socket ]; do sleep 0.1; done
        systemctl is-system-running --wait >/dev/null; mkdir -m 755 /root/play; ufw --version >/dev/null'
    put "$1" "$out/key.pub" /root/play/deploy.pub
    put "$1" $here/first.yml /root/play/first.yml
    put "$1" $here/expert.sh /root/play/expert.sh
}

put() { # NAME FILE PATH [MODE]
    docker exec -i "$1" sh -c "cat >$3; chmod ${4:-644} $3" <"$2"
}

median() { # FIGURE
    sort -n "$out/$1" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}
