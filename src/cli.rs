//! The command line: one file a subcommand, and no logic that the library lacks.
//!
//! Owns: what is printed, and the exit codes: 0 done, 1 failure, 2 usage.

use std::ffi::OsStr;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::backend::locator::Locator;

mod demo;
mod init;
mod log;
mod mount;

/// RetrySpool's message queue as a directory: ls, cat, mv and jq are its admin tools.
#[derive(Parser, Debug)]
#[command(name = "retryspoolfs", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Mount(mount::Arguments),
    Init(init::Arguments),
    Demo(demo::Arguments),
}

/// Why a command failed: one line, printed behind the program's name.
type Failure = String;

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    hold_standard_streams();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let done = match cli.command {
        Command::Mount(arguments) => mount::run(&arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "retryspoolfs: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Where the user says that the spool is.
fn locator(text: &OsStr) -> Result<Locator, Failure> {
    Locator::parse(text).map_err(|error| format!("{}: {error}", text.display()))
}

/// Opens /dev/null where a standard stream is closed: a file of ours that got its number would be
/// written to by whoever prints.
fn hold_standard_streams() {
    // SAFETY: the path is a C string; a descriptor above 2 is closed again, those up to 2 are
    // meant to stay open.
    unsafe {
        loop {
            let fd = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            if fd > 2 {
                libc::close(fd);
            }
            if !(0..=2).contains(&fd) {
                break;
            }
        }
    }
}
