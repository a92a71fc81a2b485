//! `pullpiri`: the one binary, all roles.

mod args;
mod convert;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::generate;

use args::{Cli, Command, Shell};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("pullpiri: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, String> {
    match cli.command {
        Command::Convert(convert) => {
            let guesses = if convert.strict { convert::Guesses::Refuse } else { convert::Guesses::Warn };
            let clean = convert::run(&convert.paths, guesses).map_err(|error| error.to_string())?;
            Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Completion { shell } => {
            let generator = match shell {
                Shell::Bash => clap_complete::Shell::Bash,
                Shell::Zsh => clap_complete::Shell::Zsh,
                Shell::Fish => clap_complete::Shell::Fish,
            };
            generate(generator, &mut Cli::command(), "pullpiri", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        other => Err(format!("{other:?}")),
    }
}
