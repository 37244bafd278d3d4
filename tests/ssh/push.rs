//! A program put on a host and started there as root.

use std::io::Write as _;
use std::time::{Duration, Instant};

use keyward::error::{Failure, Kind};
use keyward::target::put::Programs;
use keyward::target::sandbox::INSIDE_V4;
use keyward::target::ssh::Link;
use keyward::target::ssh::push::{Become, Started, start};
use keyward::target::talk::{Heard, Limits, Talk as _};
use keyward::types::Secret;

use super::support::{KEYWARD, SUITES};
use super::world::{DEPLOY_PASSWORD, World, mute, passwords};

const HERE: &str = std::env::consts::ARCH;
const WAIT: Duration = Duration::from_secs(10);
const DIRECTORY: &str = "/var/lib/keyward-agent";

/// Stands for the agent: says who and what it is, then repeats what it hears.
fn program(version: &str) -> Vec<u8> {
    format!("#!/bin/sh\necho \"version {version} of $(id -u)\"\nprintf '<%s>' \"$@\"\necho\nexec cat\n").into_bytes()
}

/// As a file without a name.
fn programs(architecture: &str, program: &[u8]) -> Programs {
    let name = std::env::temp_dir().join(format!("keyward-program-{:?}", std::thread::current().id()));
    let mut file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&name).unwrap();
    std::fs::remove_file(&name).unwrap();
    file.write_all(program).unwrap();
    Programs::new().with(architecture, file).unwrap()
}

fn run(link: &Link, root: &Become, program: &[u8], arguments: &[&str]) -> Result<Started, Failure> {
    start(link, root, &programs(HERE, program), arguments, Limits::default())
}

fn with(password: &str) -> Become {
    Become::Sudo { password: Some(Secret::new(password.to_owned())) }
}

#[track_caller]
fn line(started: &mut Started) -> String {
    match started.talk.next_line(WAIT).unwrap() {
        Heard::Line(line) => line,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(&started.talk.stderr())),
    }
}

#[test]
fn every_release_keeps_it_by_its_hash_and_runs_it_as_root() {
    for suite in SUITES {
        let Some(world) = World::new("every_release_keeps_it", suite) else { return };
        // Nothing else is needed there.
        world.bed.sh("sed -i '/^Subsystem/d' /etc/ssh/sshd_config; mount -t tmpfs -o noexec,size=1m tmpfs /tmp").ok();
        world.sshd("");
        world.bed.sh("echo 'deploy ALL=(ALL:ALL) ALL' >/etc/sudoers.d/deploy; chmod 440 /etc/sudoers.d/deploy").ok();
        let (root, deploy) = (world.root(), world.deploy());
        let arguments = ["__agent", "it's", "a b", "", "$(id)", "-n"];
        let mut first = run(&root, &Become::Already, &program("1"), &arguments)
            .unwrap_or_else(|failure| panic!("{suite}: {failure}"));
        assert!(first.put.uploaded && first.put.architecture == HERE, "{suite}");
        assert_eq!(
            (line(&mut first), line(&mut first)),
            ("version 1 of 0".into(), "<__agent><it's><a b><><$(id)><-n>".into()),
            "{suite}"
        );
        first.talk.send_line("still there?", WAIT).unwrap();
        assert_eq!(line(&mut first), "still there?", "{suite}");
        // Again: nothing is uploaded. By sudo with its password, while the first one runs.
        let mut second = run(&deploy, &with(DEPLOY_PASSWORD), &program("1"), &[])
            .unwrap_or_else(|failure| panic!("{suite}: {failure}"));
        assert!(!second.put.uploaded && second.put.hash == first.put.hash, "{suite}");
        assert_eq!(line(&mut second), "version 1 of 0", "{suite}");
        let list = |world: &World| {
            world
                .bed
                .sh(&format!("stat -c '%a %u %F' {DIRECTORY}; ls -A {DIRECTORY}; stat -c '%a %u' {DIRECTORY}/*"))
                .ok()
                .stdout
        };
        let listed = format!("700 0 directory\n{0}\n{0}.ok\n700 0\n600 0\n", first.put.hash);
        assert_eq!(list(&world), listed, "{suite}");
        // A file that is not what its name says is written anew.
        world.bed.sh(&format!("echo evil >{DIRECTORY}/{}", first.put.hash)).ok();
        let mut third = run(&root, &Become::Already, &program("1"), &[]).unwrap();
        assert!(third.put.uploaded && line(&mut third) == "version 1 of 0", "{suite}");
        // A password that is not needed is not sent to anybody.
        world.bed.sh("echo 'deploy ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/deploy").ok();
        for root in [Become::Sudo { password: None }, with("canary")] {
            let mut fourth =
                run(&deploy, &root, &program("2"), &[]).unwrap_or_else(|failure| panic!("{suite}: {failure}"));
            assert_eq!((line(&mut fourth), line(&mut fourth)), ("version 2 of 0".into(), "<>".into()), "{suite}");
            fourth.talk.close_stdin();
            assert_eq!(fourth.talk.next_line(WAIT).unwrap(), Heard::End, "{suite}");
            assert_eq!(fourth.talk.finish(WAIT).unwrap(), 0, "{suite}");
        }
        assert_eq!(list(&world).lines().count(), 5, "{suite}: the old one is gone");
    }
}

