//! From a file to a plugin: dlopen, the verdict on its ABI, and safe calls into it. With two calls in `footprint`, the only unsafe code of the agent.
//!
//! **Takes** a path. **Gives** a [`Plugin`], from which sources are made, or a [`Refusal`] that says in one line what is wrong and what to do. Loading runs
//! the library's own initialisers in this process; a file that is no whole library for this machine is refused before that ([`elf`](super::elf)).
//!
//! A library is never unloaded: threads of it, thread-local destructors and texts that it owns may outlive any source, and there is no sound way to know
//! (rust-lang/rust#59629). abi_stable makes the same choice. So each file costs its pages once, for as long as the agent runs.
//!
//! `RootModule::load_from_file` is not used: it opens lazily, so that a missing symbol ends the process at the first call; it keeps the first library of a type for every later
//! file; and it checks the layout in one direction only, which refuses every plugin older than the agent. `docs/decisions/0001-both-way-layout-check.md` says why the check here is sound.

#![expect(
    unsafe_code,
    reason = "dlopen and calls through a plugin's function pointers can not be checked by the compiler"
)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::{AbiInstability, check_layout_compatibility};
use abi_stable::library::{AbiHeaderRef, LibHeader, ROOT_MODULE_LOADER_NAME_WITH_NUL};
use abi_stable::type_layout::TypeLayout;
use devmon_core::abi::{ABI_MAJOR, ABI_MINOR, c, source as rust};
use devmon_core::descriptor::{self, Descriptor};
use devmon_core::path::check_name;
use devmon_core::wire::json::tree_from_json;
use devmon_core::{CollectError, MetricTree};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::elf;
use super::supervise::cut;

/// Which interface a plugin was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Abi {
    Rust { major: u32, minor: u32 },
    C(u32),
}

impl fmt::Display for Abi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rust { major, minor } => write!(f, "Rust plugin ABI {major}.{minor}"),
            Self::C(version) => write!(f, "C plugin ABI {version}"),
        }
    }
}

/// Why a file is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    #[error("not a regular file")]
    NotARegularFile,
    #[error("cannot be opened: {0}")]
    Unreadable(String),
    /// Not a whole library for this machine.
    #[error("{0}")]
    NotALibrary(String),
    /// A script that nobody may run, by its path.
    #[error("not executable: chmod +x {0}")]
    NotExecutable(String),
    /// The dynamic loader's words.
    #[error("cannot be loaded: {0}")]
    Dlopen(String),
    #[error("not a plugin: it has neither the Rust nor the C entry")]
    NoEntry,
    /// An ABI number or abi_stable version that this agent does not speak.
    #[error("built for ABI {built}, this agent has {ours}: rebuild the plugin or update the agent")]
    OtherAbi { built: String, ours: String },
    /// The same major version, but the types differ: not built from a released devmon-core.
    #[error(
        "its types differ from this agent's ({0}): rebuild the plugin with a released devmon-core"
    )]
    Layout(String),
    #[error("lacks the function {0}")]
    MissingFunction(String),
    #[error("its source name is not legal: {0}")]
    Name(String),
    /// Whoever may write to the file is not trusted.
    #[error("{0}")]
    Untrusted(String),
    /// More than a plugin may have, in bytes.
    #[error(
        "larger than {} MiB, which is no plugin's size: run it from a small script", .0 >> 20
    )]
    TooLarge(u64),
    /// Its host ended or did not answer.
    #[error("{0}")]
    Crashed(String),
    /// A good plugin whose source name is taken.
    #[error("source name {name:?} is already taken by {by}")]
    Duplicate { name: String, by: String },
}

impl Refusal {
    /// True for what may be otherwise the next time although the file is the same: a busy machine, something that it lacks. What a file *is* does not pass.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Crashed(_) | Self::Unreadable(_))
    }
}

/// A loaded library from which sources of one name can be made.
#[derive(Clone)]
pub struct Plugin {
    /// First segment of its paths.
    pub name: String,
    /// The plugin's own version; the C entry has none.
    pub version: Option<String>,
    pub abi: Abi,
    /// The interval that suits it, if it has an opinion.
    pub preferred_interval: Option<Duration>,
    /// What was loaded.
    pub path: PathBuf,
    entry: Entry,
}

