//! `GET /metrics`: how the collector itself is. Every name begins with `devmon_collector_`; none depends on how many devices there are.

use devmon_core::Value;
use devmon_core::wire::TimestampMs;

use super::super::Api;
use super::requests::{BOUNDS_S, CLASSES};
use super::text::{Exposition, Format, put_float};
use crate::forward::Figures;
use crate::home_assistant;
use crate::query::devices::{self, Status};
use crate::query::families::{Family, Type};

/// Writes all of it.
pub(super) fn expose(api: &Api, format: Format) -> String {
    let (store, intake) = (api.store.status(), (api.intake)());
    let mut own = Own(Exposition::new(format));

    let version = [("version", env!("CARGO_PKG_VERSION")), ("mode", api.mode)];
    own.labelled(
        "build_info",
        Type::Info,
        "Version, and how messages come in.",
        &version,
        1_u64,
    );
    own.gauge(
        "start_time_seconds",
        "When the collector started, in unix time.",
        seconds(api.started),
    );
    let counts = devices::count(&*api.store, TimestampMs::now());
    for (status, count) in Status::ALL.iter().zip(counts) {
        let labels = [("status", status.as_str())];
        own.labelled("devices", Type::Gauge, "Devices by status.", &labels, count);
    }
    own.gauge("series", "Series that are kept.", store.series);

    own.counter(
        "intake_messages_total",
        "Messages stored, of every kind.",
        intake.messages,
    );
    own.counter("intake_samples_total", "Samples stored.", intake.samples);
    own.counter(
        "intake_duplicate_messages_total",
        "Messages that had been stored before.",
        intake.duplicates,
    );
    for (reason, count) in &intake.refused {
        let help = "Messages refused and kept as dead letters, by reason.";
        own.labelled(
            "intake_refused_messages_total",
            Type::Counter,
            help,
            &[("reason", reason)],
            *count,
        );
    }
    own.counter(
        "intake_put_off_messages_total",
        "Messages that could not be stored and come again.",
        intake.put_off,
    );
    own.gauge(
        "intake_connections",
        "Open connections of the MQTT listener.",
        intake.connections,
    );
    own.gauge(
        "intake_queued_messages",
        "Messages that wait for the disk.",
        intake.queued_messages,
    );
    own.gauge(
        "intake_queued_bytes",
        "Bytes that wait for the disk.",
        intake.queued_bytes,
    );
    if let Some(ts) = intake.last_commit {
        own.gauge(
            "intake_last_commit_timestamp_seconds",
            "When messages last became durable, in unix time.",
            seconds(ts),
        );
    }
    if let Some(broker) = &intake.broker {
        let labels = [("address", broker.address.as_str())];
        own.labelled(
            "broker_connected",
            Type::Gauge,
            "1 while the connection to the broker stands and the subscriptions are granted.",
            &labels,
            u64::from(broker.connected),
        );
    }

    own.gauge(
        "journal_bytes",
        "Size of the journal on disk.",
        store.journal_bytes,
    );
    own.gauge(
        "journal_last_commit_seconds",
        "How long the last commit took, its fsync included.",
        store.last_commit_us as f64 / 1e6,
    );
    let taken = store.problem.is_none() && intake.problem.is_none();
    own.gauge(
        "store_ready",
        "1 while messages are taken; 0: commits fail, see /readyz.",
        u64::from(taken),
    );
    let troubled = [
        &store.sealing_problem,
        &store.archive_problem,
        &store.degraded,
    ];
    let troubled = troubled.into_iter().any(Option::is_some);
    own.gauge("store_degraded", "1 while something does not go where it belongs, or was lost at the start; see /api/v1/status.", u64::from(troubled));
    own.gauge(
        "store_head_samples",
        "Samples in memory that are not yet in blocks.",
        store.head_samples,
    );
    own.gauge("store_blocks", "Blocks in the database.", store.blocks);
    own.gauge(
        "store_database_bytes",
        "Size of the database on disk.",
        store.database_bytes,
    );
    own.gauge("store_archive_files", "Day files.", store.archive_files);
    own.gauge(
        "store_archive_bytes",
        "Size of the day files on disk.",
        store.archive_bytes,
    );
    own.gauge(
        "store_dead_letters_bytes",
        "Size of the dead letters on disk.",
        store.dead_letters_bytes,
    );

    for progress in &api.forwarding {
        own.forwarding(&progress.figures(TimestampMs::now()));
    }
    if let Some(progress) = &api.home_assistant {
        own.home_assistant(&progress.figures());
    }
    for (class, count) in CLASSES.iter().zip(api.requests.classes()) {
        own.labelled(
            "http_responses_total",
            Type::Counter,
            "Answers of the API by class of status.",
            &[("code", class)],
            count,
        );
    }
    own.counter(
        "promql_turned_away_total",
        "Queries of PromQL that were not answered because as many as may be were at work.",
        api.requests.turned_away(),
    );
    own.durations(api);
    own.0.finish()
}

