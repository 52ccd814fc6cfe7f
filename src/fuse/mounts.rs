//! The kernel's table of mounts: which spool is mounted where.
//!
//! Must not know: how anything is mounted.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// What lies on top at a mountpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The type of the filesystem, as in `fuse.retryspoolfs`.
    pub kind: Vec<u8>,
    /// Its source: of this program's mounts what was given to `mount`, made absolute.
    pub source: OsString,
}

/// What is mounted at that path, if anything is. The path is absolute and without links.
pub fn mounted_at(path: &Path) -> Option<Mounted> {
    find(&fs::read("/proc/self/mountinfo").ok()?, path)
}

/// The source of this program's mount at that path, if there is one.
pub fn source_at(path: &Path) -> Option<OsString> {
    let mounted = mounted_at(path)?;
    (mounted.kind == b"fuse.retryspoolfs").then_some(mounted.source)
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
            // The last one lies on top.
            let field = |at: usize| unescaped(fields.get(dash + at).copied().unwrap_or_default());
            found = Some(Mounted {
                kind: field(1),
                source: OsString::from_vec(field(2)),
            });
        }
    }
    found
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
            38 37 0:52 / /mnt/c rw - tmpfs tmpfs rw\n";
        let at = |path: &str| {
            let found = find(table, Path::new(path))?;
            Some((String::from_utf8(found.kind).unwrap(), found.source))
        };
        let ours = |source: &str| Some(("fuse.retryspoolfs".to_owned(), source.into()));
        assert_eq!(at("/mnt/a b"), ours("sqlite:/q\\#1.db"));
        assert_eq!(at("/mnt/c"), Some(("tmpfs".to_owned(), "tmpfs".into())));
        assert_eq!(at("/mnt"), None);
    }
}