/// Counts how often the host counts a hash, which it does only where the file may have changed since it did so last.
#[test]
fn a_hash_is_counted_again_where_the_file_may_have_changed() {
    for suite in ["bullseye", "sid"] {
        let Some(world) = World::new("a_hash_is_counted_again", suite) else { return };
        let count = "mv /usr/bin/b2sum /usr/bin/b2sum.real; \
                     printf '#!/bin/sh\\necho >>/root/counted\\nexec /usr/bin/b2sum.real \"$@\"\\n' >/usr/bin/b2sum; chmod 755 /usr/bin/b2sum";
        world.bed.sh(count).ok();
        let link = world.root();
        let started = |what: &str, uploaded: bool, counted: usize| {
            world.bed.sh("rm -f /root/counted; touch /root/counted").ok();
            let mut started = run(&link, &Become::Already, &program("1"), &[]).unwrap();
            assert_eq!(line(&mut started), "version 1 of 0", "{suite}: {what}");
            let lines = world.bed.sh("wc -l </root/counted").ok().stdout;
            assert_eq!(
                (started.put.uploaded, lines.trim()),
                (uploaded, counted.to_string().as_str()),
                "{suite}: {what}"
            );
            started.put.hash
        };
        let hash = started("an upload", true, 2);
        let file = format!("{DIRECTORY}/{hash}");
        started("as it was", false, 0);
        let changed: [(&str, String, bool, usize); 9] = [
            ("touched", format!("touch {file}"), false, 1),
            ("its time set back", format!("cp -p {file} /root/old; echo x >>{file}; cp -p /root/old {file}"), false, 1),
            (
                "its content with its time",
                format!(
                    "sed 's/version/VERSION/' {file} >/root/new; touch -r {file} /root/new; cat /root/new >{file}; touch -r /root/new {file}"
                ),
                true,
                3,
            ),
            ("another file", format!("cp -p {file} {file}.n; mv {file}.n {file}"), false, 1),
            ("somebody else's", format!("chown deploy {file}; chown root {file}"), false, 1),
            ("no mark", format!("rm {file}.ok"), false, 1),
            ("a torn mark", format!("printf '0 700 regular' >{file}.ok"), false, 1),
            ("another's mark", format!("chown deploy {file}.ok"), false, 1),
            ("open to others once", format!("chmod 777 {DIRECTORY}"), false, 1),
        ];
        for (what, script, uploaded, counted) in changed {
            world.bed.sh(&script).ok();
            started(what, uploaded, counted);
            started(what, false, 0);
        }
        // Nothing is written through a link that lies in the mark's place.
        world.bed.sh(&format!("rm {file}.ok; echo precious >/root/precious; ln -s /root/precious {file}.ok")).ok();
        started("a link", false, 1);
        assert_eq!(world.bed.sh("cat /root/precious").ok().stdout, "precious\n");
        started("as it was", false, 0);
    }
}

