# Runs as root in sh, from standard input, with PATH, LC_ALL and umask 077 set. `known MACHINE` is defined before it and
# sets h to the hash and n to the size of the program for that processor; it ends this where there is none. A start costs
# little more than counting that hash: each further child takes a millisecond or two, so nothing is asked that the shell
# knows or that matters only after an upload. Says one line for each step:
#   arch MACHINE
#   file have|need      after need reads SIZE bytes, then says: file got
#   start now           then becomes the program
#   no REASON           and ends
d=/var/lib/keyward-agent
say() { printf '%s\n' "$*"; }
no() { say "no $1"; exit 1; }

[ "$(id -u)" = 0 ] || no root
for tool in uname b2sum stat head readlink mv; do command -v "$tool" >/dev/null || no tools; done
# Since Linux 6.1; what uname(1) says.
{ read -r m </proc/sys/kernel/arch; } 2>/dev/null || m=$(uname -m)
say "arch $m"
known "$m"
f=$d/$h

# The directory is root's own and no link before anything is put there.
[ -e "$d" ] || mkdir "$d" 2>/dev/null
[ -L "$d" ] && no directory
case $(stat -c '%F %u %a' "$d" 2>/dev/null) in
'directory 0 700') ;;
'directory 0 '*) chmod 700 "$d" || no directory ;;
*) no directory ;;
esac

# True when the open file 9 has the hash.
whole() { s=$(b2sum -l 256 <&9) && [ "${s%% *}" = "$h" ]; }
fits() { [ -f "$f" ] && [ ! -L "$f" ] && exec 9<"$f" && whole; }

if fits; then
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
    say file got
fi

# Old ones go, but not those that run.
used=
for o in "$d"/*; do
    [ "$o" = "$f" ] && continue
    [ -n "$used" ] || used=$(readlink /proc/[0-9]*/exe 2>/dev/null)
    case "
$used
" in *"
$o
"*) continue ;; esac
    rm -f "$o"
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
