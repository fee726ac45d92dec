//! `cargo xtask fuzz`: every parser of outside bytes under libFuzzer, each for a while.
//!
//! The coverage flags are plain `-C` flags of stable rustc, so that neither a nightly toolchain nor cargo-fuzz is needed. The corpus stays in
//! `devmon-core/fuzz/corpus` for the next run; what breaks a target is written to `devmon-core/fuzz/artifacts`.

use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;

use crate::prepare::{self, heading};
use crate::root;

const TARGETS: [&str; 5] = ["message", "path", "topic", "descriptor", "journal"];
const COVERAGE_FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Clink-dead-code";

#[derive(Args)]
pub(crate) struct Fuzz {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Which targets [default: all].
    #[arg(value_parser = TARGETS)]
    targets: Vec<String>,
}

impl Fuzz {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let fuzz = root().join("devmon-core/fuzz");
        prepare::debian_packages(&[("g++", "g++")])?; // libFuzzer itself is C++
        heading("Building the fuzz targets");
        let triple = "x86_64-unknown-linux-gnu"; // named, so that the flags do not reach build scripts
        let status = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
            .args([
                "build",
                "--release",
                "--target",
                triple,
                "--target-dir",
                "target",
            ])
            .env("RUSTFLAGS", COVERAGE_FLAGS)
            .current_dir(&fuzz)
            .status()?;
        if !status.success() {
            bail!("the fuzz targets do not build");
        }
        let all: Vec<String> = TARGETS.map(str::to_owned).to_vec();
        for target in if self.targets.is_empty() {
            &all
        } else {
            &self.targets
        } {
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
            let status = Command::new(
                fuzz.join("target")
                    .join(triple)
                    .join("release")
                    .join(target),
            )
            .arg(format!("-max_total_time={}", self.seconds))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args(["-print_final_stats=1", "-verbosity=0"])
            .arg(&corpus)
            .status()
            .context("cannot start the fuzz target")?;
            if !status.success() {
                bail!("{target} broke; the input lies in {}", artifacts.display());
            }
        }
        Ok(())
    }
}
