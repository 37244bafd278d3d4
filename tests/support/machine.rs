//! What a rehearsal must leave as it was: the machine that the tests run on, as text by topic.

use std::collections::BTreeMap;
use std::process::Command;

/// All of the machine that a rehearsal could touch, as lines by topic.
pub fn machine() -> BTreeMap<&'static str, String> {
    let shell = |script: &str| {
        let output = Command::new("/bin/sh").args(["-c", script]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // Other programs of the machine write logs, caches and hidden files of their own meanwhile; keys count.
    let tree = "find /etc /root /home /usr/local /boot /opt /srv /var/lib/dpkg /var/lib/ufw /var/lib/systemd /var/spool \
                /mnt /media -xdev \\( -path '/root/.*' ! -path '/root/.ssh*' -o -name target \\) -prune -o \
                -printf '%p %y %m %U:%G %s %T@ %l\\n' 2>/dev/null | sort";
    BTreeMap::from([
        ("tree", shell(tree)),
        ("bytes of /etc", shell("find /etc -xdev -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum")),
        (
            "iptables",
            shell(
                "iptables-save | grep -v '^#' | sed 's/\\[.*\\]//'; ip6tables-save | grep -v '^#' | sed 's/\\[.*\\]//'",
            ),
        ),
        ("nft", shell("nft -s list ruleset 2>/dev/null")),
        (
            "sysctl",
            shell(
                "sysctl -a 2>/dev/null | grep -vE '^(fs.(dentry|inode|file|quota|aio|dqstats)|kernel.(random|ns_last_pid|pty)|\
             net.netfilter.nf_conntrack_count|net.*(neigh|conf)[.](docker|veth|br-))'",
            ),
        ),
        ("modules", shell("cut -d' ' -f1 /proc/modules | sort")),
        ("mounts", shell("cut -d' ' -f3- /proc/1/mountinfo | grep -vE 'docker|keyward' | sort")),
        (
            "links",
            shell(
                "ls /sys/class/net | grep -v '^veth'; ip route; ip -6 route | grep -v veth; ls /run/netns 2>/dev/null",
            ),
        ),
        ("hostname", shell("hostname; cat /proc/sys/kernel/hostname")),
        ("units", shell("ls -lR /etc/systemd /run/systemd 2>/dev/null")),
    ])
}

/// Checks that nothing changed, and that something was looked at.
#[track_caller]
pub fn same(before: &BTreeMap<&'static str, String>, after: &BTreeMap<&'static str, String>) {
    for (topic, text) in before {
        assert!(text == &after[topic], "{topic} of the machine changed:\n{}", super::difference(text, &after[topic]));
        let may_be_empty = ["modules", "nft", "iptables", "units"].contains(topic);
        assert!(!text.is_empty() || may_be_empty, "{topic}: nothing was looked at");
    }
}
