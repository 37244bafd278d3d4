# Runs as root in sh, from standard input, with PATH, LC_ALL and umask 077 set. Defined before it: `each COMMAND` calls a
# command with processor, hash and size of each program there is, until one succeeds. Says one line for each step:
#   arch MACHINE
#   file have|need      after need reads SIZE bytes, then says: file got
#   start now           then becomes the program
#   no REASON           and ends
# A start is waited for, and each child takes a millisecond or two: where a program lies as it was when its hash was
# counted, one stat(1) tells all. Its mark beside it says how that was, to the inode and the nanosecond of its last change,
# which nobody sets by hand; hash and mark count only in a directory that none but root could enter.
d=/var/lib/keyward-agent
say() { printf '%s\n' "$*"; }
no() { say "no $1"; exit 1; }

# What the open file 9 is, and with it who asks and what the directory is.
state() {
    s=$(stat -L -c '%u %a %F %d %i %s %.9Y %.9Z' /proc/self "$d" /proc/self/fd/9 2>/dev/null) || return 1
    { read -r who; read -r place; read -r now; } <<EOF
$s
EOF
}
# Reads the mark, which is a file of root's own.
marked() { [ -f "$f.ok" ] && [ ! -L "$f.ok" ] && [ -O "$f.ok" ] && read -r was <"$f.ok"; }
# True when it lies there as it was.
known() {
    m=$1 h=$2 n=$3 f=$d/$2
    [ -f "$f" ] && [ ! -L "$f" ] && [ ! -L "$d" ] && marked || return 1
    exec 9<"$f"
    state || return 1
    case $who/$place/$now in
    '0 '*'/0 700 directory '*'/0 700 regular file '*" $n "*) [ "$was" = "$now" ] ;;
    *) return 1 ;;
    esac
}
# Marks it, with its state of before it was counted, unless it is marked so already.
mark() {
    [ -n "$now" ] || return 0
    marked && [ "$was" = "$now" ] && return 0
    # What is no mark of root's is not written through, and one that cannot be written is not needed.
    rm -f "$f.ok"
    (set -C; say "$now" >"$f.ok") 2>/dev/null || rm -f "$f.ok"
}
# True when the open file 9 has the hash.
whole() {
    now=
    state
    s=$(b2sum -l 256 <&9) && [ "${s%% *}" = "$h" ]
}
fits() { [ -f "$f" ] && [ ! -L "$f" ] && exec 9<"$f" && whole; }
is_this() { [ "$1" = "$m" ] && h=$2 n=$3; }

if each known; then
    say "arch $m"
    say file have
else
    [ "$(id -u)" = 0 ] || no root
    for tool in uname b2sum stat head readlink mv; do command -v "$tool" >/dev/null || no tools; done
    # Since Linux 6.1; what uname(1) says.
    { read -r m </proc/sys/kernel/arch; } 2>/dev/null || m=$(uname -m)
    say "arch $m"
    each is_this || exit 1
    f=$d/$h

    # The directory is root's own and no link before anything is put there.
    [ -e "$d" ] || mkdir "$d" 2>/dev/null
    [ -L "$d" ] && no directory
    case $(stat -c '%F %u %a' "$d" 2>/dev/null) in
    'directory 0 700') ;;
    # Whoever could enter it may have left a mark.
    'directory 0 '*) chmod 700 "$d" && rm -f "$d"/*.ok || no directory ;;
    *) no directory ;;
    esac

    if fits; then
        mark
        say file have
    else
        say file need
        t=$(mktemp "$d/.new.XXXXXXXX") || no write
        trap 'rm -f "$t"' EXIT
        trap 'exit 1' HUP INT TERM PIPE
        if ! head -c "$n" >"$t"; then
            case $(stat -f -c '%a %d' "$d") in '0 '*|*' 0') no space ;; esac
            no write
        fi
        [ "$(stat -c %s "$t")" = "$n" ] || no short
        exec 9<"$t"
        whole || no hash
        chmod 700 "$t" && sync "$t" && mv -f "$t" "$f" || no write
        trap - EXIT HUP INT TERM PIPE
        # Opened anew: a file that is open for writing somewhere cannot be executed.
        exec 9<"$f"
        whole || no hash
        mark
        say file got
    fi
fi

# Old ones go, but not those that run.
used=
for o in "$d"/*; do
    o=${o%.ok}
    [ "$o" = "$f" ] && continue
    [ -n "$used" ] || used=$(readlink /proc/[0-9]*/exe 2>/dev/null)
    case "
$used
" in *"
$o
"*) continue ;; esac
    rm -f "$o" "$o.ok"
done
# What an upload that was cut off left, but not one that is under way.
for o in "$d"/.new.*; do
    [ -e "$o" ] || continue
    find "$d" -maxdepth 1 -name '.new.*' -mmin +60 -delete 2>/dev/null
    break
done

# The file that was hashed is the one that is executed, whatever its name means by now.
[ -e /proc/self/fd/9 ] || no proc
[ -x /proc/self/fd/9 ] || no exec
say start now
exec /proc/self/fd/9 "$@"