#[test]
fn this_program_itself_runs_where_it_is_put() {
    let Some(world) = World::new("this_program_itself", "bullseye") else { return };
    let link = world.root();
    let bytes = std::fs::read(KEYWARD).unwrap();
    let begun = Instant::now();
    let mut started = run(&link, &Become::Already, &bytes, &["--version"]).unwrap();
    println!("{} MiB uploaded and started in {:?}", bytes.len() >> 20, begun.elapsed());
    assert!(line(&mut started).starts_with("keyward "));
    let begun = Instant::now();
    assert!(!run(&link, &Become::Already, &bytes, &["--version"]).unwrap().put.uploaded);
    println!("again in {:?}", begun.elapsed());
    // One that runs is not taken away, one that does not is.
    let sleep = std::fs::read(world_sleep()).unwrap();
    let mut running = run(&link, &Become::Already, &sleep, &["100"]).unwrap();
    assert_eq!(running.talk.next_line(Duration::from_millis(200)).unwrap(), Heard::Silence);
    let next = run(&link, &Become::Already, &program("3"), &[]).unwrap();
    let mut kept =
        world.bed.sh(&format!("ls -A {DIRECTORY}")).ok().stdout.lines().map(str::to_owned).collect::<Vec<_>>();
    let mut expected =
        vec![format!("{}.ok", running.put.hash), format!("{}.ok", next.put.hash), running.put.hash, next.put.hash];
    kept.sort();
    expected.sort();
    assert_eq!(kept, expected);
}

/// A program that is linked with the oldest libc.
fn world_sleep() -> std::path::PathBuf {
    super::support::tree("bullseye").unwrap().join("bin/sleep")
}

#[test]
fn no_way_to_root_is_told_by_its_reason() {
    for suite in ["bullseye", "sid"] {
        let Some(world) = World::new("no_way_to_root", suite) else { return };
        let deploy = world.deploy();
        let told = |root: &Become, words: &str| {
            let begun = Instant::now();
            let failure = run(&deploy, root, &program("1"), &[]).unwrap_err();
            assert!(failure.to_string().contains(words), "{suite}: {words}: {failure}");
            assert!(
                !failure.to_string().contains("canary") && begun.elapsed() < Duration::from_secs(20),
                "{suite}: {failure}"
            );
            assert_ne!(world.bed.run(&["/usr/bin/test", "-e", DIRECTORY]).code, 0, "{suite}");
        };
        told(&Become::Already, "not root's");
        told(&with(DEPLOY_PASSWORD), "cannot become root by sudo");
        told(&Become::Sudo { password: None }, "none was given");
        world.bed.sh("echo 'deploy ALL=(ALL:ALL) ALL' >/etc/sudoers.d/deploy; chmod 440 /etc/sudoers.d/deploy").ok();
        told(&with("canary wrong"), "does not take the password");
        told(&Become::Sudo { password: None }, "none was given");
        world.bed.sh("mv /usr/bin/sudo /usr/bin/sudo.away").ok();
        told(&with(DEPLOY_PASSWORD), "there is no sudo");
    }
}

