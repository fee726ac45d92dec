//! Is a journal faster on segments that are allocated before they are written? Appends and fdatasyncs commits of a few sizes, the ways in turns, and prints
//! for each the median and 99th percentile of write and fdatasync, and the rate. `docs/decisions/0007` has what it said.
//!
//! `cargo run --release -p devmon-core --example journal_preallocate -- DIR`

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

const SEGMENT_BYTES: u64 = 32 << 20;
const COMMITS: u64 = 400;
const ROUNDS: u32 = 5;

#[derive(Clone, Copy, Debug)]
enum Way {
    /// The file grows with each write.
    Append,
    /// Blocks are reserved, the file grows.
    KeepSize,
    /// Blocks are reserved and the file has its length.
    Fallocate,
    /// Zeros are written and synced before: writes change no metadata at all.
    Zeros,
}

const WAYS: [Way; 4] = [Way::Append, Way::KeepSize, Way::Fallocate, Way::Zeros];

fn prepare(path: &Path, way: Way) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    match way {
        Way::Append => {}
        Way::KeepSize => fallocate(&file, FallocateFlags::KEEP_SIZE, 0, SEGMENT_BYTES)?,
        Way::Fallocate => fallocate(&file, FallocateFlags::empty(), 0, SEGMENT_BYTES)?,
        Way::Zeros => {
            let zeros = vec![0; 1 << 20];
            for at in (0..SEGMENT_BYTES).step_by(zeros.len()) {
                file.write_all_at(&zeros, at)?;
            }
        }
    }
    file.sync_all()?;
    Ok(file)
}

fn main() -> io::Result<()> {
    let dir = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let path = dir.join("preallocate.bench");
    println!("| commit | way | preparing | median | p99 | MB/s |\n|---|---|---|---|---|---|");
    for size in [512_usize, 4 << 10, 64 << 10] {
        let bytes: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
        let mut took: [Vec<Duration>; 4] = Default::default();
        let mut preparing = [Duration::ZERO; 4];
        for _ in 0..ROUNDS {
            for (i, way) in WAYS.into_iter().enumerate() {
                let begin = Instant::now();
                let file = prepare(&path, way)?;
                preparing[i] += begin.elapsed() / ROUNDS;
                for n in 0..COMMITS {
                    let begin = Instant::now();
                    file.write_all_at(&bytes, n * size as u64)?;
                    file.sync_data()?;
                    took[i].push(begin.elapsed());
                }
                std::fs::remove_file(&path)?;
            }
        }
        for (i, way) in WAYS.into_iter().enumerate() {
            took[i].sort();
            let sum: Duration = took[i].iter().sum();
            let rate = (took[i].len() * size) as f64 / sum.as_secs_f64() / 1e6;
            println!(
                "| {size} B | {way:?} | {:.1} ms | {:.0} µs | {:.0} µs | {rate:.1} |",
                preparing[i].as_secs_f64() * 1e3,
                took[i][took[i].len() / 2].as_secs_f64() * 1e6,
                took[i][took[i].len() * 99 / 100].as_secs_f64() * 1e6,
            );
        }
    }
    Ok(())
}
