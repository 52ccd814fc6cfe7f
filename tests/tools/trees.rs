//! Two trees of the same files, a mount and a directory of the disk, and a row of a table that
//! does the same in both.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use retryspoolfs::QueueState::{self, Deferred, Hold};
use retryspoolfs::document;

use crate::row::told;
use crate::support::{Mount, Spool, ctx, message};

/// A mount, and a directory of the disk that looks like it.
pub struct Trees {
    pub spool: Spool,
    pub mount: Mount,
    pub disk: PathBuf,
}

impl Trees {
    /// Trees without a file.
    pub fn new() -> Trees {
        Trees::over(Spool::new())
    }

    /// Trees with one message, in the mount, that nobody is to change.
    pub fn with_another() -> Trees {
        Trees::over(Spool::with([message("other", Hold)]))
    }

    fn over(spool: Spool) -> Trees {
        let disk = spool.dir().join("disk");
        for state in QueueState::ALL {
            fs::create_dir_all(disk.join(state.as_str())).unwrap();
        }
        // The mount has no such directory.
        fs::remove_dir(disk.join("archived")).unwrap();
        let mount = spool.mount("");
        Trees { spool, mount, disk }
    }

    /// Four messages of a row: `$A` and `$B` in `hold`, `$C` and `$D` in `deferred`.
    fn put_four(&self, row: usize) {
        let store = self.spool.open();
        for (name, state) in [('a', Hold), ('b', Hold), ('c', Deferred), ('d', Deferred)] {
            let message = message(&format!("r{row}{name}"), state);
            store.insert(&ctx(), &message).unwrap();
            let path = format!("{state}/{}.json", message.id.as_str());
            let path = self.disk.join(path);
            fs::write(&path, document::render(&message)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(message.updated.into()).unwrap();
        }
        store.close().unwrap();
    }

    /// Runs each script in both trees: it says the same and exits with the same, and the same
    /// names are there afterwards.
    #[track_caller]
    pub fn same(&self, scripts: &[&str]) {
        let mut wrong = Vec::new();
        for (row, script) in scripts.iter().enumerate() {
            self.put_four(row);
            let script = self.script(row, script);
            let shell = &["bash"];
            let disk = self.spool.start_in(shell, &script, &self.disk).wait();
            let mount = self.mount.bash(&script);
            let (disk, mount) = (told(&disk), told(&mount));
            if disk != mount {
                wrong.push(format!("{script}\n  on the disk {disk}\n  here {mount}"));
            }
            let names = "find . -type f -name '*.json' | sort";
            let disk = self.spool.start_in(shell, names, &self.disk).wait().ok();
            let mount = self.mount.bash(names).ok();
            if disk != mount {
                wrong.push(format!("{script}\n  on the disk {disk}\n  here {mount}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }

    /// Runs each script in the mount, where it differs from the disk as SPEC's rows say: its exit
    /// status and its complaint. The store is as before.
    #[track_caller]
    pub fn differ(&self, rows: &[(&str, i32, &str)]) {
        let mut wrong = Vec::new();
        for (row, (script, status, complaint)) in rows.iter().enumerate() {
            self.put_four(row);
            let before = self.spool.rows();
            let script = self.script(row, script);
            let output = self.mount.bash(&script);
            let complaint = complaint.replace('#', &row.to_string());
            if output.status.code() != Some(*status) || output.stderr.trim_end() != complaint {
                wrong.push(format!(
                    "{script}\n  expected {status} {complaint:?}\n  got {}",
                    told(&output)
                ));
            }
            if self.spool.rows() != before {
                wrong.push(format!("{script}\n  it changed the store"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }

    fn script(&self, row: usize, script: &str) -> String {
        format!(
            "A=hold/r{row}a.json B=hold/r{row}b.json C=deferred/r{row}c.json D=deferred/r{row}d.json\n\
             {script}"
        )
    }
}
