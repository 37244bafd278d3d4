# What the benchmarks over SSH share: their scratch, the peers, and how times are taken; read by far.sh, fleet.sh and hostile.sh,
# which set `ansible`, `pyinfra` and `each` where they use them.

# A directory and machines of this run only, which go with it.
scratch() { # KIND
    out=$(mktemp -d)
    name=keyward-test-$1-$$
    trap cleaned EXIT
    trap 'exit 1' INT TERM
}

away() {
    for old in $(docker ps -aq --filter "name=$name-"); do docker rm -f -v "$old" >/dev/null 2>&1 || true; done
}

# The master connections that Ansible leaves open end with their machines.
cleaned() {
    away
    umount "$HOME/.ssh" 2>/dev/null || true
    rm -rf "$out"
}

# The peers from PyPI, in a virtual environment of their own.
peers() {
    peers=${KEYWARD_BENCH_DIR:-/var/cache/keyward-bench}/peers-$ansible-$pyinfra
    if [ ! -e "$peers/whole" ]; then
        rm -rf "$peers"
        python3 -m venv "$peers"
        "$peers/bin/pip" install --quiet "ansible==$ansible" "pyinfra==$pyinfra"
        : >"$peers/whole"
    fi
}

configure_ansible() {
    cat >"$out/ansible.cfg" <<END
[defaults]
forks = 20
gathering = explicit
interpreter_python = /usr/bin/python3
home = $out/ansible
[ssh_connection]
pipelining = true
ssh_args = -o ControlMaster=auto -o ControlPersist=60s
control_path_dir = $out/cp
END
    export ANSIBLE_CONFIG="$out/ansible.cfg"
}

# Key, configuration and files of whoever runs the job, in ~/.ssh of this mount namespace and in $out.
laptop() {
    ssh-keygen -q -t ed25519 -N '' -C ops@laptop -f "$out/key"
    mkdir -p -m 700 "$out/ssh" "$HOME/.ssh"
    cp "$out/key" "$out/ssh/id_ed25519"
    cp "$out/key.pub" "$out/ssh/id_ed25519.pub"
    mount --bind "$out/ssh" "$HOME/.ssh"
    unset SSH_AUTH_SOCK
    cp $here/first.yml "$out/first.yml"
    cp "$out/key.pub" "$out/deploy.pub"
    configure_ansible
}

# $count fresh machines, named after $name; their addresses go to hosts, the inventories to root.ini and deploy.ini.
fresh_fleet() {
    away
    : >"$out/hosts"
    : >"$HOME/.ssh/known_hosts"
    n=0
    while [ $n -lt "$count" ]; do
        n=$((n + 1))
        machine "$name-$n"
        docker exec "$name-$n" install -d -m 700 /root/.ssh
        put "$name-$n" "$out/key.pub" /root/.ssh/authorized_keys 600
        host=$(docker inspect -f '{{.NetworkSettings.IPAddress}}' "$name-$n")
        key=$(docker exec "$name-$n" cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub)
        printf '%s %s\n[%s]:2222 %s\n' "$host" "$key" "$host" "$key" >>"$HOME/.ssh/known_hosts"
        echo "$host" >>"$out/hosts"
    done
    list=$(paste -sd, "$out/hosts")
    sed 's/$/ ansible_user=root/' "$out/hosts" >"$out/root.ini"
    sed 's/$/ ansible_user=deploy ansible_port=2222/' "$out/hosts" >"$out/deploy.ini"
    sleep 2
}

# Runs a command; its time goes to the file of that name.
timed() { # FIGURE EXPECTED COMMAND...
    figure=$1 expected=$2
    shift 2
    start=$(date +%s%N)
    "$@" >"$out/said" 2>&1 && code=0 || code=$?
    end=$(date +%s%N)
    case " $expected " in
    *" $code "*) awk "BEGIN { print $((end - start)) / 1000000 }" >>"$out/$figure" ;;
    *) echo "$figure ended with $code:" >&2; cat "$out/said" >&2; exit 1 ;;
    esac
}

# The work of one command as often as it is measured.
often() { # FIGURE EXPECTED COMMAND...
    n=0
    while [ $n -lt $each ]; do timed "$@"; n=$((n + 1)); done
}

row() { # TEXT FIGURE-SUFFIX PEER BOUND GOAL
    [ -e "$out/$3-$2" ] || return 0
    awk -v text="$1" -v a="$(median "keyward-$2")" -v b="$(median "$3-$2")" -v bound="$4" -v goal="$5" 'BEGIN {
        met = bound <= 1 ? a / b <= bound : b / a >= bound
        printf "%-40s %9.0f %9.0f %7.2fx %7.1fx  %s %s\n", text, a, b, a / b, b / a, goal, met ? "met" : "missed" }'
}
