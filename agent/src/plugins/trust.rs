//! Who may change what the agent runs: files and directories that others may write to are refused.
//!
//! **Promises** that what is judged is what is read: a file is opened once, the open file is judged, and it is handed on to be copied from. A symbolic link is judged by what it points to.
//! Trusted are root, the agent's user, root's group, and the agent's own group if nobody else is in it (many systems give each user a group of the same name, and files writable
//! for it). An access list (POSIX ACL) may name users that the mode does not show: with one, nobody but the owner may write. Directories above the plugin directory are left to whoever set up the machine.

use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::load::Refusal;

/// Where Linux keeps an access list (acl(5)); not there if the mode says it all.
const ACL: &str = "system.posix_acl_access";

/// Opens a plugin's file for reading, if nobody else could have written it.
///
/// # Errors
/// [`Refusal::Unreadable`], [`Refusal::NotARegularFile`] or [`Refusal::Untrusted`].
pub fn open(path: &Path) -> Result<File, Refusal> {
    let unreadable = |e: std::io::Error| Refusal::Unreadable(e.to_string());
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed()) // a FIFO without a writer would block
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Refusal::NotARegularFile);
    }
    let listed = rustix::fs::fgetxattr_query(&file, ACL).is_ok();
    judge(&metadata, listed).map_err(Refusal::Untrusted)?;
    Ok(file)
}

/// Judges the directory that a plugin lies in: whoever may write there can put another file in its place.
///
/// # Errors
/// [`Refusal::Unreadable`] or [`Refusal::Untrusted`].
pub fn directory(dir: &Path) -> Result<(), Refusal> {
    let shown = dir.display();
    let metadata = std::fs::metadata(dir)
        .map_err(|e| Refusal::Unreadable(format!("its directory {shown}: {e}")))?;
    judge(&metadata, has_list(dir))
        .map_err(|e| Refusal::Untrusted(format!("its directory {shown}: {e}")))
}

/// Judges a directory that the agent keeps its own things in, if it is there.
///
/// # Errors
/// What is wrong with it and what to do.
pub(crate) fn state_directory(dir: &Path) -> Result<(), String> {
    match std::fs::metadata(dir) {
        Ok(metadata) => judge(&metadata, has_list(dir)),
        Err(_) => Ok(()), // whoever uses it says so
    }
}

/// The same, of its owner alone.
///
/// # Errors
/// What is wrong with it and what to do.
pub(crate) fn owner_of(dir: &Path) -> Result<(), String> {
    std::fs::metadata(dir).map_or(Ok(()), |m| judge_owner(&m))
}

fn has_list(path: &Path) -> bool {
    rustix::fs::getxattr_query(path, ACL).is_ok()
}

fn judge_owner(metadata: &Metadata) -> Result<(), String> {
    let (owner, uid) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != 0 && owner != uid {
        return Err(format!(
            "it belongs to user {owner}, who could change what the agent runs: chown it to root or to the agent's user ({uid})"
        ));
    }
    Ok(())
}

/// `listed`: it has an access list.
fn judge(metadata: &Metadata, listed: bool) -> Result<(), String> {
    judge_owner(metadata)?;
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let mode = metadata.mode();
    if mode & 0o002 != 0 {
        return Err("everyone may write to it: chmod o-w".into());
    }
    // With a list, these bits are its mask: what the most of those whom it names may do.
    if mode & 0o020 != 0 && listed {
        return Err("its access list lets others write to it: setfacl -b it, or chmod g-w".into());
    }
    let group = metadata.gid();
    if mode & 0o020 != 0 && group != 0 && !(group == gid && own_group(gid, uid)) {
        return Err(format!("group {group} may write to it: chmod g-w"));
    }
    Ok(())
}

fn own_group(gid: u32, uid: u32) -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    nobody_else_in(gid, uid, &read("/etc/passwd"), &read("/etc/group"))
}

