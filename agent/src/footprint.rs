//! What the agent occupies of its device: how the allocator is told to be small, and how pages of code that only start-up needed are given back.
//!
//! Measured (dist build, four plugins, 1 s): docs/benchmarks.md, "The agent on its device". Neither changes what the agent does; where the platform has no such call, nothing happens.
//! [`allocated_bytes`] is for `check-plugin`, which looks for leaks.
//! Three calls that no safe wrapper exists for, hence this file's own `unsafe`; decision 0010 weighs it.

#![expect(
    unsafe_code,
    reason = "mallopt, mallinfo2 and madvise; each says why it is sound"
)]

use std::ops::Range;
use std::time::Duration;

/// By then every source has been asked a few times, the connection stands and `about` is sent: what runs from here on is what runs each round.
pub const SETTLED: Duration = Duration::from_secs(10);
/// What runs seldom, such as a reconnect, comes back page by page and would stay: measured, 0.4 MB in the first hour.
pub const AGAIN: Duration = Duration::from_secs(600);

/// One heap for all threads. glibc gives each of the first eight times as many threads as there are cores a heap of its own, 132 KiB and more that are never given back; ours sleep, and never
/// wait for each other in the allocator. To be called before the first thread is started.
pub fn one_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two integers and is called before other threads exist (mallopt(3): MT-Unsafe init).
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// What `malloc` has given out and not got back, of all heaps and mappings of its own; 0 where the C library does not say.
pub fn allocated_bytes() -> u64 {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: mallinfo2 takes nothing, returns numbers, and takes each heap's lock while it reads it (mallinfo(3)).
        let info = unsafe { libc::mallinfo2() };
        u64::try_from(info.uordblks.saturating_add(info.hblkhd)).unwrap_or(u64::MAX)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    0
}

/// Gives pages of code back to the kernel; those that are needed again are mapped again, from the page cache, at the price of a minor fault each. Bytes that were asked to be given back.
///
/// Parsing of configuration and command line, loading of plugins and the TLS handshake are most of what a fresh agent has mapped, and none of it runs again soon.
pub fn give_back_code() -> usize {
    let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else {
        return 0;
    };
    let mut bytes = 0;
    for range in code(&smaps) {
        let length = range.end - range.start;
        // SAFETY: the range is one whole mapping of this process, private, of a file, executable and not writable, and none of its pages was ever written to (`Anonymous` and `Swap` are 0, so no relocation
        // of a library linked with text relocations, and no breakpoint): what is mapped again is what was there. None goes meanwhile, since libraries are never unmapped.
        let given = unsafe {
            rustix::mm::madvise(
                range.start as *mut std::ffi::c_void,
                length,
                rustix::mm::Advice::LinuxDontNeed,
            )
        };
        bytes += if given.is_ok() { length } else { 0 };
    }
    bytes
}

/// The mappings of code of files that nobody has written to, from the text of `/proc/PID/smaps` (proc_pid_smaps(5)).
fn code(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        match line.split_once(':') {
            // A page that was written to may have been swapped out since; `Swap` stands behind `Anonymous`.
            Some(("Anonymous", kilobytes)) if kilobytes.trim() != "0 kB" => current = None,
            Some(("Swap", kilobytes)) if kilobytes.trim() == "0 kB" => found.extend(current.take()),
            // Every mapping's first line holds a colon, too, but in its device: behind a blank.
            Some((key, _)) if !key.contains(' ') => {}
            _ => current = mapping_of_code(line),
        }
    }
    found
}

fn mapping_of_code(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    let file = fields.nth(3)?;
    if rights != "r-xp" || !file.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?).filter(|range| range.start < range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unwritten_private_mappings_of_files_count_as_code() {
        let clean =
            "Rss: 4 kB\nAnonymous: 0 kB\nSwap:   0 kB\nSwapPss: 0 kB\nVmFlags: rd ex mr mw me\n";
        let swapped =
            "Rss: 0 kB\nAnonymous: 0 kB\nSwap:   4 kB\nSwapPss: 4 kB\nVmFlags: rd ex mr mw me\n";
        let written =
            "Rss: 4 kB\nAnonymous:             4 kB\nSwap: 0 kB\nVmFlags: rd ex mr mw me\n";
        let mut smaps = String::new();
        for (line, rest) in [
            (
                "1000-3000 r-xp 00001000 fe:00 1 /usr/bin/devmon-agent",
                clean,
            ),
            (
                "3000-4000 r--p 00000000 fe:00 1 /usr/bin/devmon-agent",
                clean,
            ),
            (
                "4000-5000 rw-p 00004000 fe:00 1 /usr/bin/devmon-agent",
                clean,
            ),
            (
                "5000-6000 rwxp 00004000 fe:00 1 /usr/bin/devmon-agent",
                clean,
            ),
            (
                "6000-7000 r-xs 00004000 fe:00 1 /usr/bin/devmon-agent",
                clean,
            ),
            ("7000-9000 r-xp 00000000 00:00 0 [vdso]", clean),
            ("a000-b000 r-xp 00000000 00:00 0", clean),
            ("b000-c000 r-xp 00000000 fe:00 2 /lib/relocated.so", written),
            ("b000-c000 r-xp 00000000 fe:00 2 /lib/sleeping.so", swapped),
            (
                "c000-d000 r-xp 00000000 fe:00 2 /var/a folder/libx.so (deleted)",
                clean,
            ),
            ("zz-d000 r-xp 00000000 fe:00 2 /x", clean),
        ] {
            smaps += &format!("{line}\n{rest}");
        }
        assert_eq!(code(&smaps), [0x1000..0x3000, 0xc000..0xd000]);
    }

    #[test]
    fn code_that_was_given_back_still_runs() {
        let before = give_back_code();
        assert!(before > 0, "this test itself is code of a file");
        let text: String = (0..100).map(|i| i.to_string()).collect();
        assert_eq!(text.len(), 190);
    }
}