#[derive(Clone)]
enum Entry {
    Rust(rust::PluginModule_Ref),
    C(CFunctions),
}

#[derive(Clone, Copy)]
struct CFunctions {
    new: c::NewFn,
    collect: c::CollectFn,
    free: c::FreeFn,
    drop: c::DropFn,
    describe: Option<c::DescribeFn>,
    error: Option<c::ErrorFn>,
}

/// What a round brought.
#[derive(Debug)]
pub enum Round {
    /// A tree as the plugin built it, not yet checked, and the number of values of kinds that this agent does not know.
    Tree(MetricTree, usize),
    NoData,
    Unavailable(String),
    Failed(String),
    /// The source must not be used again.
    Panicked(String),
}

/// A running source of some plugin. Used by one thread at a time.
pub enum LoadedSource {
    Rust(rust::BoxedSource),
    C(CSource),
}

/// A source behind the C entry.
pub struct CSource {
    functions: CFunctions,
    handle: *mut c_void,
}

// SAFETY: the contract of the C entry (devmon_core::abi::c) asks for calls from one thread at a time, not for one and the same thread; `CSource` is not Sync
// and all calls but the descriptive ones take `&mut self`.
unsafe impl Send for CSource {}

/// Loads a file.
///
/// # Errors
/// [`Refusal`].
pub fn load(path: &Path) -> Result<Plugin, Refusal> {
    load_as(path, None)
}

/// The same for a copy of a file: a C plugin is named after the file with this name.
///
/// # Errors
/// [`Refusal`].
pub fn load_as(path: &Path, named: Option<&str>) -> Result<Plugin, Refusal> {
    let metadata = std::fs::metadata(path).map_err(|e| Refusal::Unreadable(e.to_string()))?;
    if !metadata.is_file() {
        return Err(Refusal::NotARegularFile); // opening a FIFO would block
    }
    let mut file = File::open(path).map_err(|e| Refusal::Unreadable(e.to_string()))?;
    elf::check(&mut file).map_err(Refusal::NotALibrary)?;
    // An absolute path: dlopen would look a bare name up in the system's directories.
    let path = std::path::absolute(path).map_err(|e| Refusal::Unreadable(e.to_string()))?;

    // SAFETY: this runs the library's initialisers, which is what loading a plugin means: whoever may write to the plugin directory is trusted as
    // much as the agent's own binary. RTLD_NOW turns a missing symbol into an error here; RTLD_LOCAL keeps plugins' equal symbols apart.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|e| Refusal::Dlopen(dlerror_text(&e, &path)))?;
    let library: &'static Library = Box::leak(Box::new(library));

    // SAFETY: abi_stable exports under this name a static whose first part is an AbiHeader; `upgrade` reads no more than that part before it has seen the magic text in it.
    let header =
        unsafe { library.get::<AbiHeaderRef>(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes()) };
    if let Ok(header) = header {
        return rust_plugin(*header, path);
    }
    // SAFETY: the name is ours, and its type is fixed by the C entry's contract.
    let abi = unsafe { library.get::<c::AbiFn>(c::ABI_SYMBOL) };
    match abi {
        Ok(abi) => {
            let named = named.map_or_else(|| path.clone(), PathBuf::from);
            c_plugin(library, *abi, &named, path)
        }
        Err(_) => Err(Refusal::NoEntry),
    }
}

