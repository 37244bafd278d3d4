#!/bin/sh
# The reference job as an expert would script it by hand: safe to run twice, checks before it reloads, proves nothing
# and cannot be undone. Wants the public key in /root/play/deploy.pub.
set -eu
user=deploy
port=2222

id "$user" >/dev/null 2>&1 || useradd -m -s /bin/bash "$user"
usermod -p '*' -aG sudo "$user"
install -d -m 700 -o "$user" -g "$user" "/home/$user/.ssh"
keys=/home/$user/.ssh/authorized_keys
touch "$keys"
grep -qxF "$(cat /root/play/deploy.pub)" "$keys" || cat /root/play/deploy.pub >>"$keys"
chown "$user:$user" "$keys"
chmod 600 "$keys"

echo "$user ALL=(ALL:ALL) NOPASSWD: ALL" >/etc/sudoers.d/$user
chmod 440 /etc/sudoers.d/$user
visudo -c -q

cat >/etc/ssh/sshd_config.d/00-hardening.conf <<EOF
Port $port
PermitRootLogin no
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
MaxAuthTries 3
EOF
sshd -t

ufw default deny incoming >/dev/null
ufw default allow outgoing >/dev/null
ufw allow "$port/tcp" >/dev/null
ufw allow 80/tcp >/dev/null
ufw allow 443/tcp >/dev/null
ufw --force enable >/dev/null

systemctl reload ssh
timeout 5 sh -c "until ss -Hltn 'sport = :$port' | grep -q .; do sleep 0.02; done"
sshd -T | grep -qi '^permitrootlogin no$'
