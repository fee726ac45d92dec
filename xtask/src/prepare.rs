//! What has to be there before anything runs: Debian packages, npm and Python packages, the built dashboard, the built binaries.
//!
//! Everything is checked first and done only if it is missing, so that a second run starts at once. Nothing is installed silently: each command is printed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, bail};

use crate::root;

/// Prints a heading, so that a long run shows where it is.
pub fn heading(text: &str) {
    println!("\n\x1b[1m== {text}\x1b[0m");
}

/// Runs a command in `dir` with its output shown; fails if it fails.
pub fn run(dir: &Path, program: &str, args: &[&str]) -> anyhow::Result<()> {
    println!("$ {program} {}", args.join(" "));
    let mut command = Command::new(program);
    command.args(args).current_dir(dir);
    let status = as_from_a_shell(&mut command)
        .status()
        .with_context(|| format!("cannot start {program}; is it installed?"))?;
    if !status.success() {
        bail!("`{program} {}` failed ({status})", args.join(" "));
    }
    Ok(())
}

/// Without what cargo told us about our own package: build scripts (ring's) watch such variables, so that each change between `cargo …` and `cargo xtask …` would build
/// them anew, and all that stands on them.
pub fn as_from_a_shell(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let known = name.to_str().unwrap_or_default();
        if known.starts_with("CARGO_PKG_") || known.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs cargo with the toolchain that runs us.
pub fn cargo(args: &[&str]) -> anyhow::Result<()> {
    run(
        root(),
        &std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()),
        args,
    )
}

/// True if a program of this name is on the PATH or in sbin.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/usr/local/sbin"])
        .any(|dir| Path::new(dir).join(program).is_file())
}

/// Sees to it that the programs are there, installing Debian's packages where we may.
///
/// # Errors
/// Names the packages that a person has to install, where we may not.
pub fn debian_packages(wanted: &[(&str, &str)]) -> anyhow::Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    heading(&format!("Installing {}", missing.join(", ")));
    if !is_installed("apt-get") {
        bail!(
            "please install {} (this machine has no apt-get to do it with)",
            missing.join(", ")
        );
    }
    let install: Vec<&str> = ["install", "-y", "--no-install-recommends"]
        .into_iter()
        .chain(missing.iter().copied())
        .collect();
    let done =
        run(root(), "apt-get", &["update", "-q"]).and_then(|()| run(root(), "apt-get", &install));
    done.with_context(|| format!("please run: sudo apt-get install {}", missing.join(" ")))
}

/// Installs the dashboard's npm packages if the lock file is newer than what is installed.
pub fn npm_packages() -> anyhow::Result<()> {
    let web = root().join("web");
    if !is_installed("npm") {
        bail!(
            "the dashboard needs Node.js 20 or newer with npm; install it, or build without it: cargo build --release"
        );
    }
    let modified = |path: &Path| {
        path.metadata()
            .and_then(|m| m.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    if modified(&web.join("node_modules/.package-lock.json"))
        < modified(&web.join("package-lock.json"))
    {
        heading("Installing the dashboard's packages");
        run(&web, "npm", &["ci", "--no-audit", "--no-fund"])?;
    }
    Ok(())
}

/// Builds the dashboard into web/dist, where the collector's build picks it up, if a source is newer.
pub fn dashboard() -> anyhow::Result<()> {
    npm_packages()?;
    let web = root().join("web");
    let newest = |paths: &[&str]| paths.iter().map(|p| newest_below(&web.join(p))).max();
    let sources = newest(&[
        "src",
        "public",
        "index.html",
        "package-lock.json",
        "vite.config.ts",
    ]);
    let built = web
        .join("dist/index.html")
        .metadata()
        .and_then(|m| m.modified())
        .ok();
    if built < sources {
        heading("Building the dashboard");
        run(&web, "npm", &["run", "build"])?;
    }
    Ok(())
}

fn newest_below(path: &Path) -> SystemTime {
    let own = path
        .metadata()
        .and_then(|m| m.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let below = std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| newest_below(&e.path()));
    below.max().unwrap_or(own).max(own)
}

/// Programs of Python packages, in an environment of their own below the target folder: its folder of programs.
///
/// # Errors
/// There is no Python with venv, or a package can not be installed.
pub fn python_packages(name: &str, wanted: &[&str]) -> anyhow::Result<PathBuf> {
    let place = crate::target_dir().join(name);
    let (venv, mark) = (place.join("venv"), place.join("installed"));
    let programs = venv.join("bin");
    let list = wanted.join("\n");
    if std::fs::read_to_string(&mark).is_ok_and(|installed| installed == list) {
        return Ok(programs);
    }
    debian_packages(&[("python3", "python3-venv")])?;
    heading(&format!("Installing {}", wanted.join(", ")));
    std::fs::create_dir_all(&place)?;
    let text = |path: &Path| path.display().to_string();
    run(root(), "python3", &["-m", "venv", "--clear", &text(&venv)])
        .context("please install Python's venv (Debian: python3-venv)")?;
    let install: Vec<&str> = ["install", "--quiet", "--disable-pip-version-check"]
        .into_iter()
        .chain(wanted.iter().copied())
        .collect();
    run(root(), &text(&programs.join("pip")), &install)?;
    std::fs::write(mark, list)?;
    Ok(programs)
}