fn rust_plugin(header: AbiHeaderRef, path: PathBuf) -> Result<Plugin, Refusal> {
    let other = |built: &str| Refusal::OtherAbi {
        built: built.to_owned(),
        ours: format!("{ABI_MAJOR}.{ABI_MINOR}"),
    };
    let header: &'static LibHeader = header.upgrade().map_err(|_| other("another abi_stable"))?;
    let stated = header.version_strings().version.as_str();
    let mut numbers = stated.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(other(stated));
    };
    if major != ABI_MAJOR {
        return Err(other(&format!("{major}.{minor}")));
    }
    let theirs = header
        .layout()
        .ok_or_else(|| Refusal::Layout("it carries no layout".into()))?;
    check_both_ways(<rust::PluginModule_Ref as StableAbi>::LAYOUT, theirs)?;
    // SAFETY: the layouts were compared, and one is a prefix of the other: see check_both_ways.
    let module = unsafe { header.unchecked_layout::<rust::PluginModule_Ref>() }
        .map_err(|e| Refusal::Dlopen(format!("its root module failed: {e}")))?;

    let name = module.name()().into_string();
    check_name(&name).map_err(|e| Refusal::Name(e.to_string()))?;
    let preferred_ms = module.default_interval_ms().map_or(0, |f| f()); // absent before minor 1
    Ok(Plugin {
        name,
        version: Some(module.version()().into_string()),
        abi: Abi::Rust { major, minor },
        preferred_interval: (preferred_ms > 0).then(|| Duration::from_millis(preferred_ms)),
        path,
        entry: Entry::Rust(module),
    })
}

/// Accepts a plugin whose root module is a prefix of ours (older) or of which ours is a prefix (newer, or of the same age).
///
/// Missing fields of an older plugin read as absent and missing methods run their default body, as long as the growth rules of `devmon_core::abi` are kept.
fn check_both_ways(ours: &'static TypeLayout, theirs: &'static TypeLayout) -> Result<(), Refusal> {
    let newer = one_way(ours, theirs);
    if newer.is_ok() || one_way(theirs, ours).is_ok() {
        return Ok(());
    }
    newer.map_err(Refusal::Layout)
}

/// abi_stable's check, but for the package versions: it takes devmon-core 0.1 and 0.2 for different types, whatever their layout. Our own number, compared above, says what fits.
fn one_way(interface: &'static TypeLayout, other: &'static TypeLayout) -> Result<(), String> {
    let Err(errors) = check_layout_compatibility(interface, other) else {
        return Ok(());
    };
    let version_only = |e: &AbiInstability| matches!(e, AbiInstability::PackageVersion(_));
    if errors.errors.iter().flat_map(|e| &e.errs).all(version_only) {
        return Ok(());
    }
    // The whole text has some 20 KB: every layout on the way. Its first "Error:" block that is not about versions says what differs.
    let text = errors.to_string();
    let block = text
        .split("\nError:")
        .skip(1)
        .find(|block| !block.starts_with("incompatible package versions"));
    let lines = block.unwrap_or("its layout").lines().map(str::trim);
    let first: Vec<_> = lines.take_while(|l| !l.is_empty()).take(6).collect();
    Err(first.join(" "))
}

fn c_plugin(
    library: &'static Library,
    abi: c::AbiFn,
    named: &Path,
    path: PathBuf,
) -> Result<Plugin, Refusal> {
    // SAFETY: a function without arguments, of the type that the contract fixes.
    let version = unsafe { abi() };
    if version != c::C_ABI {
        return Err(Refusal::OtherAbi {
            built: format!("C {version}"),
            ours: format!("C {}", c::C_ABI),
        });
    }
    let name = name_from_file(named);
    check_name(&name).map_err(|e| Refusal::Name(e.to_string()))?;
    // SAFETY: all six: the names are ours and their types are fixed by the contract of ABI 1, which the library has just claimed to keep.
    let functions = unsafe {
        CFunctions {
            new: required(library, c::NEW_SYMBOL, "devmon_plugin_new")?,
            collect: required(library, c::COLLECT_SYMBOL, "devmon_plugin_collect")?,
            free: required(library, c::FREE_SYMBOL, "devmon_plugin_free")?,
            drop: required(library, c::DROP_SYMBOL, "devmon_plugin_drop")?,
            describe: library.get(c::DESCRIBE_SYMBOL).ok().map(|s| *s),
            error: library.get(c::ERROR_SYMBOL).ok().map(|s| *s),
        }
    };
    Ok(Plugin {
        name,
        version: None,
        abi: Abi::C(version),
        preferred_interval: None,
        path,
        entry: Entry::C(functions),
    })
}

