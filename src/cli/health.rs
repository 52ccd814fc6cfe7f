//! `retryspoolfs health`: whether a mount works, for a monitoring system.
//!
//! Owns: the question, asked by a child process. A mount that hangs keeps whoever asks it, beyond
//! any signal, so the process that answers the monitoring system never touches the mount itself.

use std::fs;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::Failure;
use crate::fuse::{mountpoint, mounts};
use crate::spool::CONTROL;

/// Whether a mount works, in one line, with the exit codes of monitoring plugins.
///
/// The kernel remembers enough to make a mount look well whose daemon is dead or hangs. This asks
/// past the kernel, has the daemon ask its store, and does not wait longer than it was told to.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER)]
pub struct Arguments {
    /// The directory that the spool is mounted on
    mountpoint: PathBuf,
    /// How long to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    timeout: f64,
    /// Ask the mount in this very process
    #[arg(long, hide = true)]
    here: bool,
}

const AFTER: &str = "\
Exit status:
  0 OK        the mount and its store answer
  1 WARNING   they do, but changes by other programs are not followed
  2 CRITICAL  no spool is mounted there, its daemon was killed, or there was no good answer in time
  3 UNKNOWN   a wrong command line, or this user may not look

Example:
  retryspoolfs health /mnt/queue --timeout 5";

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok();
    let seconds = seconds.filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "seconds are wanted, 0.1 to 3600".to_owned())
}

/// Changes are asked for several times a second.
const FOLLOWED_MS: u64 = 5_000;

const WARNING: u8 = 1;
const CRITICAL: u8 = 2;
/// The exit code of every failure that says nothing of the mount.
pub const UNKNOWN: u8 = 3;

/// What is wrong with a mount.
pub struct Problem {
    pub text: String,
    code: u8,
}

impl Problem {
    fn new(text: impl Into<String>, code: u8) -> Problem {
        let text = text.into();
        Problem { text, code }
    }
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mountpoint = &arguments.mountpoint;
    if arguments.here {
        let (text, code) = match look(mountpoint) {
            Ok(status) => (status, 0),
            Err(problem) => (problem.text, problem.code),
        };
        let _ = io::stdout().write_all(text.as_bytes());
        return Ok(ExitCode::from(code));
    }
    let limit = Duration::from_secs_f64(arguments.timeout);
    let answer = ask(mountpoint, limit).and_then(|status| judge(&status));
    let (word, text, code) = match answer {
        Ok(text) => ("OK", text, 0),
        Err(problem) => {
            let word = match problem.code {
                WARNING => "WARNING",
                CRITICAL => "CRITICAL",
                _ => "UNKNOWN",
            };
            (word, problem.text, problem.code)
        }
    };
    println!("RETRYSPOOL {word} - {}: {text}", mountpoint.display());
    Ok(ExitCode::from(code))
}

/// The mount's status, asked for by a child within that time.
pub fn ask(mountpoint: &Path, limit: Duration) -> Result<String, Problem> {
    let failed = |error: io::Error| Problem::new(format!("it can't be asked: {error}"), UNKNOWN);
    let until = Instant::now() + limit;
    let (reader, writer) = io::pipe().map_err(failed)?;
    let mut child = Command::new("/proc/self/exe")
        .args(["health", "--here", "--"])
        .arg(mountpoint)
        .stdin(Stdio::null())
        .stdout(writer)
        // Whoever reads this process's streams must not wait for a child that hangs.
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let Some(said) = read_until(reader, until).map_err(failed)? else {
        // It may be beyond a signal, and is not waited for.
        let _ = child.kill();
        let seconds = limit.as_secs_f64();
        let text = format!("no answer within {seconds} seconds: its daemon hangs, or its store");
        return Err(Problem::new(text, CRITICAL));
    };
    let code = child.wait().map_err(failed)?.code();
    match code {
        Some(0) => Ok(said),
        Some(code) => Err(Problem::new(said, code as u8)),
        None => Err(Problem::new("whoever asked it was killed", UNKNOWN)),
    }
}

