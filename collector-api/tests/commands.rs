//! The commands for a store that does not run, from outside: what they print, what they refuse, what they leave on disk.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test does"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use devmon_collector::store::engine::{Accepted, Content, Store as _};
use devmon_collector::store::{Engine, Options};
use devmon_core::wire::{FlatMessage, TimestampMs};

/// In 2100: `compact` leaves a day that is not over in blocks.
const BASE_MS: i64 = 4_102_450_000_000;

fn collector(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_devmon-collector"));
    command.env_clear().args(args).stdin(Stdio::null());
    command
}

fn on(command: &str, data: &Path, args: &[&str]) -> Output {
    let data = data.to_str().unwrap();
    collector(&[&[command, "--data-dir", data], args].concat())
        .output()
        .unwrap()
}

#[track_caller]
fn good(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn bad(output: Output) -> String {
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

fn accepted(device: &str, ts: i64, metrics: &str) -> Accepted {
    let payload = format!("{{\"ts\":{ts},\"metrics\":{metrics}}}");
    let message = FlatMessage::decode(payload.as_bytes()).unwrap();
    Accepted {
        device: device.parse().unwrap(),
        received: TimestampMs(ts),
        payload: payload.into(),
        content: Content::Metrics {
            id: None,
            frames: message.frames,
        },
    }
}

/// Commits so many messages of each batch, each batch by a process of its own as it were, so that each has a segment of the journal.
fn filled(data: &Path, batches: &[(i64, i64)]) {
    for &(first, end) in batches {
        let options = Options {
            seal_age: std::time::Duration::from_secs(1 << 40),
            ..Options::default()
        };
        let store = Engine::open(data, options).unwrap();
        let items: Vec<_> = (first..end)
            .map(|i| {
                accepted(
                    "d1",
                    BASE_MS + i * 1000,
                    &format!("{{\"cpu\":{{\"n\":{i}}}}}"),
                )
            })
            .collect();
        store.commit(&items).unwrap();
    }
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(data.join("journal"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "dmj"))
        .collect();
    files.sort();
    files
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Every type and its edges, late and early, over several days and devices; in the order in which export writes.
fn sample_csv() -> String {
    let mut out = "device,path,ts,type,value\n".to_owned();
    for device in ["greenhouse", "zoo"] {
        for window in 0..6 {
            for (path, of) in [
                ("/a/b~1c", "integer"),
                ("/a/flag", "boolean"),
                ("/a/state", "text"),
                ("/cpu/0/use", "float"),
                ("/top", "mixed"),
            ] {
                for n in 0..7_i64 {
                    let ts = 1_763_899_200_000 + window * 9 * 3_600_000 + n * 61_003;
                    let i = usize::try_from(n).unwrap();
                    let (kind, value) = match of {
                        "integer" => (
                            "integer",
                            [
                                "0",
                                "-1",
                                "9223372036854775807",
                                "-9223372036854775808",
                                "42",
                                "42",
                                "7",
                            ][i]
                                .to_owned(),
                        ),
                        "boolean" => ("boolean", (n % 3 == 0).to_string()),
                        "text" => (
                            "text",
                            [
                                "",
                                "\"a,b\"",
                                "\"say \"\"hi\"\"\"",
                                "\"two\nlines\"",
                                "größer",
                                "true",
                                "1.5",
                            ][i]
                                .to_owned(),
                        ),
                        "float" => (
                            "float",
                            [
                                "0.1",
                                "-0.0",
                                "1e-320",
                                "1.7976931348623157e+308",
                                "3.0",
                                "12.345678901234567",
                                "100.0",
                            ][i]
                                .to_owned(),
                        ),
                        _ if n % 2 == 0 => ("integer", n.to_string()),
                        _ => ("float", format!("{n}.0")),
                    };
                    out += &format!("{device},{path},{ts},{kind},{value}\n");
                }
            }
        }
    }
    out
}

#[test]
fn what_is_exported_and_imported_is_exported_the_same_and_twice_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let csv = sample_csv();
    std::fs::write(at("in.csv"), &csv).unwrap();
    let file = |name: &str| at(name).to_str().unwrap().to_owned();
    let said = good(on("import", &at("one"), &[&file("in.csv")]));
    assert_eq!(said, "420 samples\n");
    assert_eq!(
        good(on("export", &at("one"), &[])),
        csv,
        "import and export"
    );
    good(on("import", &at("one"), &[&file("in.csv")]));
    assert_eq!(good(on("export", &at("one"), &[])), csv, "imported twice");

    good(on(
        "export",
        &at("one"),
        &["--format", "jsonl", "--output", &file("out.jsonl")],
    ));
    good(on("import", &at("two"), &[&file("out.jsonl")]));
    assert_eq!(
        good(on("export", &at("two"), &[])),
        csv,
        "by way of JSON lines"
    );
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        !names.iter().any(|n| n.to_string_lossy().ends_with(".part")),
        "{names:?}"
    );

    let mut lines: Vec<&str> = csv.split_inclusive('\n').collect();
    // Backwards, from standard input: the text of two lines is left out, for a line is not a row there.
    lines.retain(|line| !line.contains("two") && !line.starts_with("lines\""));
    let header = lines.remove(0);
    lines.reverse();
    let mut child = collector(&["import", "--data-dir", &file("three"), "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(format!("{header}{}", lines.concat()).as_bytes())
        .unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    lines.reverse();
    assert_eq!(
        good(on("export", &at("three"), &[])),
        format!("{header}{}", lines.concat())
    );
    good(on("verify", &at("three"), &[]));
}

#[test]
fn export_takes_what_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::write(dir.path().join("in.csv"), sample_csv()).unwrap();
    good(on(
        "import",
        &data,
        &[dir.path().join("in.csv").to_str().unwrap()],
    ));
    let rows = |args: &[&str]| -> Vec<String> {
        let out = good(on(
            "export",
            &data,
            &[args, &["--format", "jsonl"]].concat(),
        ));
        out.lines().map(str::to_owned).collect()
    };
    assert_eq!(rows(&["--device", "zoo"]).len(), 210);
    assert_eq!(rows(&["--device", "zoo", "--output", "-"]).len(), 210);
    assert_eq!(
        rows(&["--device", "zoo", "--device", "greenhouse"]).len(),
        420
    );
    assert_eq!(rows(&["--path", "/a"]).len(), 252);
    assert_eq!(rows(&["--path", "/*/use"]).len(), 0);
    assert_eq!(rows(&["--path", "/*/*/use"]).len(), 84);
    assert_eq!(rows(&["--path", "/**/use"]).len(), 84);
    let from_to = rows(&[
        "--path",
        "/top",
        "--from",
        "1763899200000",
        "--to",
        "1763899261004",
    ]);
    assert_eq!(from_to.len(), 4, "{from_to:?}");
    assert_eq!(rows(&["--to", "1763899200000"]).len(), 0);
    assert!(bad(on("export", &data, &["--device", "nobody"])).contains("no device nobody"));
    assert!(bad(on("export", &data, &["--from", "soon"])).contains("--from: \"soon\" is no time"));
    assert!(bad(on("export", &data, &["--output", "/nonexistent/x"])).contains("/nonexistent"));
    let missing = dir.path().join("mistyped");
    assert!(bad(on("export", &missing, &[])).contains("--data-dir"));
    assert!(!missing.exists(), "a store was made");
}

/// Three days of minutes in 2023, of which the archive keeps hours only, and one of yesterday, of which it keeps samples.
fn aged(data: &Path, yesterday: i64) {
    let options = Options {
        seal_age: std::time::Duration::from_secs(1 << 40),
        ..Options::default()
    };
    let store = Engine::open(data, options).unwrap();
    let old = 1_690_848_000_000; // 2023-08-01
    for (day, count) in [(old, 3 * 1440), (yesterday, 1440)] {
        let items: Vec<_> = (0..count)
            .map(|i| {
                accepted(
                    "d1",
                    day + i * 60_000,
                    &format!("{{\"cpu\":{{\"n\":{i}}},\"state\":\"up\"}}"),
                )
            })
            .collect();
        store.commit(&items).unwrap();
    }
    store.compact_now().unwrap();
    let (done, all) = store.compacting();
    assert!(done == all && all > 0, "{done} of {all} bytes");
}

#[test]
fn what_is_kept_as_rollups_only_is_said_and_exported_by_its_tier() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let yesterday = (TimestampMs::now().0 / 86_400_000 - 1) * 86_400_000;
    aged(&data, yesterday);
    let status = good(on("status", &data, &[]));
    let hours = "  1h          2023-08-01T00:00:00Z to 2023-08-04T00:00:00Z, ";
    assert!(status.contains(hours), "{status}");
    let samples = format!(
        "  samples     {} to ",
        devmon_collector::api::time::format(yesterday)
    );
    assert!(status.contains(&samples), "{status}");
    assert!(status.contains("  1m          none\n"), "{status}");
    assert!(status.contains("blocks        0\n"), "{status}");

    let samples = on("export", &data, &["--path", "/cpu"]);
    let said = String::from_utf8_lossy(&samples.stderr).into_owned();
    assert_eq!(good(samples).lines().count(), 1 + 1440);
    let note = "note: samples from before 2023-08-04T00:00:00Z are gone; their minutes from 2023-08-04T00:00:00Z on can be exported with --tier 1m, their hours with --tier 1h";
    assert!(said.contains(note), "{said}");
    let recent = on("export", &data, &["--from", "2023-08-04T00:00:00Z"]);
    assert!(!String::from_utf8_lossy(&recent.stderr).contains("note: "));

    let csv = good(on(
        "export",
        &data,
        &["--tier", "1h", "--to", "2023-08-02T00:00:00Z"],
    ));
    let rows: Vec<_> = csv.lines().collect();
    assert_eq!(rows.len(), 1 + 24 * 2);
    assert_eq!(
        rows[0],
        "device,path,ts,count,min,max,sum,first,last,increase"
    );
    assert_eq!(
        rows[2],
        "d1,/cpu/n,1690851600000,60,60,119,5370,60,119,59.0"
    );
    let state = rows.iter().find(|row| row.contains("/state")).unwrap();
    assert_eq!(*state, "d1,/state,1690848000000,60,,,,up,up,0.0");
    let minutes = ["--tier", "1m", "--format", "jsonl", "--path", "/cpu"];
    let minutes = good(on("export", &data, &minutes));
    assert_eq!(minutes.lines().count(), 1440, "of yesterday only");
    let first = format!(
        "{{\"device\":\"d1\",\"path\":\"/cpu/n\",\"ts\":{yesterday},\"count\":1,\"min\":0,\"max\":0,\"sum\":0,\"first\":0,\"last\":0,\"increase\":0.0}}\n"
    );
    assert!(minutes.starts_with(&first), "{}", &minutes[..200]);

    let file = dir.path().join("hours.csv");
    std::fs::write(&file, csv).unwrap();
    let said = bad(on("import", &data, &[file.to_str().unwrap()]));
    assert!(said.contains("these are rollups"), "{said}");
}

#[test]
fn an_export_without_a_day_that_is_missing_is_written_and_is_no_success() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    aged(&data, (TimestampMs::now().0 / 86_400_000 - 1) * 86_400_000);
    let second = names(&data.join("archive"))
        .into_iter()
        .find(|name| name.starts_with("2023-08-02"));
    std::fs::remove_file(data.join("archive").join(second.unwrap())).unwrap();
    let out = dir.path().join("all.csv");
    let said = bad(on("export", &data, &["--output", out.to_str().unwrap()]));
    assert!(said.contains("2023-08-02"), "{said}");
    let rows = std::fs::read_to_string(&out).unwrap();
    assert_eq!(rows.lines().count(), 1 + 2 * 1440, "all that is left");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn an_export_that_is_interrupted_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("data"), dir.path().join("out"));
    std::fs::create_dir(&out).unwrap();
    filled(&data, &[(0, 30_000)]);
    let file = out.join("all.csv");
    // It may be faster than the signal: then its file is whole, and it is tried again.
    for _ in 0..50 {
        let mut child = collector(&[
            "export",
            "--data-dir",
            data.to_str().unwrap(),
            "--output",
            file.to_str().unwrap(),
        ])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
        while names(&out).is_empty() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap();
        let ended = child.wait_with_output().unwrap();
        if ended.status.success() {
            assert_eq!(names(&out), ["all.csv"]);
            std::fs::remove_file(&file).unwrap();
            continue;
        }
        assert!(bad(ended).contains("interrupted before the end"));
        assert_eq!(names(&out), [""; 0]);
        return;
    }
    panic!("no export was interrupted");
}

