//! The command line: one file a subcommand, and no logic that the library lacks.
//!
//! Owns: what is printed, and the exit codes (see `failure`).

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::backend::locator::Locator;

mod age;
mod background;
mod change;
mod check;
mod copy;
mod delete;
mod demo;
mod events;
mod export;
mod failure;
mod filter;
mod format;
mod generate;
mod health;
mod helper;
mod history;
mod import;
mod init;
mod list;
mod log;
mod mount;
mod moves;
mod output;
mod place;
mod progress;
mod put;
mod reasons;
mod retry;
mod set;
mod show;
mod snapshot;
mod status;
mod top;
mod umount;
mod undo;
mod work;

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
    Umount(umount::Arguments),
    Health(health::Arguments),
    #[command(hide = true)]
    Generate(generate::Arguments),
    Init(init::Arguments),
    Demo(demo::Arguments),
    Status(status::Arguments),
    List(list::Arguments),
    Show(show::Arguments),
    Age(age::Arguments),
    Reasons(reasons::Arguments),
    Events(events::Arguments),
    Top(top::Arguments),
    Move(moves::Move),
    Requeue(moves::Requeue),
    Flush(retry::Flush),
    Postpone(retry::Postpone),
    Hold(moves::Hold),
    Release(moves::Release),
    Delete(delete::Arguments),
    Set(set::Arguments),
    Put(put::Arguments),
    History(history::Arguments),
    Undo(undo::Arguments),
    Copy(copy::Arguments),
    Export(export::Arguments),
    Import(import::Arguments),
    Snapshot(snapshot::Snapshot),
    Check(check::Arguments),
    Compact(snapshot::Compact),
}

/// The whole command line, as clap knows it: manual pages and completions are made from it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    hold_standard_streams();
    let words: Vec<OsString> = std::env::args_os().collect();
    let is_command = |word: &OsStr| command().get_subcommands().any(|c| word == c.get_name());
    if let Some(said) = helper::called(&words, is_command) {
        let mounted = said.and_then(|said| mount::run(&mount::Arguments::from_mount(said)));
        return mounted.unwrap_or_else(Failure::end);
    }
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && status::is_check(&words) => {
            return status::unknown(&error.to_string());
        }
        Err(error) => return usage(&error, words.get(1)),
    };
    let done = match cli.command {
        Command::Mount(arguments) => mount::run(&arguments),
        Command::Umount(arguments) => umount::run(&arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Age(arguments) => age::run(&arguments),
        Command::Reasons(arguments) => reasons::run(&arguments),
        Command::Events(arguments) => events::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Show(arguments) => show::run(&arguments),
        Command::Move(arguments) => arguments.run(),
        Command::Requeue(arguments) => arguments.run(),
        Command::Flush(arguments) => arguments.run(),
        Command::Postpone(arguments) => arguments.run(),
        Command::Hold(arguments) => arguments.run(),
        Command::Release(arguments) => arguments.run(),
        Command::Delete(arguments) => delete::run(&arguments),
        Command::Set(arguments) => set::run(&arguments),
        Command::Put(arguments) => put::run(&arguments),
        Command::History(arguments) => history::run(&arguments),
        Command::Undo(arguments) => undo::run(&arguments),
        Command::Copy(arguments) => copy::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Snapshot(arguments) => snapshot::snapshot(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Compact(arguments) => snapshot::compact(&arguments),
    };
    done.unwrap_or_else(Failure::end)
}

/// Prints what clap has to say: help in full, a complaint in one line.
fn usage(error: &clap::Error, command: Option<&OsString>) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "which command?".to_owned(),
        _ => error.to_string(),
    };
    let complaint: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let complaint = complaint.join(" ");
    let complaint = complaint.strip_prefix("error: ").unwrap_or(&complaint);
    let command = command.and_then(|word| word.to_str()).unwrap_or_default();
    let known = self::command()
        .get_subcommands()
        .any(|c| command == c.get_name());
    let (see, code) = match command {
        // The codes of mount(8), and of monitoring plugins.
        "mount" => (" mount", 1),
        "health" => (" health", health::UNKNOWN),
        _ if known => (&*format!(" {command}"), failure::USAGE),
        _ => ("", failure::USAGE),
    };
    Failure::coded(format!("{complaint}; see: retryspoolfs{see} --help"), code).end()
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
