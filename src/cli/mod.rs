//! The command line.

mod api_key;
mod ask;
mod config;
mod introspect;
mod print;
mod revoke;
mod serve;
mod server;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Decides on every request whether it may go on: token, rules and quotas in one gRPC call.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(serve::Arguments),
    /// Ask a server for a decision. Exit code: 0 allow, 1 deny, 2 could not ask.
    Decide(ask::Arguments),
    /// Ask a server what it knows of a token. Exit code: 0 active, 1 not active, 2 could not ask.
    Introspect(introspect::Arguments),
    /// Take tokens, sessions, subjects, clients, issuers, API keys or signing keys back. Exit code: 0 done, 1 nothing to take
    /// back, 2 could not be done.
    Revoke(revoke::Arguments),
    /// Look at what is taken back.
    #[command(subcommand)]
    Revocations(revoke::Listing),
    /// Undo a revocation by its id. Exit code: 0 done, 1 no such entry, 2 could not be done.
    Unrevoke(revoke::Undoing),
    /// Make, list and end API keys.
    #[command(subcommand)]
    ApiKey(api_key::Command),
    /// Try policies out: decide the cases of these files by their configurations. Exit code: 0 all are as expected, 1 some are
    /// not, 2 a file cannot be used.
    Test(test::Arguments),
    /// Look at configurations.
    #[command(subcommand)]
    Config(config::Command),
}

/// Exit code of commands that could not do what was asked.
const COULD_NOT: u8 = 2;

/// Does what was asked.
pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let done = match arguments.command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Decide(arguments) => ask::run(arguments),
        Command::Introspect(arguments) => introspect::run(arguments),
        Command::Revoke(arguments) => revoke::run(arguments),
        Command::Revocations(command) => revoke::list(command),
        Command::Unrevoke(arguments) => revoke::undo(arguments),
        Command::ApiKey(command) => api_key::run(command),
        Command::Test(arguments) => test::run(&arguments),
        Command::Config(command) => Ok(config::run(command)),
    };
    done.unwrap_or_else(|problem| {
        print::error(&problem);
        ExitCode::from(COULD_NOT)
    })
}

/// What the user is told when a command could not do what was asked: a sentence, or several lines.
type Done = Result<ExitCode, String>;

/// The environment, for references in configurations.
#[expect(clippy::disallowed_methods, reason = "this is where the environment enters")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Runs `future` on a runtime of its own.
fn block_on<T>(
    builder: &mut tokio::runtime::Builder,
    future: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let runtime = builder.enable_all().build().map_err(|error| format!("cannot start the runtime: {error}"))?;
    runtime.block_on(future)
}
