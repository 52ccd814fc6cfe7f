//! A machine for one script.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// How long a script may take, on a machine that others keep busy.
const LIMIT: Duration = Duration::from_secs(240);

/// What every script can use.
const PRELUDE: &str = r#"
cd /root
export LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unset RETRYSPOOL RETRYSPOOLFS_LOG
# The user of these tests, and a way to be that user.
as_user() { setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp "$@"; }
# Waits for a command to succeed.
eventually() { local n; for n in $(seq 3000); do "$@" && return; sleep 0.01; done; echo "never: $*" >&2; return 1; }
gone() { ! pgrep -x 'retryspool.*' > /dev/null; }
quietly() { "$@" > /dev/null 2>&1; }
# The daemon of the one mount there is.
daemon() { pgrep -x retryspoolfs; }
# The process that takes its mount away should it be killed.
guard() { pgrep -x retryspoolguard; }
is_mounted() { grep -q " $1 fuse.retryspoolfs " /proc/mounts; }
is_free() { ! is_mounted "$1"; }
# Fails if the command does not: prints its complaint and its exit code.
refused() { local code=0; "$@" 2>&1 || code=$?; echo "exit $code"; [ "$code" -ne 0 ]; }
# Starts systemd as the first process in namespaces of its own, with the script on standard input
# as its one job, and prints what that script prints. Of this machine's own units none starts.
under_systemd() {
    cat > /tmp/check.sh
    rm -rf /etc/systemd/system/*.wants /lib/systemd/system/*.target.wants
    cat > /etc/systemd/system/check.service <<'UNIT'
[Unit]
DefaultDependencies=no
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
Environment=BASH_ENV=/tmp/functions
ExecStart=/bin/bash -euo pipefail /tmp/check.sh
StandardOutput=file:/tmp/out
StandardError=append:/tmp/out
UNIT
    declare -f eventually gone daemon is_mounted is_free > /tmp/functions
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    unshare --mount --pid --cgroup --fork --kill-child --mount-proc env -i container=other \
        PATH="$PATH" /lib/systemd/systemd --system --unit=check.service > /tmp/systemd 2>&1 || true
    cat /tmp/out || cat /tmp/systemd
}
install_package() { dpkg -i /tmp/bring/package.deb > /tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; return 1; }; }
"#;

/// The package, built once from the program under test.
fn package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("package");
        let built = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/package"))
            .args(["--binary", env!("CARGO_BIN_EXE_retryspoolfs")])
            .arg(&dir)
            .output()
            .unwrap();
        assert!(built.status.success(), "{built:?}");
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join(String::from_utf8(built.stdout).unwrap().trim())
    })
}

/// Runs a script on a machine on which nothing of this project is installed, but that has the
/// package in /tmp/bring/package.deb. Gives what it printed.
#[track_caller]
pub fn run(script: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(package(), dir.path().join("package.deb")).unwrap();
    fs::write(dir.path().join("script.sh"), format!("{PRELUDE}\n{script}")).unwrap();
    let output = Command::new("timeout")
        .args(["--kill-after=5", &LIMIT.as_secs().to_string()])
        .args("unshare --mount --pid --fork --kill-child --propagation private bash".split(' '))
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/install/sandbox.sh"
        ))
        .arg(dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stderr.is_empty(),
        "{}\n{stdout}\n{stderr}",
        output.status
    );
    stdout.trim_end().to_owned()
}