/// All that a pipe gives, or `None` if it does not end in time.
fn read_until(mut pipe: PipeReader, until: Instant) -> io::Result<Option<String>> {
    let mut said = Vec::new();
    let mut part = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd {
            fd: pipe.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, as said.
        match unsafe { libc::poll(&mut poll, 1, left.as_millis() as i32) } {
            0 => return Ok(None),
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            _ => match pipe.read(&mut part)? {
                0 => return Ok(Some(String::from_utf8_lossy(&said).into_owned())),
                read => said.extend_from_slice(&part[..read]),
            },
        }
    }
}

/// The mount's status, asked for here. This may hang.
fn look(path: &Path) -> Result<String, Problem> {
    let wrong = |error: io::Error| match (error.kind(), error.raw_os_error()) {
        (_, Some(libc::ENOTCONN)) => Problem::new(
            "its daemon was killed; mount it again, which takes the dead mount away",
            CRITICAL,
        ),
        (io::ErrorKind::NotFound, _) => {
            Problem::new("no spool is mounted there; mount it", CRITICAL)
        }
        (io::ErrorKind::NotADirectory, _) => Problem::new(
            "it is no directory; name the one that the spool is mounted on",
            UNKNOWN,
        ),
        (io::ErrorKind::PermissionDenied, _) => {
            Problem::new(format!("this user may not look: {error}"), UNKNOWN)
        }
        _ => Problem::new(error.to_string(), CRITICAL),
    };
    mountpoint::ask(path).map_err(wrong)?;
    let status = fs::read_to_string(path.join(CONTROL).join("status")).map_err(wrong)?;
    let path = fs::canonicalize(path).map_err(wrong)?;
    match mounts::source_at(&path) {
        Some(_) => Ok(status),
        None => Err(wrong(io::ErrorKind::NotFound.into())),
    }
}

/// A line about the status, with the numbers behind a bar that monitoring systems draw.
fn judge(status: &str) -> Result<String, Problem> {
    let unreadable = || Problem::new("its status is not what this version expects", UNKNOWN);
    let status: Value = serde_json::from_str(status).map_err(|_| unreadable())?;
    let store = status["store"].as_str().ok_or_else(unreadable)?;
    let messages = status["messages"].as_u64().ok_or_else(unreadable)?;
    let states = status["states"].as_object().ok_or_else(unreadable)?;
    let counts = |show: fn(&str, u64) -> String| {
        let counts = states.iter();
        let counts = counts.map(|(state, it)| show(state, it["count"].as_u64().unwrap_or(0)));
        counts.collect::<Vec<_>>()
    };
    if let Some(asked) = status["feed"]["asked_ms"].as_u64()
        && asked > FOLLOWED_MS
    {
        let seconds = asked / 1000;
        let text = format!("changes by other programs were not followed for {seconds} seconds");
        return Err(Problem::new(text, WARNING));
    }
    let shown = counts(|state, count| format!("{count} {state}")).join(", ");
    let numbers = counts(|state, count| format!("{state}={count}")).join(" ");
    Ok(format!(
        "{messages} messages in {store} ({shown}) | messages={messages} {numbers}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_judged() {
        let status = |asked: u64| {
            format!(
                r#"{{"store":"/q.db","messages":3,"feed":{{"behind":0,"asked_ms":{asked}}},
                "states":{{"deferred":{{"count":2}},"hold":{{"count":1}}}}}}"#
            )
        };
        let judged = |text: &str| judge(text).map_err(|problem| problem.code);
        assert_eq!(
            judged(&status(200)),
            Ok("3 messages in /q.db (2 deferred, 1 hold) | messages=3 deferred=2 hold=1".into())
        );
        assert_eq!(judged(&status(6000)), Err(WARNING));
        assert_eq!(judged("{}"), Err(UNKNOWN));
        assert_eq!(judged("x"), Err(UNKNOWN));
    }
}
