//! The promises of `/disk`, on this machine and on made-up ones.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use devmon_core::{CollectError, MetricSource, MetricTree};
use devmon_plugin_disk::DiskSource;
use devmon_plugin_disk::capacity::Capacity;
use devmon_plugin_disk::read::Roots;

fn leaves(tree: &MetricTree) -> Vec<String> {
    tree.leaves().map(|(p, v)| format!("{p} {v}")).collect()
}

/// A machine of three mounts: `/` on a disk, btrfs through the device mapper, and a share.
fn machine() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("below the directory")).expect("writable");
        std::fs::write(path, text).expect("writable");
    };
    write(
        "proc/self/mountinfo",
        "27 1 254:0 / / rw - ext4 /dev/root rw\n\
         28 27 0:40 /@data /data rw - btrfs /dev/mapper/crypt rw\n\
         29 27 0:41 / /mnt/my\\040share rw - nfs4 nas:/x rw\n\
         30 27 0:21 / /proc rw - proc proc rw\n",
    );
    write(
        "proc/diskstats",
        " 254 0 vda 1 0 10 0 1 0 20 0 0 0 0 0 0 0 0 0 0\n 253 0 dm-0 1 0 30 0 1 0 40 0 0 0 0\n",
    );
    write("dev/dm-0", "");
    std::fs::create_dir(dir.path().join("dev/mapper")).expect("writable");
    std::os::unix::fs::symlink("../dm-0", dir.path().join("dev/mapper/crypt")).expect("writable");
    dir
}

fn source(
    machine: &Path,
    config: &str,
    statvfs: impl Fn(&Path) -> io::Result<Capacity> + Send + Sync + 'static,
) -> DiskSource {
    let roots = Roots {
        proc: machine.join("proc"),
        dev: machine.join("dev"),
    };
    DiskSource::with(config, roots, Arc::new(statvfs)).expect("good options")
}

fn half_full(_: &Path) -> io::Result<Capacity> {
    Ok(Capacity {
        total: 1_000,
        used: 450,
        available: 450,
    })
}

#[test]
fn this_machine_has_a_root() {
    let tree = DiskSource::new("{}").unwrap().collect().unwrap();
    let leaves = leaves(&tree);
    for name in [
        "total_bytes",
        "used_bytes",
        "available_bytes",
        "utilization",
        "stuck",
    ] {
        let path = format!("/~1/{name} ");
        assert!(
            leaves.iter().any(|l| l.starts_with(&path)),
            "{path}in {leaves:?}"
        );
    }
}

#[test]
fn sizes_and_counters_stand_under_the_mounts_own_name() {
    let machine = machine();
    let tree = source(machine.path(), "{}", half_full).collect().unwrap();
    let sizes = |mount: &str| {
        [
            format!("/{mount}/available_bytes 450"),
            format!("/{mount}/stuck false"),
            format!("/{mount}/total_bytes 1000"),
            format!("/{mount}/used_bytes 450"),
            format!("/{mount}/utilization 0.5"),
        ]
    };
    let io = |mount: &str, read: u64, written: u64| {
        [
            format!("/{mount}/read_bytes_total {}", read * 512),
            format!("/{mount}/written_bytes_total {}", written * 512),
        ]
    };
    let mut expected = [sizes("~1"), sizes("~1data"), sizes("~1mnt~1my share")].concat();
    expected.extend(io("~1", 10, 20)); // by number
    expected.extend(io("~1data", 30, 40)); // by name, through the link
    let mut found = leaves(&tree);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn hung_mount_delays_nothing() {
    let machine = machine();
    let (release, hang) = std::sync::mpsc::channel::<()>();
    let hang = Mutex::new(hang);
    let statvfs = move |path: &Path| {
        if path == Path::new("/data") {
            let _ = hang.lock().unwrap().recv(); // until the test ends
        }
        half_full(path)
    };
    let mut source = source(machine.path(), r#"{"statvfs_timeout_ms":1500}"#, statvfs);
    for round in 0..3 {
        let start = Instant::now();
        let tree = source.collect().unwrap();
        let took = start.elapsed();
        // The round in which it begins to hang ends at the deadline; later ones do not wait at all.
        assert!(
            round == 0 || took < Duration::from_millis(1_500),
            "{took:?}"
        );
        let leaves = leaves(&tree);
        let data: Vec<_> = leaves
            .iter()
            .filter(|l| l.starts_with("/~1data/"))
            .collect();
        assert_eq!(
            data,
            [
                "/~1data/read_bytes_total 15360",
                "/~1data/stuck true",
                "/~1data/written_bytes_total 20480"
            ]
        );
        for fine in ["/~1/used_bytes 450", "/~1mnt~1my share/used_bytes 450"] {
            assert!(leaves.iter().any(|l| l == fine), "{fine} in {leaves:?}");
        }
    }
    drop(release);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !leaves(&source.collect().unwrap()).contains(&"/~1data/stuck false".into()) {
        assert!(Instant::now() < deadline, "never recovered");
    }
}

#[test]
fn a_mount_that_refuses_says_why_and_has_no_zeros() {
    let machine = machine();
    let refuse = |path: &Path| match path.to_str() {
        Some("/data") => Err(io::Error::from_raw_os_error(13)),
        Some("/") => Ok(Capacity {
            total: 0,
            used: 0,
            available: 0,
        }),
        _ => half_full(path),
    };
    let tree = source(machine.path(), "{}", refuse).collect().unwrap();
    let leaves = leaves(&tree);
    let of = |mount: &str| leaves.iter().filter(|l| l.starts_with(mount)).count();
    assert_eq!(of("/~1data/"), 4, "{leaves:?}"); // stuck, error, two counters
    assert!(
        leaves
            .iter()
            .any(|l| l.starts_with("/~1data/error Permission denied"))
    );
    assert_eq!(of("/~1/"), 3, "{leaves:?}"); // stuck and two counters
}

#[test]
fn mounts_come_and_go_between_rounds() {
    let machine = machine();
    let mut source = source(machine.path(), "{}", half_full);
    assert_eq!(source.collect().unwrap().children().len(), 3);
    let table = machine.path().join("proc/self/mountinfo");
    std::fs::write(&table, "27 1 254:0 / / rw - ext4 /dev/root rw\n").unwrap();
    assert_eq!(source.collect().unwrap().children().len(), 1);
    std::fs::remove_file(&table).unwrap();
    let error = source.collect().unwrap_err();
    assert!(
        matches!(&error, CollectError::Failed(e) if e.contains("mountinfo")),
        "{error}"
    );
}

#[test]
fn no_diskstats_leaves_only_the_counters_out() {
    let machine = machine();
    std::fs::remove_file(machine.path().join("proc/diskstats")).unwrap();
    let tree = source(machine.path(), "{}", half_full).collect().unwrap();
    let leaves = leaves(&tree);
    assert_eq!(leaves.len(), 15, "{leaves:?}");
    assert!(!leaves.iter().any(|l| l.contains("_total ")), "{leaves:?}");
}

#[test]
fn rules_that_leave_nothing_are_unavailable_with_a_reason() {
    let machine = machine();
    let error = source(machine.path(), r#"{"include":["/dta"]}"#, half_full)
        .collect()
        .unwrap_err();
    assert!(
        matches!(&error, CollectError::Unavailable(e) if e.contains("`include`")),
        "{error}"
    );
}

#[test]
fn a_misspelt_option_is_refused_with_the_nearest_one() {
    let error = DiskSource::new(r#"{"exclde":["/tmp"]}"#).err().unwrap();
    assert!(
        error.contains("`exclde`") && error.contains("`exclude`"),
        "{error}"
    );
}
