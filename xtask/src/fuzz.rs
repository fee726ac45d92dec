//! `cargo xtask fuzz`: every parser of outside bytes under libFuzzer, each for a while.
//!
//! The coverage flags are plain `-C` flags of stable rustc, so that neither a nightly toolchain nor cargo-fuzz is needed. A wrapper of rustc gives them to our crates and the parser of
//! PromQL only: what stands below them is built as ever, in minutes. The corpus stays in the crate's `fuzz/corpus` for the next run, beginning with what is in `fuzz/seeds/TARGET.txt`;
//! what breaks a target is written to `fuzz/artifacts` beside it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;

use crate::prepare::{self, heading};
use crate::root;

/// The crates that have parsers, in the order in which a sample travels.
const CRATES: [(&str, &[&str]); 2] = [
    (
        "devmon-core",
        &["message", "path", "topic", "descriptor", "journal"],
    ),
    (
        "collector-api",
        &[
            "time",
            "series_query",
            "fleet_series_query",
            "list_query",
            "cursor",
            "pattern",
            "accept",
            "event_id",
            "promql",
            "call",
        ],
    ),
];
/// Between two seeds of a file.
const BETWEEN_SEEDS: &str = "\n===\n";
const WRAPPER: &str = r#"#!/bin/sh
# cargo xtask fuzz: coverage for what is fuzzed; a build script has no libFuzzer to report to.
case "$*" in *"--crate-name build_script_"*) exec "$@" ;; esac
case "$CARGO_PKG_NAME" in devmon-*|promql-parser) exec "$@" $DEVMON_COVERAGE_FLAGS ;; esac
exec "$@"
"#;
const COVERAGE_FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Clink-dead-code";

/// Named, so that the flags do not reach build scripts.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

#[derive(Args)]
pub(crate) struct Fuzz {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Which targets [default: all].
    #[arg(value_parser = targets())]
    targets: Vec<String>,
}

fn targets() -> Vec<&'static str> {
    let all = CRATES.iter().flat_map(|(_, targets)| *targets);
    all.copied().collect()
}

impl Fuzz {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        prepare::debian_packages(&[("g++", "g++")])?; // libFuzzer itself is C++
        for (name, targets) in CRATES {
            let wanted = |target: &&&str| {
                self.targets.is_empty() || self.targets.iter().any(|t| t == **target)
            };
            let targets: Vec<&str> = targets.iter().filter(wanted).copied().collect();
            if targets.is_empty() {
                continue;
            }
            let fuzz = root().join(name).join("fuzz");
            build(name, &fuzz)?;
            for target in targets {
                self.one(&fuzz, target)?;
            }
        }
        Ok(())
    }

    fn one(&self, fuzz: &Path, target: &str) -> anyhow::Result<()> {
        heading(&format!("Fuzzing {target} for {} s", self.seconds));
        let corpus = fuzz.join("corpus").join(target);
        let artifacts = fuzz.join("artifacts").join(target);
        std::fs::create_dir_all(&corpus)?;
        std::fs::create_dir_all(&artifacts)?;
        if target == "journal" {
            // A checksum can not be guessed: start from a real segment.
            std::fs::copy(
                root().join("devmon-core/tests/fixtures/journal-v1.dmj"),
                corpus.join("journal-v1"),
            )?;
        }
        let seeds = fuzz.join("seeds").join(format!("{target}.txt"));
        if let Ok(seeds) = std::fs::read_to_string(seeds) {
            for (n, seed) in seeds.trim_end().split(BETWEEN_SEEDS).enumerate() {
                std::fs::write(corpus.join(format!("seed-{n}")), seed)?;
            }
        }
        let programs = fuzz.join("target").join(TRIPLE).join("release");
        let status = Command::new(programs.join(target))
            .arg(format!("-max_total_time={}", self.seconds))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args(["-print_final_stats=1", "-verbosity=0"])
            .arg(&corpus)
            .status()
            .context("cannot start the fuzz target")?;
        if !status.success() {
            bail!("{target} broke; the input lies in {}", artifacts.display());
        }
        Ok(())
    }
}

fn build(name: &str, fuzz: &Path) -> anyhow::Result<()> {
    heading(&format!("Building the fuzz targets of {name}"));
    let wrapper = fuzz.join("target/rustc-with-coverage");
    std::fs::create_dir_all(fuzz.join("target"))?;
    std::fs::write(&wrapper, WRAPPER)?;
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo
        .args(["build", "--release", "--target", TRIPLE])
        .args(["--target-dir", "target"])
        .env("RUSTC_WRAPPER", &wrapper)
        .env("DEVMON_COVERAGE_FLAGS", COVERAGE_FLAGS)
        .current_dir(fuzz);
    let status = prepare::as_from_a_shell(&mut cargo).status()?;
    if !status.success() {
        bail!("the fuzz targets do not build");
    }
    Ok(())
}
