//! The command line: one file a subcommand, and no logic that the library lacks.
//!
//! Owns: what is printed, and the exit codes (see [`failure`]).

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::backend::locator::Locator;

mod demo;
mod failure;
mod filter;
mod init;
mod list;
mod log;
mod mount;
mod output;
mod place;
mod show;

use failure::Failure;

/// RetrySpool's message queue as a directory: ls, cat, mv and jq are its admin tools.
#[derive(Parser, Debug)]
#[command(name = "retryspoolfs", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
#[allow(clippy::large_enum_variant, reason = "a process has one")]
enum Command {
    Mount(mount::Arguments),
    Init(init::Arguments),
    Demo(demo::Arguments),
    List(list::Arguments),
    Show(show::Arguments),
}

/// The whole command line, as clap knows it: manual pages and completions are made from it.
pub fn command() -> clap::Command {
    Cli::command()
}

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
        Command::List(arguments) => list::run(&arguments),
        Command::Show(arguments) => show::run(&arguments),
    };
    done.unwrap_or_else(Failure::end)
}

/// Where the user says that the spool is.
fn locator(text: &OsStr) -> Result<Locator, Failure> {
    Locator::parse(text).map_err(|error| format!("{}: {error}", text.display()).into())
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