/// True if a group (passwd(5), group(5)) has this user and no other. A group or user that is not listed says nothing: false.
fn nobody_else_in(gid: u32, uid: u32, passwd: &str, group: &str) -> bool {
    let fields = |text: &str| -> Vec<Vec<String>> {
        let split = |line: &str| line.split(':').map(str::to_owned).collect();
        text.lines().map(split).collect()
    };
    let is = |field: Option<&String>, id: u32| field.is_some_and(|f| *f == id.to_string());
    let (users, groups) = (fields(passwd), fields(group));
    let Some(me) = users.iter().find(|u| is(u.get(2), uid)) else {
        return false;
    };
    let Some(found) = groups.iter().find(|g| is(g.get(2), gid)) else {
        return false;
    };
    let members = found.get(3).map_or("", String::as_str).split(',');
    let mut members = members.map(str::trim).filter(|m| !m.is_empty());
    let mut primary = users.iter().filter(|u| is(u.get(3), gid));
    members.all(|m| m == me[0]) && primary.all(|u| is(u.get(2), uid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::path::PathBuf;

    fn put(dir: &Path, name: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn refused(result: Result<File, Refusal>) -> String {
        result.unwrap_err().to_string()
    }

    /// Only root may give files away.
    fn is_root(what: &str) -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("SKIPPED, for it needs root: {what}");
        }
        root
    }

    #[test]
    fn what_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(&put(dir.path(), "liba.so", 0o755)).is_ok());
        let everyone = refused(open(&put(dir.path(), "libb.so", 0o777)));
        assert!(everyone.contains("everyone may write to it"), "{everyone}");
        if is_root("files of other users and groups are refused") {
            let path = put(dir.path(), "libc.so", 0o755);
            chown(&path, Some(12_345), None).unwrap();
            let foreign = refused(open(&path));
            assert!(foreign.contains("user 12345"), "{foreign}");
            let path = put(dir.path(), "libd.so", 0o775);
            assert!(open(&path).is_ok(), "root's group");
            chown(&path, None, Some(12_345)).unwrap();
            let group = refused(open(&path));
            assert!(group.contains("group 12345"), "{group}");
        }
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(directory(dir.path()), Ok(()));
        for mode in [0o777, 0o1777] {
            std::fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            let refused = directory(dir.path()).unwrap_err().to_string();
            assert!(refused.contains("its directory /"), "{refused}");
            assert!(refused.contains("chmod o-w"), "{refused}");
        }
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o775)).unwrap();
        if is_root("directories of other groups are refused") {
            chown(dir.path(), None, Some(12_345)).unwrap();
            let refused = directory(dir.path()).unwrap_err().to_string();
            assert!(refused.contains("group 12345 may write to it"), "{refused}");
        }
    }

    #[test]
    fn a_link_is_judged_by_what_it_points_to() {
        let dir = tempfile::tempdir().unwrap();
        let (good, bad) = (
            put(dir.path(), "good", 0o755),
            put(dir.path(), "bad", 0o777),
        );
        let to = |name: &str, target: &Path| {
            let link = dir.path().join(name);
            symlink(target, &link).unwrap();
            link
        };
        assert!(open(&to("to-good", &good)).is_ok());
        let refused = refused(open(&to("to-bad", &bad)));
        assert!(refused.contains("everyone"), "{refused}");
        assert_eq!(
            open(&to("to-dir", dir.path())).unwrap_err(),
            Refusal::NotARegularFile
        );
    }

    #[test]
    fn an_access_list_that_lets_others_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = put(dir.path(), "liba.so", 0o644);
        // acl(5) on disk: a version, then tag, permissions and id of each entry. `user::rw-`, `user:12345:rw-`, `group::r--`, `mask::rw-`, `other::r--`.
        let mut list = vec![2, 0, 0, 0];
        let nobody = u32::MAX;
        for (tag, may, id) in [
            (0x01_u16, 6_u16, nobody),
            (0x02, 6, 12_345),
            (0x04, 4, nobody),
            (0x10, 6, nobody),
            (0x20, 4, nobody),
        ] {
            list.extend(tag.to_le_bytes());
            list.extend(may.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        let set = |path: &Path| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(path, ACL, &list, flags).is_ok()
        };
        if !set(&path) {
            eprintln!("SKIPPED, for this file system has no access lists");
            return;
        }
        let shown = std::fs::metadata(&path).unwrap().mode() & 0o777;
        assert_eq!(shown, 0o664, "as if it were the group's");
        let refused = refused(open(&path));
        assert!(refused.contains("access list"), "{refused}");
        assert!(set(dir.path()));
        let refused = directory(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("access list"), "{refused}");
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(open(&path).is_ok(), "its mask lets nobody write");
    }

    #[test]
    fn a_group_of_ones_own_is_told_from_a_shared_one() {
        let passwd = "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:\nbob:x:1001:1001::/:\neve:x:1002:100::/:\nian:x:1003:100::/:\n";
        let group = "root:x:0:\nann:x:1000:ann\nbob:x:1001:ann\nusers:x:100:\n";
        assert!(nobody_else_in(1000, 1000, passwd, group));
        assert!(!nobody_else_in(1001, 1001, passwd, group), "ann is in it");
        assert!(!nobody_else_in(100, 1002, passwd, group), "ian's as well");
        assert!(!nobody_else_in(55, 1000, passwd, group), "nobody knows it");
        assert!(
            !nobody_else_in(1000, 77, passwd, group),
            "nobody knows them"
        );
    }
}
