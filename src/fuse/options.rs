//! Mount options: what stands behind `-o`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::kernel::EPOCH_MINOR;

/// The options of a mount, as typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `ro`: nothing may be changed.
    pub read_only: bool,
    /// `allow_other`: other users may look at the mount, as far as its permissions let them.
    pub allow_other: bool,
    /// `nodelete`: `rm` of a message is refused.
    pub no_delete: bool,
    /// `sync`: every change is on disk before its call returns.
    pub sync: bool,
    /// `archived`: the directory `archived` is shown.
    pub archived: bool,
    /// `create`: a spool that does not exist is made.
    pub create: bool,
    /// `uid=`: the owner of messages and directories.
    pub uid: Option<u32>,
    /// `gid=`: their group.
    pub gid: Option<u32>,
    /// `umask=`: permission bits that neither files nor directories have, in octal.
    pub umask: Option<u16>,
    /// `fmode=`: the permission bits of files, in octal.
    pub fmode: Option<u16>,
    /// `dmode=`: the permission bits of directories, in octal.
    pub dmode: Option<u16>,
    /// `busy_timeout=`: how long a rename, create or unlink waits for a busy store, in seconds
    /// (0.001 to 60; one second if not given).
    pub busy_timeout: Option<Duration>,
    /// `entry_timeout=`: for how long the kernel may remember that a name exists, in seconds (0 to
    /// 3600). If not given: a minute where the store tells of others' changes, a second elsewhere.
    /// A kernel that can't drop all names at once (before 6.16) remembers none, whatever is given.
    pub entry_timeout: Option<Duration>,
    /// `attr_timeout=`: for how long it may remember attributes. If not given: a minute where the
    /// store and the kernel can be told of changes, a second elsewhere.
    pub attr_timeout: Option<Duration>,
    /// `protocol=`: the newest minor version of FUSE's protocol that is used, whatever the kernel
    /// has: to try here what an older kernel does. In no help.
    pub protocol: Option<u32>,
}

/// What mount(8) and fstab use for themselves, and what this mount does anyway.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "async",
    "nodev",
    "nosuid",
    "noexec",
    "noatime",
    "nodiratime",
    "relatime",
    "default_permissions",
];

impl MountOptions {
    /// Adds the options of one `-o`: separated by commas; `\,` is a comma in a value.
    ///
    /// ```
    /// use retryspoolfs::fuse::options::MountOptions;
    /// let mut options = MountOptions::default();
    /// options.add("ro,uid=1000,busy_timeout=0.5").unwrap();
    /// assert!(options.read_only && options.uid == Some(1000));
    /// assert_eq!(options.add("color=red").unwrap_err(), "unknown mount option \"color=red\"");
    /// ```
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        for option in split(text) {
            if !self.add_one(&option)? {
                return Err(unknown(&option));
            }
        }
        Ok(())
    }

    /// Likewise, for what mount(8) says: it spells out what "defaults" means, of which a spool can
    /// have nothing (`exec`, `suid`, `dev`), and may ask that unknown options be skipped.
    pub fn add_from_mount(&mut self, text: &str, sloppy: bool) -> Result<(), String> {
        for option in split(text) {
            if ["exec", "suid", "dev"].contains(&option.as_str()) {
                continue;
            }
            if !self.add_one(&option)? && !sloppy {
                return Err(unknown(&option));
            }
        }
        Ok(())
    }

    /// Whether the option is known; an error if it is, and is wrong.
    fn add_one(&mut self, option: &str) -> Result<bool, String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("remount", None) => {
                return Err("mount option \"remount\": options can't be changed while it is mounted; unmount it and mount it again".into());
            }
            ("allow_other", None) => self.allow_other = true,
            ("nodelete", None) => self.no_delete = true,
            ("sync", None) => self.sync = true,
            ("archived", None) => self.archived = true,
            ("create", None) => self.create = true,
            ("uid", Some(value)) => self.uid = Some(number(option, value)?),
            ("gid", Some(value)) => self.gid = Some(number(option, value)?),
            ("umask", Some(value)) => self.umask = Some(octal(option, value)?),
            ("fmode", Some(value)) => self.fmode = Some(octal(option, value)?),
            ("dmode", Some(value)) => self.dmode = Some(octal(option, value)?),
            ("busy_timeout", Some(value)) => {
                self.busy_timeout = Some(seconds(option, value, 0.001..=60.0)?);
            }
            ("entry_timeout", Some(value)) => {
                self.entry_timeout = Some(seconds(option, value, 0.0..=3600.0)?);
            }
            ("attr_timeout", Some(value)) => {
                self.attr_timeout = Some(seconds(option, value, 0.0..=3600.0)?);
            }
            ("protocol", Some(value)) => self.protocol = Some(number(option, value)?),
            ("comment" | "user", Some(_)) => {}
            (name, None) if IGNORED.contains(&name) => {}
            (name, _) if name.starts_with("x-") => {}
            ("exec" | "suid" | "dev", None) => {
                return Err(format!(
                    "mount option \"{name}\": a spool holds documents only, and is always mounted noexec,nosuid,nodev"
                ));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether a kernel with this minor version of the protocol can drop all names at once.
    pub(super) fn has_epoch(&self, minor: u32) -> bool {
        minor.min(self.protocol.unwrap_or(u32::MAX)) >= EPOCH_MINOR
    }

    /// The permission bits of files and of directories.
    pub fn modes(&self) -> (u16, u16) {
        let (files, dirs) = match self.umask {
            Some(umask) => (0o666 & !umask, 0o777 & !umask),
            None => (0o600, 0o700),
        };
        (self.fmode.unwrap_or(files), self.dmode.unwrap_or(dirs))
    }
}

