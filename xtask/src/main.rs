//! The project's own commands. One file a command; each does all its set-up itself and says what it is doing.
//!
//! `cargo xtask demo` runs the main job on this machine, `cargo xtask test` all checks (what `.ci/run` runs), `cargo xtask fuzz` the parsers
//! of outside bytes under libFuzzer, `cargo xtask bench` measures beside the peers.

mod bench;
mod children;
mod demo;
mod fuzz;
mod prepare;
mod test;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "devmon's own commands")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything and run the main job: collector, agent with the four plugins, dashboard.
    Demo(demo::Demo),
    /// Run every check: format, clippy, Rust tests, web tests, end-to-end tests in a real browser.
    Test(test::Test),
    /// Fuzz the parsers of outside bytes.
    Fuzz(fuzz::Fuzz),
    /// Measure, side by side with the peers.
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> std::process::ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(demo) => demo.run(),
        Command::Test(test) => test.run(),
        Command::Fuzz(fuzz) => fuzz.run(),
        Command::Bench(bench) => bench.run(),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // One line: a backtrace of ours would bury what the program said above.
            eprintln!("\nError: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// The top of the repository.
fn root() -> &'static Path {
    // The manifest lies in xtask/, one below the top.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds.
fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