/// The functions of the C entry that a library lacks, all of them. Loads it, as [`load`] does; empty if it can not be loaded.
#[must_use]
pub fn missing_c_functions(path: &Path) -> Vec<&'static str> {
    const REQUIRED: [(&[u8], &str); 5] = [
        (c::ABI_SYMBOL, "devmon_plugin_abi"),
        (c::NEW_SYMBOL, "devmon_plugin_new"),
        (c::COLLECT_SYMBOL, "devmon_plugin_collect"),
        (c::FREE_SYMBOL, "devmon_plugin_free"),
        (c::DROP_SYMBOL, "devmon_plugin_drop"),
    ];
    let Ok(path) = std::path::absolute(path) else {
        return Vec::new();
    };
    // SAFETY: as in `load`: whoever asks trusts the library to run.
    let Ok(library) = (unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }) else {
        return Vec::new();
    };
    let library: &'static Library = Box::leak(Box::new(library));
    let lacks = |symbol: &[u8]| {
        // SAFETY: the address is looked up and not used.
        unsafe { library.get::<c::AbiFn>(symbol) }.is_err()
    };
    let missing = REQUIRED.iter().filter(|(symbol, _)| lacks(symbol));
    missing.map(|(_, name)| *name).collect()
}

/// # Safety
/// `T` must be the type of the function `symbol`.
unsafe fn required<T: Copy>(
    library: &'static Library,
    symbol: &[u8],
    name: &'static str,
) -> Result<T, Refusal> {
    // SAFETY: as the caller promises.
    unsafe { library.get::<T>(symbol) }
        .map(|s| *s)
        .map_err(|_| Refusal::MissingFunction(name.to_owned()))
}

/// `libx.so`, `libdevmon_x.so` and `libdevmon_plugin_x.so` give `x`.
pub(super) fn name_from_file(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let stem = stem.strip_prefix("lib").unwrap_or(&stem);
    let ours = ["devmon_plugin_", "devmon_"];
    let name = ours.iter().find_map(|ours| stem.strip_prefix(ours));
    name.unwrap_or(stem).to_owned()
}

/// libloading's own text is only "dlopen failed"; the reason is in the source. The loader's text starts with the path, which the reader already has.
fn dlerror_text(error: &libloading::Error, path: &Path) -> String {
    let text =
        std::error::Error::source(error).map_or_else(|| error.to_string(), |s| s.to_string());
    let text = text.trim_matches('"');
    let prefix = format!("{}: ", path.display());
    text.strip_prefix(&prefix).unwrap_or(text).to_owned()
}

impl Plugin {
    /// Starts a source. `config` is a JSON object as text. Blocks for as long as the plugin's constructor does.
    ///
    /// # Errors
    /// The plugin's words.
    pub fn start(&self, config: &str) -> Result<LoadedSource, String> {
        match &self.entry {
            Entry::Rust(module) => module.new()(config.into())
                .into_result()
                .map(LoadedSource::Rust)
                .map_err(|e| e.into_string()),
            Entry::C(functions) => CSource::start(*functions, config).map(LoadedSource::C),
        }
    }
}

impl LoadedSource {
    /// One round. Blocks for as long as the plugin does.
    pub fn collect(&mut self) -> Round {
        let error = match self {
            Self::Rust(source) => {
                let collected = source.collect();
                if collected.outcome == rust::outcome::PANICKED {
                    return Round::Panicked(cut(&collected.reason).into_owned());
                }
                match rust::tree_from_collected(collected) {
                    Ok((tree, unknown)) => return Round::Tree(tree, unknown),
                    Err(e) => e,
                }
            }
            Self::C(source) => match source.collect() {
                Ok(tree) => return Round::Tree(tree, 0),
                Err(e) => e,
            },
        };
        match error {
            CollectError::NoData => Round::NoData,
            CollectError::Unavailable(reason) => Round::Unavailable(cut(&reason).into_owned()),
            CollectError::Failed(reason) => Round::Failed(cut(&reason).into_owned()),
        }
    }

    /// One round of a C source as the text that it gave; `None` for a Rust source, for NULL, and for what is not UTF-8.
    pub fn collect_text(&mut self) -> Option<String> {
        let Self::C(source) = self else {
            return None;
        };
        // SAFETY: as in `CSource::collect`: its own handle, a NUL-terminated text that is copied and then freed once.
        unsafe {
            let text = (source.functions.collect)(source.handle);
            if text.is_null() {
                return None;
            }
            let copy = CStr::from_ptr(text).to_str().map(str::to_owned);
            (source.functions.free)(text);
            copy.ok()
        }
    }