fn unknown(option: &str) -> String {
    format!("unknown mount option {option:?}")
}

fn split(text: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, options.last_mut()) {
            (',', _) => options.push(String::new()),
            ('\\', Some(option)) => option.extend(chars.next()),
            (c, Some(option)) => option.push(c),
            (_, None) => {}
        }
    }
    options.retain(|option| !option.is_empty());
    options
}

fn number(option: &str, value: &str) -> Result<u32, String> {
    let parsed = value.parse();
    parsed.map_err(|_| format!("mount option {option:?}: a number is wanted, 0 to 4294967295"))
}

fn octal(option: &str, value: &str) -> Result<u16, String> {
    u16::from_str_radix(value, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("mount option {option:?}: octal permissions are wanted, 0 to 777"))
}

fn seconds(option: &str, value: &str, range: RangeInclusive<f64>) -> Result<Duration, String> {
    let (least, most) = (range.start(), range.end());
    value
        .parse()
        .ok()
        .filter(|seconds| range.contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("mount option {option:?}: seconds are wanted, {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_bad_ones_named() {
        let mut options = MountOptions::default();
        options
            .add("defaults,_netdev,x-systemd.automount,comment=a\\,b,,umask=027")
            .unwrap();
        assert_eq!(options.modes(), (0o640, 0o750));
        options.add("fmode=0444").unwrap();
        assert_eq!(options.modes(), (0o444, 0o750));
        assert_eq!(MountOptions::default().modes(), (0o600, 0o700));
        for bad in [
            "uid=root",
            "uid=-1",
            "fmode=888",
            "fmode=1777",
            "busy_timeout=0",
            "busy_timeout=x",
            "busy_timeout=NaN",
            "ro=1",
            "uid",
            "exec",
            "nosuch",
            "remount",
        ] {
            let error = MountOptions::default().add(bad).unwrap_err();
            assert!(error.contains(bad), "{error}");
        }
    }

    #[test]
    fn what_mount_spells_out_is_no_error() {
        let mut options = MountOptions::default();
        let said = "rw,dev,exec,suid,user=anna,_netdev,x-systemd.automount,ro,uid=5";
        options.add_from_mount(said, false).unwrap();
        assert!(options.read_only && options.uid == Some(5));
        assert!(options.add_from_mount("nosuch,rw", false).is_err());
        options.add_from_mount("nosuch,rw", true).unwrap();
        assert!(!options.read_only);
        assert!(options.add_from_mount("uid=x", true).is_err());
    }
}
