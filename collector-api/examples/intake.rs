//! The intake without a network: commits messages from files and says what it took. `cargo xtask bench store` runs it as a process of its own.
//!
//! `intake DIR FILE…` opens a store in DIR and submits what the files hold, each file from a task of its own, with at most [`WINDOW`] messages that are not
//! acknowledged, as a connection of a device has. Then it prints `ready wall_s=… messages=…` and stays until standard input ends, so that its CPU time and
//! memory can be read. `intake --seal DIR` moves everything from the journal to the database.
//!
//! A file is a row of: length of the topic (u16, little-endian), topic, length of the payload (u32, little-endian), payload.

use std::collections::VecDeque;
use std::io::{BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use devmon_collector::intake::{Intake, IntakeSettings, Outcome, Publish, accept::Ticket};
use devmon_collector::store::{Engine, Options};

const WINDOW: usize = 1024;
const READ_BYTES: usize = 1 << 20;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let first = args
        .next()
        .context("usage: intake DIR FILE… | --seal DIR")?;
    if first == "--seal" {
        let dir = PathBuf::from(args.next().context("--seal: which directory?")?);
        let engine = Engine::open(&dir, Options::default())?;
        engine.seal_now()?;
        return Ok(());
    }
    let files: Vec<PathBuf> = args.map(PathBuf::from).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    let store = Arc::new(Engine::open(Path::new(&first), Options::default())?);
    let (intake, writer) = Intake::new(store.clone(), IntakeSettings::default());

    let begin = Instant::now();
    let tasks: Vec<_> = files
        .into_iter()
        .map(|file| runtime.spawn(submit(intake.clone(), file)))
        .collect();
    let mut messages = 0;
    for task in tasks {
        messages += runtime.block_on(task)??;
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "ready wall_s={} messages={messages}",
        begin.elapsed().as_secs_f64()
    )?;
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(intake);
    writer.stop();
    drop(store);
    Ok(())
}

async fn submit(intake: Intake, file: PathBuf) -> anyhow::Result<u64> {
    let open = std::fs::File::open(&file).with_context(|| file.display().to_string())?;
    let mut file = BufReader::with_capacity(READ_BYTES, open);
    let mut waiting: VecDeque<Ticket> = VecDeque::new();
    let mut messages = 0;
    let mut length = [0; 2];
    while file.read_exact(&mut length).is_ok() {
        let topic = String::from_utf8(take(&mut file, u16::from_le_bytes(length).into())?.into())?;
        let mut length = [0; 4];
        file.read_exact(&mut length)?;
        let payload = take(&mut file, u32::from_le_bytes(length) as usize)?;
        if waiting.len() >= WINDOW
            && let Some(oldest) = waiting.pop_front()
        {
            acknowledged(oldest).await?;
        }
        waiting.push_back(intake.submit(Publish::new(topic, payload)).await);
        messages += 1;
    }
    for ticket in waiting {
        acknowledged(ticket).await?;
    }
    Ok(messages)
}

async fn acknowledged(ticket: Ticket) -> anyhow::Result<()> {
    match ticket.await {
        Outcome::Acknowledge => Ok(()),
        Outcome::Refuse(why) => bail!("the store refuses: {why}"),
    }
}

fn take(file: &mut impl std::io::Read, length: usize) -> anyhow::Result<Bytes> {
    let mut bytes = BytesMut::zeroed(length);
    file.read_exact(&mut bytes)?;
    Ok(bytes.freeze())
}
