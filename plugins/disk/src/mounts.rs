//! Which mounts are measured: the mount table parsed, then narrowed to one mount per filesystem. Pure; nothing here touches a mount.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use devmon_core::path::MAX_NAME_BYTES;
use glob::Pattern;

use crate::config::{Config, GLOB_RULES, globs};

/// Types that hold no data of their own, or only data in memory or in an image that never fills. `/` is measured whatever its type, and so is
/// a mount that `include` names without a wildcard.
const PSEUDO_TYPES: [&str; 36] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "erofs",
    "fuse.gvfsd-fuse",
    "fuse.lxcfs",
    "fuse.portal",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "nfsd",
    "nsfs",
    "overlay",
    "pipefs",
    "proc",
    "pstore",
    "ramfs",
    "resctrl",
    "rootfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "squashfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// Files that container engines mount over their own; each would show the host's disk under an odd name.
const CONTAINER_FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// Most mounts in a round: with 8 leaves each they stay below the 10 000 leaves of a frame.
pub const MAX_MOUNTS: usize = 1_000;

/// One line of `/proc/self/mountinfo`, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub id: u32,
    pub parent: u32,
    /// Major and minor number of the filesystem, the same for all its mounts. Major 0: not on one block device (btrfs, nfs, overlay).
    pub device: (u32, u32),
    /// Where it is mounted.
    pub path: PathBuf,
    /// e.g. `ext4`, `fuse.sshfs`.
    pub fs_type: String,
    /// What is mounted, e.g. `/dev/vda` or `server:/export`.
    pub source: PathBuf,
}

/// Reads a mount table (proc(5), "mountinfo"); lines that are none are skipped.
///
/// ```text
/// 36 35 98:0 /root /mnt\040point rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue
/// id parent device root path options optional-fields... - type source super-options
/// ```
#[must_use]
pub fn parse_mountinfo(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let mut next = || fields.next();
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let path = |field: &[u8]| PathBuf::from(OsStr::from_bytes(&unescape(field)));
    let id = number(next()?)?;
    let parent = number(next()?)?;
    let (major, minor) = std::str::from_utf8(next()?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let _root = next()?;
    let mounted_at = path(next()?);
    let _options = next()?;
    while next()? != b"-" {} // optional fields, none to many
    Some(Mount {
        id,
        parent,
        device,
        path: mounted_at,
        fs_type: text(next()?),
        source: next().map(path).unwrap_or_default(),
    })
}

/// The kernel writes space, tab, newline, backslash and `#` as `\` and three octal digits.
fn unescape(field: &[u8]) -> Cow<'_, [u8]> {
    if !field.contains(&b'\\') {
        return Cow::Borrowed(field);
    }
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    Cow::Owned(out)
}

/// The rules of [`Config`], compiled.
pub struct Filter {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    exclude_types: Vec<Pattern>,
}

impl Filter {
    /// Compiles the globs.
    ///
    /// # Errors
    /// A text that names the option and the glob.
    pub fn new(config: &Config) -> Result<Self, String> {
        Ok(Self {
            include: globs("include", &config.include)?,
            exclude: globs("exclude", &config.exclude)?,
            exclude_types: globs("exclude_types", &config.exclude_types)?,
        })
    }

    fn keeps(&self, mount: &Mount) -> bool {
        let matches = |globs: &[Pattern], path: &Path| {
            globs.iter().any(|g| g.matches_path_with(path, GLOB_RULES))
        };
        if matches(&self.exclude, &mount.path)
            || matches(&self.exclude_types, Path::new(&mount.fs_type))
            || !(self.include.is_empty() || matches(&self.include, &mount.path))
        {
            return false;
        }
        let named = self
            .include
            .iter()
            .any(|glob| Path::new(glob.as_str()) == mount.path);
        let pseudo = PSEUDO_TYPES.contains(&mount.fs_type.as_str())
            || CONTAINER_FILES
                .iter()
                .any(|file| Path::new(file) == mount.path);
        named || mount.path == Path::new("/") || !pseudo
    }
}

/// The mounts to measure, shortest path first: those that a path still leads to, that the filter keeps, and of several mounts of one filesystem
/// (bind mounts, btrfs subvolumes) the one with the shortest path. The number is of those beyond [`MAX_MOUNTS`], which are left out.
#[must_use]
pub fn select(table: &[Mount], filter: &Filter) -> (Vec<Mount>, usize) {
    let mut kept: Vec<&Mount> = visible(table)
        .into_iter()
        .filter(|mount| filter.keeps(mount))
        .collect();
    kept.sort_by(|a, b| {
        let length = |m: &Mount| m.path.as_os_str().len();
        length(a).cmp(&length(b)).then_with(|| a.path.cmp(&b.path))
    });
    let mut devices = HashSet::new();
    kept.retain(|mount| devices.insert(mount.device));
    let left_out = kept.len().saturating_sub(MAX_MOUNTS);
    kept.truncate(MAX_MOUNTS);
    (kept.into_iter().cloned().collect(), left_out)
}