#[test]
fn a_reader_that_has_enough_ends_an_export_quietly_and_a_full_disk_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    filled(&data, &[(0, 30_000)]); // more than a pipe holds
    let mut child = collector(&["export", "--data-dir", data.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut header = String::new();
    stdout.read_line(&mut header).unwrap();
    drop(stdout);
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{said}");
    assert_eq!(said, "opening\nexporting\n");

    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let ended = collector(&["export", "--data-dir", data.to_str().unwrap()])
        .stdout(full)
        .output()
        .unwrap();
    let said = bad(ended);
    assert!(
        said.contains("the output can not be written: No space left on device"),
        "{said}"
    );
}

#[test]
fn a_wrong_row_is_refused_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wrong.csv");
    std::fs::write(
        &file,
        "device,path,ts,type,value\nd,/a,1795450000000,float,1\nd,/a,1,float,1\n",
    )
    .unwrap();
    let said = bad(on(
        "import",
        &dir.path().join("data"),
        &[file.to_str().unwrap()],
    ));
    assert!(
        said.contains("wrong.csv: line 3: ts 1 lies before 2000"),
        "{said}"
    );
}

#[test]
fn verify_finds_each_fault_with_its_place_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    filled(&data, &[(0, 50), (50, 60)]);
    let said = good(on("verify", &data, &[]));
    assert!(said.contains("60 messages in 2 segments"), "{said}");
    assert!(said.contains("faults        0"), "{said}");
    let segments = segments(&data);
    let length = std::fs::metadata(&segments[0]).unwrap().len();
    flip(&segments[0], 16 + 30);
    let before = std::fs::read(&segments[0]).unwrap();
    let said = bad(on("verify", &data, &[]));
    assert!(
        said.contains("fault: journal/00000000000000000000.dmj, byte 16: "),
        "{said}"
    );
    assert_eq!(std::fs::read(&segments[0]).unwrap(), before);
    flip(&segments[0], 16 + 30);
    std::fs::OpenOptions::new()
        .write(true)
        .open(&segments[0])
        .unwrap()
        .set_len(length - 3)
        .unwrap();
    let said = bad(on("verify", &data, &[]));
    assert!(said.contains("1 faults"), "{said}");
    assert!(bad(on("verify", &dir.path().join("none"), &[])).contains("--data-dir"));
}

