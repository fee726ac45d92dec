//! The plugin ABI as nobody may build it: 1.0 with a field more in the middle of a plain struct. Frozen: never edited to follow devmon-core, for it stands for binaries that are out in the world.
#![allow(non_local_definitions, non_camel_case_types)]

use abi_stable::{
    StableAbi,
    library::RootModule,
    sabi_trait,
    sabi_types::VersionStrings,
    std_types::{RBox, RResult, RStr, RString, RVec},
};

#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct AbiNode {
    pub name: RString,
    pub kind: u8,
    pub unit: RString,
    pub number: u64,
    pub text: RString,
    pub children: RVec<AbiNode>,
}

impl AbiNode {
    pub fn float(name: &str, value: f64) -> Self {
        Self {
            name: name.into(),
            kind: 1,
            unit: RString::new(),
            number: value.to_bits(),
            text: RString::new(),
            children: RVec::new(),
        }
    }
}

#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct AbiCollected {
    pub outcome: u8,
    pub reason: RString,
    pub tree: RVec<AbiNode>,
}

#[sabi_trait]
pub trait AbiSource: Send {
    fn describe(&self) -> RString;

    #[sabi(last_prefix_field)]
    fn collect(&mut self) -> AbiCollected;
}

pub type BoxedSource = AbiSource_TO<'static, RBox<()>>;

#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModule_Ref)))]
#[sabi(missing_field(panic))]
pub struct PluginModule {
    pub name: extern "C" fn() -> RString,
    pub version: extern "C" fn() -> RString,
    #[sabi(last_prefix_field)]
    pub new: extern "C" fn(RStr<'_>) -> RResult<BoxedSource, RString>,
}

impl RootModule for PluginModule_Ref {
    abi_stable::declare_root_module_statics! {PluginModule_Ref}
    const BASE_NAME: &'static str = "devmon_plugin";
    const NAME: &'static str = "devmon_plugin";
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.0.0");
}
