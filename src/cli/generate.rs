//! `retryspoolfs generate`: manual pages and completions, from the definitions that --help is made
//! of. For packages; not shown in --help.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Failure, helper};

/// Write manual pages to DIR/man8 and completions to DIR/completions.
#[derive(Args, Debug)]
pub struct Arguments {
    /// A directory; made if it does not exist
    dir: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let dir = &arguments.dir;
    write(dir).map_err(|error| format!("generate {}: {error}", dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn write(dir: &Path) -> io::Result<()> {
    let (man8, completions) = (dir.join("man8"), dir.join("completions"));
    fs::create_dir_all(&man8)?;
    fs::create_dir_all(&completions)?;
    let mut program = super::command();
    program.build();
    let name = program.get_name().to_owned();
    for command in program
        .get_subcommands()
        .filter(|c| !c.is_hide_set() && c.get_name() != "help")
    {
        let title = format!("{name}-{}", command.get_name());
        let usage = format!("{name} {}", command.get_name());
        page(
            &man8,
            &title,
            command.clone().name(title.clone()).bin_name(usage),
        )?;
    }
    page(&man8, helper::NAME, helper::manual())?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut super::command(), &name, &completions)?;
    }
    page(&man8, &name, program)
}

fn page(dir: &Path, title: &str, command: Command) -> io::Result<()> {
    let mut page = Vec::new();
    let man = Man::new(command.disable_help_subcommand(true)).section("8");
    man.manual("RetrySpool").render(&mut page)?;
    let page = String::from_utf8(page).map_err(io::Error::other)?;
    fs::write(dir.join(format!("{title}.8")), examples(&page))
}

/// The page with what --help ends with under a heading of its own, line for line: command lines
/// and columns are not to be filled and adjusted.
fn examples(page: &str) -> String {
    let Some((before, after)) = page.split_once(".SH EXTRA\n") else {
        return page.to_owned();
    };
    let (text, rest) = after.split_at(after.find("\n.SH ").map_or(after.len(), |end| end + 1));
    let (heading, text) = match text.strip_prefix("Examples:\n") {
        Some(examples) => ("EXAMPLES", examples),
        None => ("NOTES", text),
    };
    format!("{before}.SH {heading}\n.nf\n{text}.fi\n{rest}")
}
