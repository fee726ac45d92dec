//! `cargo xtask new-plugin NAME`: a complete plugin that builds, passes fmt, clippy and its tests at once, and is then made into another one by its author.
//!
//! Its files are those of `xtask/templates/plugin`, with the name filled in. Inside the repository it becomes a member of the workspace; elsewhere it is a project of its own, which finds
//! devmon-core by path and begins with the repository's Cargo.lock, so that it builds with the versions that were tested here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::root;

/// With the prefix `libdevmon_plugin_` and the ending it is still a file name that people can read.
const MAX_NAME_BYTES: usize = 32;
/// Sources that the agent itself provides.
const RESERVED: [&str; 1] = ["agent"];

/// Where each file of a plugin comes from and goes to; Cargo.toml depends on the place.
const FILES: [(&str, &str); 5] = [
    ("src/lib.rs", include_str!("../templates/plugin/lib.rs")),
    (
        "metrics.toml",
        include_str!("../templates/plugin/metrics.toml"),
    ),
    ("README.md", include_str!("../templates/plugin/README.md")),
    (
        "tests/promises.rs",
        include_str!("../templates/plugin/promises.rs"),
    ),
    (
        "tests/fixture/uptime",
        include_str!("../templates/plugin/uptime"),
    ),
];
const CARGO_INSIDE: &str = include_str!("../templates/plugin/Cargo.inside.toml");
const CARGO_OUTSIDE: &str = include_str!("../templates/plugin/Cargo.outside.toml");
const GITIGNORE: &str = include_str!("../templates/plugin/gitignore");
const CLIPPY: &str = include_str!("../templates/plugin/clippy.toml");

#[derive(Args)]
pub struct NewPlugin {
    /// The source's name, first level of its paths: a-z, 0-9 and single '-'
    name: String,
    /// Where to put the folder NAME [default: plugins/ of the repository]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl NewPlugin {
    pub fn run(self) -> anyhow::Result<()> {
        let made = make(root(), &self.name, self.out.as_deref())?;
        let (name, place) = (&self.name, made.place.display());
        let library = format!(
            "target/release/libdevmon_plugin_{}.so",
            name.replace('-', "_")
        );
        if made.is_member {
            println!("made {place} and added it to the workspace. Next:");
        } else {
            println!("made {place}. Next, there:");
        }
        println!("  cargo test -p devmon-plugin-{name}");
        println!("  edit src/lib.rs, metrics.toml and README.md; the tests hold them together");
        println!("  cargo build --release -p devmon-plugin-{name}");
        println!("  devmon-agent check-plugin {library}");
        Ok(())
    }
}

/// A plugin that was made.
#[derive(Debug)]
pub struct Made {
    pub place: PathBuf,
    pub is_member: bool,
}

/// Makes a plugin for the repository at `root`. Nothing is written before all is known to be good.
///
/// # Errors
/// A name that is bad or taken, a folder that is there already, or what could not be written.
pub fn make(root: &Path, name: &str, out: Option<&Path>) -> anyhow::Result<Made> {
    check_name(name)?;
    let root = fs::canonicalize(root)?;
    let out = match out {
        Some(out) => {
            fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
            fs::canonicalize(out)?
        }
        None => root.join("plugins"),
    };
    let place = out.join(name);
    ensure!(
        !place.exists(),
        "{} is there already; choose another name, or remove it",
        place.display()
    );

    let manifest = root.join("Cargo.toml");
    let workspace =
        fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    let members = members(&workspace)?;
    for member in &members {
        let theirs = fs::read_to_string(root.join(member).join("Cargo.toml")).unwrap_or_default();
        if theirs.contains(&format!("name = \"devmon-plugin-{name}\"")) {
            bail!(
                "the name {name:?} is taken by {member}; of two plugins with one name an agent runs the first only"
            );
        }
    }

    let member = place
        .strip_prefix(&root)
        .ok()
        .map(|p| p.display().to_string());
    let core = root.join("devmon-core");
    let filled = |text: &str| {
        text.replace("{{name}}", name)
            .replace("{{crate}}", &name.replace('-', "_"))
            .replace("{{rust}}", env!("CARGO_PKG_RUST_VERSION"))
            .replace("{{core}}", &format!("{:?}", core.display().to_string()))
    };
    let write = |file: &str, text: &str| -> anyhow::Result<()> {
        let path = place.join(file);
        fs::create_dir_all(path.parent().unwrap_or(&place))
            .and_then(|()| fs::write(&path, filled(text)))
            .with_context(|| format!("cannot write {}", path.display()))
    };
    for (file, text) in FILES {
        write(file, text)?;
    }
    match &member {
        Some(member) => {
            write("Cargo.toml", CARGO_INSIDE)?;
            let text = with_member(&workspace, &members, member)?;
            fs::write(&manifest, text).with_context(|| manifest.display().to_string())?;
        }
        None => {
            write("Cargo.toml", CARGO_OUTSIDE)?;
            write(".gitignore", GITIGNORE)?;
            write("clippy.toml", CLIPPY)?;
            let lock = root.join("Cargo.lock");
            fs::copy(&lock, place.join("Cargo.lock"))
                .with_context(|| lock.display().to_string())?;
        }
    }
    Ok(Made {
        place,
        is_member: member.is_some(),
    })
}

