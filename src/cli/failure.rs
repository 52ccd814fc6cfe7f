//! How a command ends that did not do all it was asked to.
//!
//! Owns: the exit codes: 0 done, 1 failure, 2 usage, 3 partly done, 130 interrupted.

use std::io;
use std::process::ExitCode;

use super::output::complain;

/// A command line that makes no sense.
pub const USAGE: u8 = 2;
/// Some of it was done, and some was not.
pub const PARTLY: u8 = 3;
/// SIGINT came: 128 and the signal's number, as a shell reports it.
pub const INTERRUPTED: u8 = 130;

/// Why a command failed: one line, printed behind the program's name; and the exit code.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    /// The command line makes no sense.
    pub fn usage(text: impl Into<String>) -> Failure {
        Failure::coded(text, USAGE)
    }

    /// Some of it was done, and the line says what was not.
    pub fn partly(text: impl Into<String>) -> Failure {
        Failure::coded(text, PARTLY)
    }

    /// SIGINT came, and the line says how far the command was.
    pub fn interrupted(text: impl Into<String>) -> Failure {
        Failure::coded(text, INTERRUPTED)
    }

    /// Standard output can't be written. A reader that went away (`| head`) had enough: that is no
    /// failure.
    pub fn output(error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::coded("", 0),
            _ => format!("standard output: {error}").into(),
        }
    }

    /// A failure with that exit code.
    pub fn coded(text: impl Into<String>, code: u8) -> Failure {
        Failure {
            text: text.into(),
            code,
        }
    }

    /// The line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Prints the line, and gives the exit code.
    pub fn end(self) -> ExitCode {
        if !self.text.is_empty() {
            complain(&self.text);
        }
        ExitCode::from(self.code)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure::coded(text, 1)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Failure {
        Failure::from(text.to_owned())
    }
}