#[test]
fn a_host_that_cannot_keep_it_says_why() {
    let Some(world) = World::new("a_host_that_cannot_keep_it", "bookworm") else { return };
    let link = world.root();
    let told = |program: &[u8], words: &str| {
        let failure = run(&link, &Become::Already, program, &[]).unwrap_err();
        assert!(failure.to_string().contains(words), "{words}: {failure}");
    };
    // Somebody was there before.
    world.bed.sh(&format!("mkdir /tmp/x; ln -s /tmp/x {DIRECTORY}")).ok();
    told(&program("1"), "not root's own, or a link");
    assert_eq!(world.bed.sh("ls -A /tmp/x").ok().stdout, "");
    world.bed.sh(&format!("rm {DIRECTORY}; install -d -o deploy {DIRECTORY}")).ok();
    told(&program("1"), "not root's own, or a link");
    world.bed.sh(&format!("rmdir {DIRECTORY}; echo x >{DIRECTORY}")).ok();
    told(&program("1"), "not root's own, or a link");
    // A full disk, of a size of our own.
    world
        .bed
        .sh(&format!("rm {DIRECTORY}; mkdir -m 700 {DIRECTORY}; mount -t tmpfs -o size=64k,mode=700 tmpfs {DIRECTORY}"))
        .ok();
    let large = [program("1"), vec![b'#'; 4 << 20]].concat();
    let begun = Instant::now();
    told(&large, "the disk is full");
    assert!(begun.elapsed() < WAIT);
    assert_eq!(world.bed.sh(&format!("ls -A {DIRECTORY}")).ok().stdout, "");
    // Where nothing may be executed.
    world.bed.sh(&format!("mount -o remount,size=1m,noexec {DIRECTORY}")).ok();
    told(&program("1"), "noexec");
    world.bed.sh(&format!("umount {DIRECTORY}")).ok();
    // Another processor.
    let other = start(&link, &Become::Already, &programs("sparc64", &program("1")), &[], Limits::default());
    let failure = other.unwrap_err();
    assert_eq!(failure.kind, Kind::Refused);
    assert!(
        failure.to_string().contains("sparc64") && failure.hint.contains(&format!("--agent-binary {HERE}=PATH")),
        "{failure}"
    );
    assert_eq!(world.bed.sh(&format!("ls -A {DIRECTORY}")).ok().stdout, "");
    // The connection has survived all of it.
    assert!(run(&link, &Become::Already, &program("1"), &[]).unwrap().put.uploaded);
    world.bed.sh("umount -l /proc").ok();
    told(&program("1"), "/proc is not mounted");
}

#[test]
fn a_server_that_runs_something_else_is_seen() {
    let Some(world) = World::new("a_server_that_runs_something_else", "trixie") else { return };
    let key = world.home.key("id_ed25519", None);
    let target = format!("ssh://root@{INSIDE_V4}");
    let told = |words: &str| {
        let link = world.open(&target, mute, |_| {}).unwrap();
        let failure = run(&link, &Become::Already, &program("1"), &[]).unwrap_err();
        assert!(
            failure.to_string().contains(words) && failure.to_string().contains("ForceCommand"),
            "{words}: {failure}"
        );
    };
    world.authorize("root", &format!("command=\"echo only backups\" {key}"));
    told("it says: only backups");
    world.authorize("root", &format!("command=\"yes\" {key}"));
    told("it says: y");
    world.authorize("root", &key);
    world.sshd("ForceCommand internal-sftp\n");
    told("something else");
    world.bed.sh("usermod -s /usr/sbin/nologin deploy").ok();
    world.sshd("");
    let link = world.open(&format!("ssh://deploy@{INSIDE_V4}"), passwords, |wishes| wishes.passwords = true).unwrap();
    let failure = run(&link, &with(DEPLOY_PASSWORD), &program("1"), &[]).unwrap_err();
    assert!(failure.to_string().contains("not available"), "{failure}");
    // A start-up file that talks is no obstacle.
    world.bed.sh("usermod -s /bin/bash deploy; echo 'echo welcome; echo' >/home/deploy/.bashrc; echo 'deploy ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/deploy").ok();
    // sshd keeps the account as it was when the connection began.
    let mut started = run(&world.deploy(), &Become::Sudo { password: None }, &program("1"), &[]).unwrap();
    assert_eq!(line(&mut started), "version 1 of 0");
}

#[test]
fn an_expired_password_is_told() {
    let Some(world) = World::new("an_expired_password", "bookworm") else { return };
    world.bed.sh("chage -d 0 root").ok();
    let link = world.root();
    let failure = run(&link, &Become::Already, &program("1"), &[]).unwrap_err();
    assert!(failure.to_string().contains("has expired"), "{failure}");
}
