//! The agent's own log: one line an event on standard error, plain, as JSON, or as journald wants it. `DEVMON_LOG` filters (`debug`, `devmon_agent=trace`).
//!
//! For journald a line starts with its priority, `<4>`, and has no time: what sd-daemon(3) specifies for standard error. Its native protocol would carry the fields apart from the text, where
//! `journalctl` and `systemctl status` do not show them: "source loaded", and not which.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::format::{Compact, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// Starts the log. Fails if `DEVMON_LOG` is no filter.
pub(crate) fn start(format: LogFormat, level: &str) -> Result<(), FilterError> {
    let filter = std::env::var("DEVMON_LOG").unwrap_or_default();
    let filter = if filter.is_empty() { level } else { &filter };
    let targets: Targets = filter.parse().map_err(|source| FilterError {
        filter: filter.to_owned(),
        source,
    })?;
    let registry = tracing_subscriber::registry().with(targets);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let for_journal = match format {
        LogFormat::Journald => true,
        LogFormat::Auto => stderr_is_the_journals(),
        LogFormat::Plain | LogFormat::Json => false,
    };
    if for_journal {
        registry.with(layer.event_format(ForJournal::new())).init();
    } else if format == LogFormat::Json {
        registry.with(layer.json().flatten_event(true)).init();
    } else {
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let layer = layer.with_ansi(colours).with_target(false);
        registry.with(layer).init();
    }
    Ok(())
}

/// `DEVMON_LOG` is no filter.
#[derive(Debug, thiserror::Error)]
#[error("DEVMON_LOG={filter:?}: {source}")]
pub(crate) struct FilterError {
    filter: String,
    source: ParseError,
}

/// As systemd.exec(5) says of `JOURNAL_STREAM`: device and inode of the stream that systemd gave, if it leads to the journal.
fn stderr_is_the_journals() -> bool {
    let given = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    rustix::fs::fstat(std::io::stderr())
        .is_ok_and(|stat| given == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// `<6>source loaded source="cpu"`.
struct ForJournal(Format<Compact, ()>);

impl ForJournal {
    fn new() -> Self {
        let format = tracing_subscriber::fmt::format().compact().without_time();
        Self(format.with_level(false).with_target(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for ForJournal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// syslog(3): err, warning, info, debug.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}
