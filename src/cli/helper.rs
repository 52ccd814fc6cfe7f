//! Being called by mount(8): as `mount.retryspoolfs`, or by mount.fuse3(8) for a line of type
//! `fuse.retryspoolfs`.
//!
//! The form is that of mount(8), "External helpers": SPEC DIR [-sfnv] [-N namespace] [-o options]
//! [-t type], in any order.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Failure;

/// What mount(8) says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    pub source: OsString,
    pub mountpoint: OsString,
    pub options: Vec<String>,
    /// -s: options that are unknown here are no error.
    pub sloppy: bool,
    /// -f: everything but the mount itself.
    pub fake: bool,
    /// -N: the mount namespace, as a path or a process's number.
    pub namespace: Option<OsString>,
}

/// The name that mount(8) calls for lines of type `retryspoolfs`.
pub const NAME: &str = "mount.retryspoolfs";

/// The form of the call, for its manual page.
pub fn manual() -> clap::Command {
    let flag = |letter, help: &'static str| {
        clap::Arg::new(help)
            .short(letter)
            .help(help)
            .action(clap::ArgAction::SetTrue)
    };
    let value = |letter, name: &'static str, help: &'static str| {
        clap::Arg::new(name)
            .short(letter)
            .value_name(name)
            .help(help)
    };
    clap::Command::new(NAME)
        .about("Mount a spool, called by mount(8)")
        .long_about(
            "mount(8) calls this for a line of fstab(5) of the type retryspoolfs, and as \
             mount.fuse.retryspoolfs for the type fuse.retryspoolfs. It does what \
             \"retryspoolfs mount\" does, whose manual page tells of the options.",
        )
        .disable_help_flag(true)
        .arg(
            clap::Arg::new("SPOOL")
                .required(true)
                .help("The spool: sqlite:PATH, or a path"),
        )
        .arg(
            clap::Arg::new("MOUNTPOINT")
                .required(true)
                .help("The directory to mount it on"),
        )
        .arg(value('o', "OPTIONS", "Mount options, separated by commas"))
        .arg(flag('f', "Check everything, and mount nothing"))
        .arg(flag('s', "Unknown options are no error"))
        .arg(flag(
            'n',
            "Accepted: there is no table of mounts but the kernel's",
        ))
        .arg(flag('v', "Accepted"))
        .arg(flag('r', "Like -o ro"))
        .arg(value(
            'N',
            "NAMESPACE",
            "The mount namespace to mount in: a path, or a process's number",
        ))
        .arg(value('t', "TYPE", "Accepted"))
        .after_long_help(super::mount::AFTER)
}

/// What mount(8) says, if it is mount(8) that calls; `words` are all of the process's arguments.
pub fn called(
    words: &[OsString],
    is_command: impl Fn(&OsStr) -> bool,
) -> Option<Result<Words, Failure>> {
    let (name, rest) = words.split_first()?;
    let name = Path::new(name).file_name().unwrap_or_default();
    let by_name = name.as_bytes().starts_with(b"mount.");
    // mount.fuse3 calls "retryspoolfs SPEC DIR -o OPTIONS", without a command.
    let by_fuse = matches!(rest, [source, _, option, ..] if option == "-o"
        && !is_command(source) && !source.as_bytes().starts_with(b"-"));
    (by_name || by_fuse).then(|| read(rest))
}

fn read(words: &[OsString]) -> Result<Words, Failure> {
    const FORM: &str =
        "mount.retryspoolfs SPOOL MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]";
    let wrong = |why: String| Failure::coded(format!("{why}; the form is: {FORM}"), 1);
    let mut said = Words::default();
    let mut places = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(letters) = word.as_bytes().strip_prefix(b"-").filter(|l| !l.is_empty()) else {
            places.push(word.clone());
            continue;
        };
        for (at, letter) in letters.iter().enumerate() {
            // The value of an option is the rest of its word, or the next word.
            let mut value = || match &letters[at + 1..] {
                [] => words.next().cloned(),
                rest => Some(OsStr::from_bytes(rest).to_owned()),
            };
            let missing = || wrong(format!("-{} needs a value", *letter as char));
            match letter {
                b's' => said.sloppy = true,
                b'f' => said.fake = true,
                b'n' | b'v' | b'w' => {}
                b'r' => said.options.push("ro".to_owned()),
                b'o' => {
                    let options = value().ok_or_else(missing)?;
                    let text = options.into_string();
                    said.options
                        .push(text.map_err(|_| wrong("options are UTF-8".into()))?);
                    break;
                }
                b't' => {
                    value().ok_or_else(missing)?;
                    break;
                }
                b'N' => {
                    said.namespace = Some(namespace(value().ok_or_else(missing)?));
                    break;
                }
                other => return Err(wrong(format!("unknown option -{}", *other as char))),
            }
        }
    }
    let [source, mountpoint] = places.try_into().map_err(|places: Vec<OsString>| {
        wrong(format!(
            "a spool and a mountpoint are wanted, not {} words",
            places.len()
        ))
    })?;
    Ok(Words {
        source,
        mountpoint,
        ..said
    })
}

/// The file of a namespace that may be given as the number of a process in it.
fn namespace(value: OsString) -> OsString {
    match value.to_str().map(str::parse::<u32>) {
        Some(Ok(pid)) => format!("/proc/{pid}/ns/mnt").into(),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(line: &str) -> Option<Result<Words, String>> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let read = called(&words, |word| word == "mount")?;
        Some(read.map_err(|failure| failure.text().to_owned()))
    }

    #[test]
    fn mount_calls_in_any_order() {
        let said = |options: &[&str]| Words {
            source: "/q.db".into(),
            mountpoint: "/mnt".into(),
            options: options.iter().map(|text| text.to_string()).collect(),
            ..Words::default()
        };
        for (line, expected) in [
            ("/sbin/mount.retryspoolfs /q.db /mnt", said(&[])),
            (
                "mount.retryspoolfs /q.db /mnt -o rw,user",
                said(&["rw,user"]),
            ),
            (
                "mount.fuse.retryspoolfs -o ro /q.db -nv /mnt -t fuse.retryspoolfs",
                said(&["ro"]),
            ),
            (
                "mount.retryspoolfs -vo ro -r /q.db /mnt",
                said(&["ro", "ro"]),
            ),
            (
                "retryspoolfs /q.db /mnt -o rw,dev,suid",
                said(&["rw,dev,suid"]),
            ),
            (
                "mount.retryspoolfs -sf /q.db /mnt",
                Words {
                    sloppy: true,
                    fake: true,
                    ..said(&[])
                },
            ),
            (
                "mount.retryspoolfs /q.db /mnt -N 17",
                Words {
                    namespace: Some("/proc/17/ns/mnt".into()),
                    ..said(&[])
                },
            ),
        ] {
            assert_eq!(case(line), Some(Ok(expected)), "{line}");
        }
    }

    #[test]
    fn what_mount_does_not_say_is_refused_or_a_command() {
        for line in [
            "mount.retryspoolfs /q.db",
            "mount.retryspoolfs /q.db /mnt /other",
            "mount.retryspoolfs /q.db /mnt -o",
            "mount.retryspoolfs /q.db /mnt -x",
        ] {
            let complaint = case(line).unwrap().unwrap_err();
            assert!(complaint.contains("the form is"), "{line}: {complaint}");
        }
        for line in [
            "retryspoolfs mount /q.db -o ro",
            "retryspoolfs -h",
            "retryspoolfs /q.db /mnt",
        ] {
            assert_eq!(case(line), None, "{line}");
        }
    }
}
