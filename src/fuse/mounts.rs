//! The kernel's table of mounts: what is mounted where, which spool, and who uses it.
//!
//! Nothing here touches a mount, which may hang.
//! Must not know: how anything is mounted.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The file system type of this program's mounts.
pub const KIND: &str = "fuse.retryspoolfs";

/// What is mounted at a path, on top of what else may be mounted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The mount's number, unique while it lasts.
    pub id: u64,
    /// Its file system type.
    pub kind: OsString,
    /// What the table shows as its source.
    pub source: OsString,
}

impl Mounted {
    /// Whether this program mounted it.
    pub fn is_ours(&self) -> bool {
        self.kind == KIND
    }
}

/// What is mounted at that path, which is absolute and without links. An automounter's own entry
/// is nothing: it waits for just such a mount.
pub fn mounted_at(path: &Path) -> Option<Mounted> {
    let table = fs::read("/proc/self/mountinfo").ok()?;
    find(&table, path)
}

/// The source of this program's mount at that path, if there is one: what was given to `mount`,
/// made absolute. The path is absolute and without links.
pub fn source_at(path: &Path) -> Option<OsString> {
    let mounted = mounted_at(path).filter(Mounted::is_ours);
    mounted.map(|mounted| mounted.source)
}

/// See proc_pid_mountinfo(5) for the fields.
fn find(table: &[u8], path: &Path) -> Option<Mounted> {
    let mut found = None;
    for line in table.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let dash = fields.iter().position(|field| *field == b"-");
        if let (Some(target), Some(dash)) = (fields.get(4), dash)
            && unescaped(target) == path.as_os_str().as_bytes()
        {
            let behind = |at: usize| fields.get(dash + at).copied().unwrap_or_default();
            let id = std::str::from_utf8(fields[0]).ok();
            let mounted = Mounted {
                id: id.and_then(|id| id.parse().ok()).unwrap_or(0),
                kind: OsString::from_vec(unescaped(behind(1))),
                source: OsString::from_vec(unescaped(behind(2))),
            };
            // The last one lies on top.
            if mounted.kind != "autofs" {
                found = Some(mounted);
            }
        }
    }
    found
}

/// The processes that keep a mount busy, each in a few words: where it works, or which file it has
/// open. Those of other users are seen by root alone.
pub fn users(mountpoint: &Path) -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut users: Vec<(u32, String)> = processes
        .flatten()
        .filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let use_ = how(&process.path(), mountpoint)?;
            let command = fs::read(process.path().join("comm")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).trim_end().to_owned();
            Some((pid, format!("{command} (pid {pid}) {use_}")))
        })
        .collect();
    users.sort();
    users.into_iter().map(|(_, text)| text).collect()
}

/// How a process uses a mount. Links in /proc are read, and never followed.
fn how(process: &Path, mountpoint: &Path) -> Option<String> {
    let below = |link: &Path| {
        let target = fs::read_link(link).ok()?;
        let rest = target.strip_prefix(mountpoint).ok()?.display().to_string();
        Some(match rest.as_str() {
            "" => ".".to_owned(),
            _ => rest,
        })
    };
    let works = |link: &str| below(&process.join(link)).map(|dir| format!("works in {dir}"));
    works("cwd").or_else(|| works("root")).or_else(|| {
        let mut open = fs::read_dir(process.join("fd")).ok()?.flatten();
        open.find_map(|fd| below(&fd.path()).map(|file| format!("has {file} open")))
    })
}

/// A field as it was before the kernel wrote blanks, `\` and `#` as `\ooo`.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, behind @ ..] = rest {
        let code = match (first, behind.get(..3)) {
            (b'\\', Some(code)) => std::str::from_utf8(code).ok(),
            _ => None,
        };
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &behind[3..];
            }
            None => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_on_top_is_found() {
        let table = b"36 35 0:50 / /mnt/a\\040b rw shared:1 - fuse.retryspoolfs sqlite:/q\\134\\0431.db rw\n\
            37 36 0:51 / /mnt/c rw - fuse.retryspoolfs sqlite:/c.db rw\n\
            38 37 0:52 / /mnt/c rw - tmpfs tmpfs rw\n\
            39 37 0:53 / /mnt/d rw - autofs systemd-1 rw\n\
            40 39 0:54 / /mnt/d rw - fuse.retryspoolfs /d.db rw\n\
            41 37 0:55 / /mnt/e rw - autofs systemd-1 rw\n";
        let at = |path: &str| find(table, Path::new(path));
        let ours = at("/mnt/a b").unwrap();
        assert!(ours.is_ours());
        assert_eq!((ours.id, ours.source), (36, "sqlite:/q\\#1.db".into()));
        assert!(!at("/mnt/c").unwrap().is_ours());
        assert_eq!(at("/mnt/d").unwrap().id, 40);
        assert_eq!(at("/mnt/e"), None);
        assert_eq!(at("/mnt"), None);
    }

    #[test]
    fn who_works_in_a_directory_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(path.join("sub")).unwrap();
        let file = fs::File::create(path.join("file")).unwrap();
        let mut child = std::process::Command::new("cat")
            .current_dir(path.join("sub"))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let found = users(&path);
        let (here, there) = (std::process::id(), child.id());
        assert!(
            found
                .iter()
                .any(|user| user.ends_with(&format!("(pid {here}) has file open")))
        );
        assert!(
            found.contains(&format!("cat (pid {there}) works in sub")),
            "{found:?}"
        );
        drop((file, child.stdin.take()));
        child.wait().unwrap();
    }
}