#[test]
fn a_damaged_block_is_found_by_verify() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    filled(&data, &[(0, 600)]);
    let said = good(on("compact", &data, &[]));
    assert!(
        said.starts_with("0 day files in 0 bytes; 1 blocks"),
        "{said}"
    );
    let said = good(on("verify", &data, &[]));
    assert!(
        said.contains("600 samples in 1 blocks; 1 devices, 1 series"),
        "{said}"
    );
    // Beneath sled's own checksums: another value under the block's key, as a fault of memory would leave it.
    let db = sled::open(data.join("db")).unwrap();
    let blocks = db.open_tree("blocks").unwrap();
    let (key, value) = blocks.iter().next().unwrap().unwrap();
    let mut value = value.to_vec();
    *value.last_mut().unwrap() ^= 1;
    blocks.insert(&key, value).unwrap();
    let mut elsewhere = key.to_vec();
    elsewhere[7] ^= 0x40; // another stream
    blocks
        .insert(elsewhere, blocks.get(&key).unwrap().unwrap())
        .unwrap();
    db.flush().unwrap();
    drop((blocks, db));
    let said = bad(on("verify", &data, &[]));
    assert!(said.contains("fault: db: block "), "{said}");
    assert!(said.contains("checksum"), "{said}");
    assert!(said.contains("2 faults"), "{said}");
}

