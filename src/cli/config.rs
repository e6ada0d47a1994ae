//! `tollgate config …`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use tollgate::{config, server};

use super::{environment, print};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Check a configuration file and say everything that is wrong with it. Exit code: 0 good, 1 not.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print the JSON Schema of configuration files, for editors.
    Schema,
}

pub(super) fn run(command: Command) -> ExitCode {
    match command {
        Command::Check { file } => check(&file),
        Command::Schema => {
            print::line(config::SCHEMA.trim_end());
            ExitCode::SUCCESS
        }
    }
}

fn check(file: &Path) -> ExitCode {
    let (config, warnings) = match config::load(file, &environment) {
        Ok(read) => read,
        Err(problems) => {
            print::line(problems);
            return ExitCode::FAILURE;
        }
    };
    for warning in &warnings {
        print::line(warning);
    }
    let checked = server::check(&config);
    let is_good = checked.is_ok();
    for said in checked.unwrap_or_else(|problems| problems) {
        print::line(format_args!("{}: {said}", file.display()));
    }
    if !is_good {
        return ExitCode::FAILURE;
    }
    print::line(format_args!("{}: good", file.display()));
    ExitCode::SUCCESS
}
