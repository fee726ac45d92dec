//! How much memory processes have that is no file's: what a limit of a plugin is held against while it runs.
//!
//! The kernel's own limit (`RLIMIT_DATA`) is for one process, and counts no shared mappings. So a whole process group is summed here: anonymous and shared memory, as `/proc` has it (proc_pid_status(5)). What several
//! processes share (after a fork, or in a shared mapping) is in the figure of each; where that puts the sum over the limit, it is summed again by shares (proc_pid_smaps(5), Linux 5.4), which costs more.
//!
//! Out of reach: what comes and goes between two looks, and processes that left the group (setsid(2)).

/// Of one process, in bytes; 0 once it is gone. Before Linux 4.5 it is not told apart, and 0 as well.
#[must_use]
pub(super) fn of_process(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    sum(&status.unwrap_or_default(), ["RssAnon:", "RssShmem:"]).unwrap_or(0)
}

/// Of all processes of a group, in bytes, as far as it matters whether they have more than `limit`.
#[must_use]
pub(super) fn of_group(group: u32, limit: u64) -> u64 {
    let members = members(group);
    let each = |of: fn(u32) -> u64| members.iter().map(|p| of(*p)).fold(0, u64::saturating_add);
    match each(of_process) {
        resident if resident > limit && members.len() > 1 => each(share_of),
        resident => resident,
    }
}

/// For an operator, in words that follow "it"; `None`: within its limit.
#[must_use]
pub(super) fn beyond(resident: u64, limit: u64) -> Option<String> {
    let (mib, most) = (resident >> 20, limit >> 20);
    (resident > limit).then(|| format!("uses {mib} MiB of memory (its limit is {most} MiB)"))
}

/// What a process has, and its share of what it has with others; without shares, as [`of_process`].
fn share_of(pid: u32) -> u64 {
    let shares = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    let shares = sum(&shares.unwrap_or_default(), ["Pss_Anon:", "Pss_Shmem:"]);
    shares.unwrap_or_else(|| of_process(pid))
}

fn members(group: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse().ok());
    let is_member = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|s| group_in(&s) == Some(group))
    };
    pids.filter(is_member).collect()
}

/// The process group in `/proc/PID/stat`. The name before it is in brackets, and may have some in it.
fn group_in(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(2)?.parse().ok()
}

/// The sum of lines of KiB, in bytes; `None`: there are none.
fn sum(text: &str, lines: [&str; 2]) -> Option<u64> {
    let found = text.lines().filter_map(|line| {
        let rest = lines.iter().find_map(|l| line.strip_prefix(l))?;
        rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    found
        .map(|kib| kib.saturating_mul(1024))
        .reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 2] = ["RssAnon:", "RssShmem:"];

    #[test]
    fn memory_is_what_is_no_files() {
        let status =
            "VmRSS:\t  999 kB\nRssAnon:\t     100 kB\nRssFile:\t  50 kB\nRssShmem:\t    24 kB\n";
        assert_eq!(sum(status, LINES), Some(124 * 1024));
        assert_eq!(sum("", LINES), None);
        assert_eq!(
            sum("RssAnon:\t18446744073709551615 kB\nRssShmem: 1 kB\n", LINES),
            Some(u64::MAX)
        );
    }

    #[test]
    fn the_group_comes_after_whatever_name() {
        assert_eq!(group_in("12 (a) b) (c) S 1 77 78 0 -1"), Some(77));
        assert_eq!(group_in("12 (a"), None);
        let me = std::process::id();
        let group = rustix::process::getpgrp().as_raw_nonzero().get();
        assert!(members(group.cast_unsigned()).contains(&me));
    }
}