fn seconds(ts: TimestampMs) -> f64 {
    ts.0 as f64 / 1000.0
}

/// A value of the collector.
trait Figure {
    fn value(self) -> Value;
}

impl Figure for u64 {
    fn value(self) -> Value {
        Value::from(self)
    }
}

impl Figure for f64 {
    fn value(self) -> Value {
        Value::Float(self)
    }
}

struct Own(Exposition);

impl Own {
    fn counter(&mut self, name: &str, help: &str, value: impl Figure) {
        self.labelled(name, Type::Counter, help, &[], value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Figure) {
        self.labelled(name, Type::Gauge, help, &[], value);
    }

    fn labelled(
        &mut self,
        name: &str,
        type_: Type,
        help: &str,
        labels: &[(&str, &str)],
        value: impl Figure,
    ) {
        let family = family(name, type_, help);
        self.0.add(&family, labels.iter().copied(), &value.value());
    }

    fn forwarding(&mut self, figures: &Figures) {
        let name = figures.name.as_str();
        let to = [("target", name)];
        let help = "Samples that a target of remote write has taken.";
        self.labelled(
            "remote_write_samples_sent_total",
            Type::Counter,
            help,
            &to,
            figures.sent,
        );
        for (reason, count) in &figures.dropped {
            let help = "Samples that were not forwarded to a target, by reason.";
            let labels = [("target", name), ("reason", *reason)];
            self.labelled(
                "remote_write_samples_dropped_total",
                Type::Counter,
                help,
                &labels,
                *count,
            );
        }
        for (kind, count) in &figures.failures {
            let help = "Requests to a target that had to be sent again, by kind.";
            let labels = [("target", name), ("kind", *kind)];
            self.labelled(
                "remote_write_failures_total",
                Type::Counter,
                help,
                &labels,
                *count,
            );
        }
        let help =
            "How long ago the oldest message arrived that waits to be forwarded to a target.";
        self.labelled(
            "remote_write_behind_seconds",
            Type::Gauge,
            help,
            &to,
            figures.behind_seconds,
        );
        let help = "Journal that is kept for a target.";
        self.labelled(
            "remote_write_behind_bytes",
            Type::Gauge,
            help,
            &to,
            figures.behind_bytes,
        );
        let help = "1 while a target answers, 0 while requests are tried again.";
        self.labelled(
            "remote_write_up",
            Type::Gauge,
            help,
            &to,
            u64::from(figures.problem.is_none()),
        );
    }

    fn home_assistant(&mut self, figures: &home_assistant::Figures) {
        self.gauge(
            "home_assistant_up",
            "1 while what is said to Home Assistant reaches the broker.",
            u64::from(figures.problem.is_none()),
        );
        self.gauge(
            "home_assistant_entities",
            "Series that Home Assistant is told of.",
            figures.entities,
        );
        self.gauge(
            "home_assistant_left_out",
            "Series that are chosen for Home Assistant and beyond a bound.",
            figures.left_out,
        );
        self.counter(
            "home_assistant_published_total",
            "Messages to Home Assistant that the broker has acknowledged.",
            figures.published,
        );
    }

    fn durations(&mut self, api: &Api) {
        let help = "How long the API's answers took.";
        let family = family("http_response_duration_seconds", Type::Histogram, help);
        let (counts, sum) = api.requests.durations();
        for (bound, count) in BOUNDS_S.into_iter().chain([f64::INFINITY]).zip(counts) {
            let mut le = String::new();
            put_float(bound, &mut le);
            self.0
                .add_as(&family, "_bucket", [("le", le.as_str())], &count.value());
        }
        self.0.add_as(&family, "_sum", [], &sum.value());
        self.0
            .add_as(&family, "_count", [], &counts[BOUNDS_S.len()].value());
    }
}

fn family(name: &str, type_: Type, help: &str) -> Family {
    let base = name.strip_suffix("_total").unwrap_or(name);
    let unit = ["bytes", "seconds"]
        .into_iter()
        .find(|u| base.ends_with(&format!("_{u}")));
    Family {
        name: format!("devmon_collector_{name}"),
        type_,
        unit,
        help: help.to_owned(),
    }
}
