//! Runs a test of this program again inside a throw-away root: in namespaces of its own, chrooted into an overlay of a
//! lab tree whose upper layer is a tmpfs. Nothing of the machine itself can be reached from there but /proc and /dev.

use std::path::Path;
use std::process::Command;

/// Set for the inner half; its value is handed on.
pub const CASE: &str = "KEYWARD_TEST_CASE";
/// Where the program under test lies inside the root.
pub const PROGRAM: &str = "/opt/keyward";

const SCRIPT: &str = r#"
    set -e
    mount -t tmpfs -o size=64m,mode=755 keyward-test /mnt
    mkdir /mnt/upper /mnt/work /mnt/root
    mount -t overlay -o lowerdir="$1",upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
    mount -t proc proc /mnt/root/proc
    mount --rbind /dev /mnt/root/dev
    mount -t tmpfs -o mode=755 run /mnt/root/run
    mount -t tmpfs -o mode=1777 tmp /mnt/root/tmp
    mkdir -p /mnt/root/opt
    for pair in "$2:/opt/test" "$3:/opt/keyward"; do
        touch "/mnt/root${pair#*:}"
        mount --bind "${pair%%:*}" "/mnt/root${pair#*:}"
    done
    ip link set lo up
    exec chroot /mnt/root /opt/test --exact "$4" --nocapture --test-threads 1 --include-ignored
"#;

/// Runs `test` with `case` in a copy of `tree`; what it said, as an error when it did not run and pass.
pub fn run(tree: &Path, test: &str, case: &str) -> Result<String, String> {
    let spaces = ["-m", "-p", "-f", "-n", "-u", "-i", "--kill-child", "--propagation", "private"];
    let output = Command::new("unshare")
        .args(spaces)
        .args(["sh", "-c", SCRIPT, "sh"])
        .args([tree, &std::env::current_exe().unwrap(), Path::new(super::KEYWARD), Path::new(test)])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env(CASE, case)
        .envs(std::env::var_os("KEYWARD_FAULTS").map(|how_many| ("KEYWARD_FAULTS", how_many)))
        .output()
        .map_err(|error| error.to_string())?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() && said.contains("1 passed") { Ok(said) } else { Err(said) }
}

/// The awkward hosts of `tests/cases/DIR` as name and text, sorted; KEYWARD_CASE chooses by a part of the name.
pub fn cases(dir: &str) -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(dir);
    let only = std::env::var("KEYWARD_CASE").unwrap_or_default();
    let mut found: Vec<(String, String)> = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name.contains(&only) {
            found.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    found.sort();
    found
}
