"""The reference job for pyinfra. It has no operation for ufw, so ufw's own words are asked first and acted on."""

from io import StringIO
from pathlib import Path

from pyinfra import host
from pyinfra.facts.server import Command
from pyinfra.operations import files, server, systemd

PORTS = ["2222", "80", "443"]
SSHD = """Port 2222
PermitRootLogin no
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
MaxAuthTries 3
"""

server.user(
    name="user and key",
    user="deploy",
    shell="/bin/bash",
    password="*",
    groups=["sudo"],
    append=True,
    create_home=True,
    ensure_home=True,
    public_keys=[Path(host.data.pub).read_text().strip()],
)
files.put(
    name="sudo",
    src=StringIO("deploy ALL=(ALL:ALL) NOPASSWD: ALL\n"),
    dest="/etc/sudoers.d/deploy",
    mode="440",
)
sshd = files.put(
    name="sshd", src=StringIO(SSHD), dest="/etc/ssh/sshd_config.d/00-hardening.conf", mode="644"
)
server.shell(name="judge", commands=["visudo -c -q", "sshd -t"], _if=sshd.did_change)
rules = host.get_fact(Command, "ufw status verbose")
wanted = [f"ufw allow {port}/tcp" for port in PORTS if f"\n{port}/tcp " not in rules]
if "Default: deny (incoming), allow (outgoing)" not in rules:
    wanted = ["ufw default deny incoming", "ufw default allow outgoing", *wanted, "ufw --force enable"]
if wanted:
    server.shell(name="ufw", commands=wanted)
systemd.service(name="reload", service="ssh", reloaded=True, _if=sshd.did_change)
