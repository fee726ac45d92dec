//! `cargo xtask test`: every check there is, in the order in which they fail fastest. `.ci/run` runs exactly this.

use std::time::Instant;

use clap::Args;

use crate::prepare::{self, cargo, heading, run};
use crate::root;
use crate::schemathesis::Schemathesis;

#[derive(Args)]
pub(crate) struct Test {}

/// A named group of checks.
type Step<'a> = (&'a str, &'a dyn Fn() -> anyhow::Result<()>);

impl Test {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let web = root().join("web");
        let npm = |script: &str| run(&web, "npm", &["run", script]);
        // mosquitto and its clients are the independent peers of the Rust tests; cc builds the C plugins and the fake NVML.
        let packages = [
            ("mosquitto", "mosquitto"),
            ("mosquitto_pub", "mosquitto-clients"),
            ("chromium", "chromium"),
            ("cc", "gcc"),
            ("make", "make"),
            ("curl", "curl"),
            ("zstd", "zstd"),
            ("promtool", "prometheus"), // also has the server, which scrapes, is compared with, and takes remote write
            ("victoria-metrics", "victoria-metrics"),
        ];
        let steps: &[Step<'_>] = &[
            ("Needed programs", &|| prepare::debian_packages(&packages)),
            ("Format", &|| cargo(&["fmt", "--all", "--check"])),
            ("Dashboard: packages and build", &prepare::dashboard),
            ("Dashboard: lint", &|| npm("lint")),
            ("Dashboard: unit tests", &|| npm("test")),
            ("Clippy", &|| {
                cargo(&[
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--all-features",
                    "--",
                    "-D",
                    "warnings",
                ])
            }),
            // Everything is built first, with the dashboard in it: the end-to-end tests in xtask/tests start the real programs.
            ("Build", &|| cargo(&["build", "--workspace"])),
            ("Rust tests, end-to-end tests among them", &|| {
                cargo(&["test", "--workspace"])
            }),
            // What is shipped is built without it, so what is above is, too.
            ("Collector with Parquet", &|| {
                cargo(&[
                    "test",
                    "-p",
                    "devmon-collector",
                    "--features",
                    "parquet",
                    "--lib",
                    "--test",
                    "parquet",
                    "--",
                    "parquet",
                ])
            }),
            ("API by its description: schemathesis", &|| {
                Schemathesis::default().run()
            }),
            ("Dashboard: browser tests", &|| npm("test:browser")),
        ];

        let start = Instant::now();
        for (i, (name, step)) in steps.iter().enumerate() {
            heading(&format!("[{}/{}] {name}", i + 1, steps.len()));
            let began = Instant::now();
            step()?;
            println!("-- {name}: {:.0} s", began.elapsed().as_secs_f64());
        }
        println!(
            "\nAll {} groups of checks passed in {:.0} s.",
            steps.len(),
            start.elapsed().as_secs_f64()
        );
        Ok(())
    }
}
