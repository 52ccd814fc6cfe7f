//! A small disk, to fill.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// A small filesystem of its own.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn mount(megabytes: u32) -> SmallDisk {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(directory.path())
            .output();
        let mounted = mounted.expect("this test needs the mount command");
        let why = String::from_utf8_lossy(&mounted.stderr);
        assert!(
            mounted.status.success(),
            "this test mounts a small filesystem and must run as root: {why}"
        );
        SmallDisk(directory)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves not a byte.
    pub fn fill(&self) {
        let mut file = File::create(self.path().join("filler")).unwrap();
        for size in [1 << 20, 4096, 1] {
            let bytes = vec![b'x'; size];
            let full = loop {
                if let Err(e) = file.write_all(&bytes) {
                    break e;
                }
            };
            assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} could not be unmounted", self.path().display());
        }
    }
}