/// A name that is a package's, a file's and a path's at once.
fn check_name(name: &str) -> anyhow::Result<()> {
    let is_legal = name.len() <= MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.contains("--")
        && !name.ends_with('-');
    ensure!(
        is_legal,
        "{name:?} is no plugin name: 1 to {MAX_NAME_BYTES} of a-z, 0-9 and single '-', beginning with a letter, such as \"disk-health\""
    );
    ensure!(
        !RESERVED.contains(&name),
        "the name {name:?} is taken: it is the agent's own source"
    );
    Ok(())
}

/// The workspace's members, in their order.
fn members(manifest: &str) -> anyhow::Result<Vec<String>> {
    let lines = manifest
        .lines()
        .map(str::trim)
        .skip_while(|l| *l != "members = [");
    let lines = lines.skip(1).take_while(|l| *l != "]");
    let members: Vec<_> = lines
        .filter_map(|l| Some(l.strip_prefix('"')?.split_once('"')?.0.to_owned()))
        .collect();
    ensure!(
        !members.is_empty(),
        "Cargo.toml has no list of members with one on each line"
    );
    Ok(members)
}

/// The manifest with a member more, after the last of the same folder.
fn with_member(manifest: &str, members: &[String], member: &str) -> anyhow::Result<String> {
    let folder = |m: &str| m.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let neighbour = members.iter().rev().find(|m| folder(m) == folder(member));
    let after = neighbour.or(members.last()).context("no members")?;
    let line = format!("    \"{after}\",\n");
    let at = manifest
        .find(&line)
        .with_context(|| format!("no line with {after:?} in Cargo.toml"))?;
    let (before, rest) = manifest.split_at(at + line.len());
    Ok(format!("{before}    \"{member}\",\n{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with two members.
    fn repository() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let manifest = "[workspace]\nmembers = [\n    \"devmon-core\",\n    \"plugins/cpu\",\n    \"agent\",\n]\n";
        fs::write(dir.path().join("Cargo.toml"), manifest).unwrap();
        fs::write(dir.path().join("Cargo.lock"), "# locked\n").unwrap();
        fs::create_dir_all(dir.path().join("plugins/cpu")).unwrap();
        let cpu = dir.path().join("plugins/cpu/Cargo.toml");
        fs::write(cpu, "[package]\nname = \"devmon-plugin-cpu\"\n").unwrap();
        dir
    }

    #[test]
    fn a_bad_or_taken_name_is_refused_and_nothing_is_written() {
        let repository = repository();
        let root = repository.path();
        let before = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        for (name, part) in [
            ("", "no plugin name"),
            ("Disk", "no plugin name"),
            ("a--b", "no plugin name"),
            ("a-", "no plugin name"),
            ("../x", "no plugin name"),
            ("1wire", "no plugin name"),
            (&"x".repeat(33), "no plugin name"),
            ("cpu", "there already"),
            ("agent", "the agent's own"),
        ] {
            let error = make(root, name, None).unwrap_err().to_string();
            assert!(error.contains(part), "{name}: {error}");
        }
        let out = tempfile::tempdir().unwrap();
        let error = make(root, "cpu", Some(out.path())).unwrap_err().to_string();
        assert!(error.contains("taken by plugins/cpu"), "{error}");
        assert_eq!(fs::read_to_string(root.join("Cargo.toml")).unwrap(), before);
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
    }

    #[test]
    fn inside_the_repository_it_is_a_member_beside_its_like() {
        let repository = repository();
        let root = repository.path();
        let made = make(root, "disk-health", None).unwrap();
        assert!(made.is_member && made.place.ends_with("plugins/disk-health"));
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        let expected = "    \"plugins/cpu\",\n    \"plugins/disk-health\",\n    \"agent\",\n]\n";
        assert!(manifest.ends_with(expected), "{manifest}");
        let cargo = fs::read_to_string(made.place.join("Cargo.toml")).unwrap();
        assert!(cargo.contains("edition.workspace = true"), "{cargo}");
        assert!(!made.place.join("Cargo.lock").exists());
        assert!(make(root, "disk-health", None).is_err(), "twice");
    }

    #[test]
    fn no_placeholder_is_left() {
        let (repository, out) = (repository(), tempfile::tempdir().unwrap());
        let made = make(repository.path(), "disk-health", Some(out.path())).unwrap();
        assert!(!made.is_member);
        for file in FILES
            .map(|(file, _)| file)
            .iter()
            .chain(&["Cargo.toml", ".gitignore"])
        {
            let text = fs::read_to_string(made.place.join(file)).unwrap();
            for mark in ["{{name", "{{crate", "{{core", "{{rust"] {
                assert!(!text.contains(mark), "{file}: {text}");
            }
        }
    }
}
