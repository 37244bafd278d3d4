#!/bin/sh
# What an expert would type to see whether a host is as expert.sh leaves it: changes nothing, says what differs, and ends
# with 2 then. It also is the check before a second run that acts only where it must.
user=deploy
port=2222
code=0
differs() { echo "differs: $1"; code=2; }

id -nG "$user" 2>/dev/null | grep -qw sudo || differs "user $user in sudo"
[ "$(getent shadow "$user" | cut -d: -f2)" = '*' ] || differs "password of $user"
keys=/home/$user/.ssh/authorized_keys
grep -qxF "$(cat /root/play/deploy.pub)" "$keys" 2>/dev/null || differs "key of $user"
[ "$(stat -c '%a %U' "/home/$user/.ssh" "$keys" 2>/dev/null | tr '\n' ' ')" = "700 $user 600 $user " ] || differs "modes"
sudo -l -U "$user" 2>/dev/null | grep -qF "(ALL : ALL) NOPASSWD: ALL" || differs "sudo rule"
visudo -c -q || differs "sudoers"
settings=$(sshd -T) || differs "sshd"
for line in "port $port" "permitrootlogin no" "passwordauthentication no" "kbdinteractiveauthentication no" \
    "pubkeyauthentication yes" "maxauthtries 3"; do
    echo "$settings" | grep -qxF "$line" || differs "sshd: $line"
done
ss -Hltn "sport = :$port" | grep -q . || differs "sshd listens on $port"
rules=$(ufw status verbose)
for line in "Status: active" "Default: deny (incoming), allow (outgoing)"; do
    echo "$rules" | grep -qF "$line" || differs "ufw: $line"
done
for open in "$port" 80 443; do
    echo "$rules" | grep -qE "^$open/tcp +ALLOW IN +Anywhere *$" || differs "ufw: $open/tcp"
    echo "$rules" | grep -qE "^$open/tcp \(v6\) +ALLOW IN +Anywhere \(v6\) *$" || differs "ufw: $open/tcp over IPv6"
done
exit $code
