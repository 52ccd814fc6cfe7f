//! A file that is there whole or not at all: written under a name of its own, then renamed.
//!
//! Owns: the temporary name, and its end.
//! May fail: as files do, with the path in the text; a file that is there already is never touched.
//! Must not know: what is written.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file of mode 0600 that nobody sees under its name before [`finish`](NewFile::finish); dropped
/// before that, it is gone.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
}

impl NewFile {
    /// Makes it, empty, as `.NAME.PID-N.part` beside `path`. [`io::ErrorKind::AlreadyExists`] if
    /// something is at `path`.
    pub fn create(path: &Path) -> io::Result<(NewFile, File)> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        NewFile::beside(path)
    }

    /// The same, for a file that never gets the name: a temporary copy.
    pub fn beside(path: &Path) -> io::Result<(NewFile, File)> {
        let mut nth = 0;
        loop {
            let temporary = temporary(path, nth)?;
            let made = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary);
            match made {
                Ok(file) => {
                    let path = path.to_owned();
                    return Ok((NewFile { path, temporary }, file));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => nth += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it is until it is finished.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Brings it to the disk under its name. [`io::ErrorKind::AlreadyExists`] if somebody was
    /// faster.
    pub fn finish(self) -> io::Result<()> {
        File::open(&self.temporary)?.sync_all()?;
        rename_noreplace(&self.temporary, &self.path)?;
        File::open(directory(&self.path))?.sync_all()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Finished, it is no longer there.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// The temporary files beside `path` whose makers ended without taking them away.
pub fn leftovers(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut start = OsString::from(".");
    start.push(path.file_name().unwrap_or_default());
    start.push(".");
    let mut found = Vec::new();
    for entry in fs::read_dir(directory(path))? {
        let entry = entry?;
        let name = entry.file_name();
        let pid = name
            .as_bytes()
            .strip_prefix(start.as_bytes())
            .and_then(|rest| rest.strip_suffix(b".part"))
            .and_then(|rest| std::str::from_utf8(rest).ok())
            .and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
        if let Some(pid) = pid
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn temporary(path: &Path, nth: u32) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::other("it has no file name"));
    };
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{nth}.part", std::process::id()));
    Ok(directory(path).join(temporary))
}

/// The directory that a file is in.
pub fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    let c_path = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (c_from, c_to) = (c_path(from)?, c_path(to)?);
    let here = libc::AT_FDCWD;
    // SAFETY: both paths end in a NUL and outlive the call.
    let renamed = unsafe {
        libc::renameat2(
            here,
            c_from.as_ptr(),
            here,
            c_to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    if renamed == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // A filesystem without the flag: a hard link does not replace either.
        Some(libc::EINVAL | libc::ENOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let (new, mut file) = NewFile::create(&path).unwrap();
        file.write_all(b"a").unwrap();
        assert!(!path.exists());
        assert_eq!(leftovers(&path).unwrap(), Vec::<PathBuf>::new());
        drop(new);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let (new, mut file) = NewFile::create(&path).unwrap();
        let (slower, _) = NewFile::create(&path).unwrap();
        file.write_all(b"b").unwrap();
        new.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"b");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        for refused in [slower.finish(), NewFile::create(&path).map(drop)] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read(&path).unwrap(), b"b");
    }

    #[test]
    fn what_a_killed_process_left_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for name in [".x.4194999-0.part", ".x.part", ".y.4194999-0.part"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(
            leftovers(&path).unwrap(),
            [dir.path().join(".x.4194999-0.part")]
        );
    }
}