    /// What its metrics mean, below the source's own name.
    ///
    /// # Errors
    /// What is wrong with the plugin's text.
    pub fn descriptors(&self) -> Result<Vec<Descriptor>, String> {
        match self {
            Self::Rust(source) => {
                let text = source.describe();
                descriptor::parse_toml(&text).map_err(|e| e.to_string())
            }
            Self::C(source) => match source.text(source.functions.describe) {
                Some(text) => descriptor::parse_json(&text?).map_err(|e| e.to_string()),
                None => Ok(Vec::new()),
            },
        }
    }

    /// Facts that do not change while it runs; empty for plugins that have none to say.
    #[must_use]
    pub fn facts(&self) -> serde_json::Map<String, serde_json::Value> {
        match self {
            // Before minor 1 the method is missing, and the default body answers.
            Self::Rust(source) => serde_json::from_str(&source.facts()).unwrap_or_default(),
            Self::C(_) => serde_json::Map::new(),
        }
    }
}

/// Of a C plugin that made no source and did not say why.
pub const NO_REASON: &str = "devmon_plugin_new returned NULL";

impl CSource {
    fn start(functions: CFunctions, config: &str) -> Result<Self, String> {
        let config = CString::new(config).map_err(|_| "its configuration has a NUL character")?;
        // SAFETY: a NUL-terminated text that outlives the call.
        let handle = unsafe { (functions.new)(config.as_ptr()) };
        let source = Self { functions, handle };
        if handle.is_null() {
            let said = source.text(functions.error);
            return Err(said
                .and_then(Result::ok)
                .map_or_else(|| NO_REASON.into(), |said| cut(&said).into_owned()));
        }
        Ok(source)
    }

    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        // SAFETY: the handle came from this library's `new` and is not dropped; `&mut self` keeps calls apart.
        let text = unsafe { (self.functions.collect)(self.handle) };
        if text.is_null() {
            return Err(match self.text(self.functions.error) {
                None => CollectError::NoData,
                Some(Ok(reason) | Err(reason)) => CollectError::Failed(reason),
            });
        }
        // SAFETY: the contract: NUL-terminated, and alive until it is freed below.
        let tree = match unsafe { CStr::from_ptr(text) }.to_str() {
            Ok(json) => tree_from_json(json).map_err(CollectError::failed),
            Err(e) => Err(CollectError::Failed(format!("its JSON is not UTF-8: {e}"))),
        };
        // SAFETY: `collect` gave it, it is freed once, and nothing borrows it any more.
        unsafe { (self.functions.free)(text) };
        tree
    }

    /// Asks an optional function for a text that the plugin owns. `None`: no such function, or NULL.
    fn text(
        &self,
        function: Option<unsafe extern "C" fn(*mut c_void) -> *const c_char>,
    ) -> Option<Result<String, String>> {
        // SAFETY: the handle is this library's own, or NULL after a failed `new`, which the contract allows for `error`.
        let text = unsafe { function?(self.handle) };
        if text.is_null() {
            return None;
        }
        // SAFETY: the contract: NUL-terminated, valid until the next call; it is copied at once.
        let text = unsafe { CStr::from_ptr(text) };
        Some(match text.to_str() {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err("its text is not UTF-8".into()),
        })
    }
}

impl Drop for CSource {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: it came from `new`, and this is the last use.
            unsafe { (self.functions.drop)(self.handle) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_c_plugin_is_named_by_its_file() {
        for (file, name) in [
            ("/p/libdevmon_x.so", "x"),
            ("/p/libdevmon_plugin_x.so", "x"),
            ("/p/libplugin_x.so", "plugin_x"),
            ("libx.so", "x"),
            ("/p/libtank-level.so", "tank-level"),
        ] {
            assert_eq!(name_from_file(Path::new(file)), name);
        }
    }

    #[test]
    fn what_is_no_regular_file_is_never_opened() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).err(), Some(Refusal::NotARegularFile));
        assert!(matches!(
            load(&dir.path().join("libnone.so")),
            Err(Refusal::Unreadable(_))
        ));
    }
}