/// Mounts that their path leads to: not those that a later mount on the same directory, or on one above, hides.
fn visible(table: &[Mount]) -> Vec<&Mount> {
    let by_id: HashMap<u32, &Mount> = table.iter().map(|m| (m.id, m)).collect();
    let mut by_parent: HashMap<u32, Vec<&Mount>> = HashMap::new();
    for mount in table {
        by_parent.entry(mount.parent).or_default().push(mount);
    }
    let children = |id: u32| by_parent.get(&id).into_iter().flatten().copied();
    // A mount on the root of another has that one for a parent and the same path.
    let covered = |m: &Mount| children(m.id).any(|over| over.id != m.id && over.path == m.path);
    // A mount below a sibling's path is older than the sibling (else it would be its child), which now stands in the way.
    let cut_off = |m: &Mount| {
        children(m.parent).any(|other| other.path != m.path && m.path.starts_with(&other.path))
    };
    let reachable = |mount: &Mount| {
        let mut at = mount;
        for _ in 0..table.len() {
            if cut_off(at) {
                return false;
            }
            match by_id.get(&at.parent) {
                Some(parent) if parent.id != at.id => at = parent,
                _ => break, // the first mount of this process' view
            }
        }
        true
    };
    let seen = |m: &&Mount| !covered(m) && reachable(m);
    table.iter().filter(seen).collect()
}