#[test]
fn salvage_lets_a_collector_start_on_what_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    filled(&data, &[(0, 5), (5, 10)]);
    assert!(good(on("salvage", &data, &[])).contains("nothing is damaged"));
    let damaged = segments(&data).remove(0);
    let second = 16 + std::fs::read(&damaged).unwrap()[16] as usize + 8;
    flip(&damaged, second + 8 + 4);

    let args = ["--http", "127.0.0.1:0", "--mqtt-listen", "127.0.0.1:0"];
    let said = bad(on("run", &data, &args));
    let advice = format!("devmon-collector salvage --data-dir {}", data.display());
    assert!(said.contains(&advice), "{said}");
    assert!(said.contains(&format!("byte {second}")), "{said}");

    let said = good(on("salvage", &data, &[]));
    assert!(
        said.contains(&format!("bytes at byte {second} can not be read")),
        "{said}"
    );
    assert!(
        said.contains("4 messages go on") && said.contains(".dmj.damaged"),
        "{said}"
    );
    let rows = on("export", &data, &[]);
    let written = String::from_utf8(rows.stdout.clone()).unwrap();
    assert!(bad(rows).contains(".dmj.damaged"), "what is lost is said");
    let values: Vec<_> = written
        .lines()
        .skip(1)
        .filter_map(|row| row.rsplit_once(','))
        .map(|(_, v)| v)
        .collect();
    assert_eq!(values, ["0", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert!(good(on("status", &data, &[])).contains("degraded"));
    let running = Running::start(&data);
    assert!(running.ready.starts_with("ready"), "{}", running.ready);
}

struct Running {
    child: Child,
    ready: String,
}

impl Running {
    fn start(data: &Path) -> Self {
        let data = data.to_str().unwrap();
        let mut child = collector(&[
            "run",
            "--data-dir",
            data,
            "--http",
            "127.0.0.1:0",
            "--mqtt-listen",
            "127.0.0.1:0",
        ])
        .env("DEVMON_LOG", "error")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        Self { child, ready }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn status_asks_the_directory_or_the_collector_and_nothing_else_works_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    filled(&data, &[(0, 5)]);
    good(on("compact", &data, &[]));
    let said = good(on("status", &data, &[]));
    for line in [
        "devices       1",
        "series        1",
        "blocks        1",
        "state         ok",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(
        said.contains("blocks from   2100-01-01T01:00:00Z to 2100-01-01T02:00:00Z"),
        "{said}"
    );

    let running = Running::start(&data);
    let url = running
        .ready
        .split_once("http=")
        .unwrap()
        .1
        .split(' ')
        .next()
        .unwrap();
    let said = good(on("status", &data, &["--url", url]));
    assert!(
        said.lines()
            .any(|line| line.starts_with("store.state") && line.ends_with("ok")),
        "{said}"
    );
    assert!(said.contains("store.blocks"), "{said}");
    for command in ["verify", "salvage", "compact", "status", "export"] {
        let said = bad(on(command, &data, &[]));
        assert!(
            said.contains("a collector runs on") && said.contains("status --url"),
            "{command}: {said}"
        );
    }
    drop(running);
    let said = bad(on("status", &data, &["--url", "http://127.0.0.1:1"]));
    assert!(
        said.contains("no collector answers at http://127.0.0.1:1"),
        "{said}"
    );
    assert!(bad(on("status", &data, &["--url", "https://x"])).contains("http://127.0.0.1:8765"));
}
