//! The project's own commands. One file a command; each does all its set-up itself and says what it is doing.
//!
//! `cargo xtask demo` runs the main job on this machine, `cargo xtask test` all checks (what `.ci/run` runs), `cargo xtask fuzz` the parsers
//! of outside bytes under libFuzzer, `cargo xtask schemathesis` the API by its own description, `cargo xtask bench` measures beside the peers.

mod bench;
mod demo;
mod fuzz;
mod schemathesis;
mod test;

use clap::{Parser, Subcommand};
use xtask::{
    chaos, children, collector, fleet, load, new_plugin, prepare, relay, root, soak, target_dir,
};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "devmon's own commands")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything and run the main job: collector, agent with the bundled plugins, dashboard.
    Demo(demo::Demo),
    /// Run every check: format, clippy, Rust tests, web tests, end-to-end tests in a real browser.
    Test(test::Test),
    /// Fuzz the parsers of outside bytes.
    Fuzz(fuzz::Fuzz),
    /// Ask a collector what schemathesis makes up from its OpenAPI document, and hold its answers against it.
    Schemathesis(schemathesis::Schemathesis),
    /// Measure, side by side with the peers.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Send as many simulated devices do to a collector that runs.
    Load(load::Load),
    /// Send what a whole fleet sends to a collector of its own, and watch what it takes.
    Fleet(fleet::FleetRun),
    /// Kill and cut agents, broker, network and collector in random order, and look for anything acknowledged that is missing or doubled, and for holes.
    Chaos(chaos::Chaos),
    /// Kill a collector under load again and again, and look for anything acknowledged that is missing or doubled.
    Soak(soak::Soak),
    /// Make a complete plugin to start from.
    NewPlugin(new_plugin::NewPlugin),
}

fn main() -> std::process::ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(demo) => demo.run(),
        Command::Test(test) => test.run(),
        Command::Fuzz(fuzz) => fuzz.run(),
        Command::Schemathesis(schemathesis) => schemathesis.run(),
        Command::Bench(bench) => bench.run(),
        Command::Load(load) => load.run(),
        Command::Fleet(fleet) => fleet.run(),
        Command::Chaos(chaos) => chaos.run(),
        Command::Soak(soak) => soak.run(),
        Command::NewPlugin(new) => new.run(),
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
