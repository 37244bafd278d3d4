//! What keyward reads in plain configuration files is what the real client reads in them, old and new.

use std::path::{Path, PathBuf};

use keyward::host::real::RealHost;
use keyward::target::ssh::{Destination, Settings};

use super::support::{skipped, tree};
use super::world::{Home, client};

/// Each of these has one reading, so no client is asked.
const PLAIN: [&str; 9] = [
    "",
    "# mine\nUser first\nUser second\nPort 24\n",
    "Host web* !web2 *.example\n  User=second\n\tIdentityFile ~/a\n IdentityFile /b\nHost *\nPort 24\nCompression yes\n",
    "Host web2 other\nHostName 192.0.2.7\nHost web2\nHostName late.example\nIdentitiesOnly yes\n",
    "Host ??b\nProxyJump a@one:22,two\nHost *\nProxyJump three\n",
    "Host web\nProxyCommand connect there\nHost *\nProxyJump three\n",
    "Host !web2 w*\n  HostKeyAlias Alias\n\n  SendEnv LANG LC_*\n  HashKnownHosts yes\n",
    "host = web\nuser = eq\nport=\t27\nHOST web2\nUSER up\n",
    "IdentityAgent none\nCertificateFile /c-cert.pub\nServerAliveInterval 5\nHost *.example\nIdentityAgent /run/a\n",
];

/// These the client has to be asked about.
const ASKED: [&str; 6] = [
    "Host web\nHostName %h.example\n",
    "Match host web\nUser matched\n",
    "User me # not you\n",
    "Host WEB\nUser upper\n",
    "CanonicalizeHostname no\nUser late\n",
    "User \"quoted\"\n",
];

fn settings(home: &Home, place: &str, text: &str, client: PathBuf, own_account: bool) -> Result<Settings, String> {
    // ssh has its own idea of where the home is.
    home.write("config", &format!("UserKnownHostsFile /known\n{text}"), 0o600);
    let user = "root".to_owned();
    let around = keyward::target::ssh::Around { client: Some(client), own_account, user, ..home.around() };
    let found = Settings::of(&Destination::parse(place).unwrap(), &around, &RealHost::new());
    let mut settings = found.map_err(|failure| failure.to_string())?;
    // Names of its own are different from release to release.
    let own = |file: &PathBuf| file.starts_with(home.path.join(".ssh"));
    settings.identity_files.retain(|file| !own(file));
    Ok(settings)
}

#[test]
fn plain_files_are_read_as_the_client_reads_them() {
    for suite in ["bullseye", "trixie"] {
        let tree = match tree(suite) {
            Ok(tree) => tree,
            Err(reason) => return skipped("plain_files_are_read_as_the_client_reads_them", &reason),
        };
        let home = Home::new();
        let real = client(&home, &tree);
        let nobody = || Path::new("/nonexistent/ssh").to_owned();
        for place in ["web", "web2", "x.example", "root@web", "web2:2222", "192.0.2.1"] {
            for text in PLAIN {
                let theirs = settings(&home, place, text, real.clone(), false);
                let ours = settings(&home, place, text, nobody(), true);
                assert_eq!(ours, theirs, "{suite}: {place}: {text}");
                assert!(ours.is_ok(), "{text}");
            }
            for text in ASKED {
                let theirs = settings(&home, place, text, real.clone(), false);
                let ours = settings(&home, place, text, real.clone(), true);
                assert_eq!(ours, theirs, "{suite}: {place}: {text}");
                assert!(settings(&home, place, text, nobody(), true).is_err(), "{text}");
            }
        }
    }
}
