//! `cargo xtask bench`: measurements, each beside its peers, in one run on one machine. Never a test: a slow run fails nothing, a wrong answer does.
//!
//! `store` measures intake, bytes on disk, start-up and queries beside VictoriaMetrics and InfluxDB and writes `docs/benchmarks.md`; `record` makes the
//! recording that it replays; `agent` measures what the agent costs its device beside collectd, node_exporter and netdata; `api` asks with a hundred clients at once; `promql` asks a fleet of 100 000. The way through the files: a set (`synthetic`, or `replay` of what `record` wrote) is spelled for each server (`set`) and
//! written to disk (`feed`); `ours` and `peers` take servers (`server`) through the same stages; `measure` says what is asked and whether it was right; `report` prints.

mod agent;
mod api;
mod feed;
mod http;
mod measure;
mod ours;
mod peers;
mod promql;
mod publish;
mod record;
mod replay;
mod report;
mod server;
mod set;
mod stop;
mod store;
mod synthetic;

use std::path::PathBuf;

use clap::Subcommand;

use crate::root;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// The store beside VictoriaMetrics and InfluxDB: intake, bytes, start-up, queries. Writes docs/benchmarks.md.
    Store(store::Store),
    /// The agent beside collectd, node_exporter with vmagent, and netdata: CPU, memory, wake-ups, bytes.
    Agent(agent::Agent),
    /// The REST API under a hundred clients beside VictoriaMetrics, and while messages arrive.
    Api(api::Api),
    /// PromQL over 100 000 devices: latency and memory.
    Promql(promql::Promql),
    /// Record a running node_exporter for the replay.
    Record(record::Record),
    /// Publish the messages of a set: the load generator of `store`, a process of its own.
    #[command(hide = true)]
    Publish(publish::Publish),
}

impl Bench {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Store(store) => store.run(),
            Self::Agent(agent) => agent.run(),
            Self::Api(api) => api.run(),
            Self::Promql(promql) => promql.run(),
            Self::Record(record) => record.run(),
            Self::Publish(publish) => publish.run(),
        }
    }
}

/// The recording that is kept in the repository.
fn recording_path() -> PathBuf {
    root().join("xtask/data/host-metrics.zst")
}