/// A mount's name in the tree: its path. One that is too long or no UTF-8 is shortened in its middle, around a hash that keeps it unique.
#[must_use]
pub fn name_of(path: &Path) -> String {
    let lossy = path.to_string_lossy();
    if lossy.len() <= MAX_NAME_BYTES && matches!(lossy, Cow::Borrowed(_)) {
        return lossy.into_owned();
    }
    const KEPT: usize = 50; // bytes of each end; with the marks and 16 digits of hash below 128
    // FNV-1a: a mount keeps its name over runs and releases, which std's hashers do not promise.
    let hash = path
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let head = &lossy[..lossy.floor_char_boundary(KEPT)];
    let tail_from = lossy.len().saturating_sub(KEPT).max(head.len());
    let tail = &lossy[lossy.ceil_char_boundary(tail_from)..];
    format!("{head}…{hash:016x}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(id, parent, device, path, type)`.
    fn table(rows: &[(u32, u32, &str, &str, &str)]) -> Vec<Mount> {
        let line = |(id, parent, device, path, kind): &(u32, u32, &str, &str, &str)| {
            format!("{id} {parent} {device} / {path} rw - {kind} /dev/x rw\n")
        };
        parse_mountinfo(rows.iter().map(line).collect::<String>().as_bytes())
    }

    fn selected(rows: &[(u32, u32, &str, &str, &str)], config: &str) -> Vec<String> {
        let filter = Filter::new(&Config::parse(config).unwrap()).unwrap();
        let (mounts, _) = select(&table(rows), &filter);
        mounts
            .iter()
            .map(|m| m.path.display().to_string())
            .collect()
    }

    const HOST: &[(u32, u32, &str, &str, &str)] = &[
        (27, 1, "254:0", "/", "ext4"),
        (22, 27, "0:21", "/proc", "proc"),
        (28, 27, "254:1", "/home", "xfs"),
        (29, 27, "254:1", "/srv/home", "xfs"),
        (30, 27, "0:30", "/tmp", "tmpfs"),
        (
            31,
            27,
            "0:31",
            "/var/lib/docker/overlay2/a/merged",
            "overlay",
        ),
        (32, 27, "0:32", "/mnt/nas", "nfs4"),
        (33, 27, "7:0", "/snap/core/1", "squashfs"),
    ];

    #[test]
    fn pseudo_filesystems_and_duplicates_are_left_out() {
        assert_eq!(selected(HOST, "{}"), ["/", "/home", "/mnt/nas"]);
    }

    #[test]
    fn root_is_measured_even_as_overlay_and_without_the_files_of_the_engine() {
        let container = [
            (100, 50, "0:60", "/", "overlay"),
            (101, 100, "254:1", "/etc/resolv.conf", "ext4"),
            (102, 100, "254:1", "/etc/hosts", "ext4"),
            (103, 100, "254:1", "/var/lib/mysql/data", "ext4"),
        ];
        assert_eq!(selected(&container, "{}"), ["/", "/var/lib/mysql/data"]);
    }

    #[test]
    fn include_narrows_exclude_wins_and_a_plain_name_brings_back_what_is_pseudo() {
        assert_eq!(selected(HOST, r#"{"include":["/h*"]}"#), ["/home"]);
        assert_eq!(selected(HOST, r#"{"exclude":["/mnt/**"]}"#), ["/", "/home"]);
        assert_eq!(
            selected(HOST, r#"{"exclude_types":["nfs*"]}"#),
            ["/", "/home"]
        );
        assert_eq!(
            selected(HOST, r#"{"include":["/home"],"exclude":["/home"]}"#),
            [""; 0]
        );
        assert_eq!(selected(HOST, r#"{"include":["/tmp","/"]}"#), ["/", "/tmp"]);
        assert_eq!(selected(HOST, r#"{"include":["/tm?","/"]}"#), ["/"]);
        // The shorter path of /dev 254:1 is excluded, so the other stands for it.
        assert_eq!(
            selected(HOST, r#"{"exclude":["/home"]}"#),
            ["/", "/mnt/nas", "/srv/home"]
        );
    }

    #[test]
    fn mounts_hidden_by_later_ones_are_not_measured_in_their_place() {
        let stacked = [
            (1, 0, "8:1", "/", "ext4"),
            (2, 1, "8:2", "/data", "ext4"),
            (3, 2, "8:3", "/data/inner", "ext4"), // hidden by 4
            (4, 2, "8:4", "/data", "ext4"),       // upon 2
            (5, 1, "8:5", "/mnt/a/b", "ext4"),    // hidden by 6
            (6, 1, "8:6", "/mnt/a", "ext4"),
            (7, 4, "8:7", "/data/new", "ext4"),
            (8, 1, "8:8", "/mnt/ab", "ext4"), // not below /mnt/a
        ];
        let table = table(&stacked);
        let ids: Vec<u32> = visible(&table).iter().map(|m| m.id).collect();
        assert_eq!(ids, [1, 4, 6, 7, 8]);
    }

    #[test]
    fn more_mounts_than_a_frame_holds_are_counted() {
        let rows: Vec<(String, String)> = (0..MAX_MOUNTS + 3)
            .map(|i| (format!("9:{i}"), format!("/m{i}")))
            .collect();
        let rows: Vec<_> = rows
            .iter()
            .enumerate()
            .map(|(i, (device, path))| (i as u32 + 10, 1, device.as_str(), path.as_str(), "xfs"))
            .collect();
        let filter = Filter::new(&Config::default()).unwrap();
        let (mounts, left_out) = select(&table(&rows), &filter);
        assert_eq!((mounts.len(), left_out), (MAX_MOUNTS, 3));
    }

    #[test]
    fn escapes_unicode_and_odd_lines_are_read() {
        let text = br"40 1 8:1 / /mnt/a\040b\011c\134d rw shared:1 master:2 - fuse.sshfs me@host:/my\040dir rw
41 1 8:2 / /m\303\244rz rw - ext4 /dev/sdb rw
42 1 8:3 / /caf\351 rw - ext4 /dev/sdc rw
43 1 0:50 / /none rw - tmpfs
not a mount
44 1 8:4 / /end\ rw - ext4 /dev/sdd rw
45 1 8:5 / /cut rw shared:2";
        let mounts = parse_mountinfo(text);
        let paths: Vec<&[u8]> = mounts
            .iter()
            .map(|m| m.path.as_os_str().as_bytes())
            .collect();
        assert_eq!(
            paths,
            [
                b"/mnt/a b\tc\\d".as_slice(),
                "/märz".as_bytes(),
                b"/caf\xe9",
                b"/none",
                b"/end\\"
            ]
        );
        assert_eq!(mounts[0].fs_type, "fuse.sshfs");
        assert_eq!(mounts[0].source, Path::new("me@host:/my dir"));
        assert_eq!(mounts[3].source, Path::new(""));
        assert_eq!(parse_mountinfo(b""), []);
    }

    #[test]
    fn every_name_is_legal_stable_and_unique() {
        assert_eq!(name_of(Path::new("/home")), "/home");
        let long = |pod: &str| {
            format!(
                "/var/lib/kubelet/pods/{}/volumes/kubernetes.io~csi/{}/mount",
                pod.repeat(36),
                "p".repeat(40)
            )
        };
        let (a, b) = (
            name_of(Path::new(&long("a"))),
            name_of(Path::new(&long("b"))),
        );
        assert_ne!(a, b);
        assert_eq!(a, name_of(Path::new(&long("a"))));
        assert!(
            a.starts_with("/var/lib/kubelet/pods/aaa") && a.ends_with("/mount"),
            "{a}"
        );
        let odd = [
            long("ä").into_bytes(),
            vec![b'/', 0xff],
            vec![b'/', 0xfe],
            [b"/".as_slice(), &[0xff; 300]].concat(),
        ];
        let names: HashSet<String> = odd
            .iter()
            .map(|bytes| name_of(Path::new(OsStr::from_bytes(bytes))))
            .collect();
        assert_eq!(names.len(), odd.len());
        for name in names {
            devmon_core::path::check_name(&name).unwrap();
        }
    }
}
