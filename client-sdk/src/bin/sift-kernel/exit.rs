//! Exit codes and messages: the one place where an error becomes a number.

use std::fmt::Display;
use std::process::ExitCode;

/// Why the program does not exit with 0.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The work was done, and something was refused or halted on the way: 1.
    Refused(String),
    /// It was called wrongly, or its surroundings do not let it work: 2.
    Environment(String),
}

/// An error of usage or surroundings.
pub(crate) fn environment(error: impl Display) -> Failure {
    Failure::Environment(error.to_string())
}

/// Prints what went wrong and gives the exit code.
pub(crate) fn report(result: Result<(), Failure>) -> ExitCode {
    let (code, message) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Refused(message)) => (1, message),
        Err(Failure::Environment(message)) => (2, message),
    };
    let red = anstyle::AnsiColor::Red.on_default().bold();
    anstream::eprintln!("{red}sift-kernel:{red:#} {message}");
    ExitCode::from(code)
}

/// Prints a value as JSON, for programs.
pub(crate) fn print_json(value: &serde_json::Value) {
    anstream::println!("{value:#}");
}
