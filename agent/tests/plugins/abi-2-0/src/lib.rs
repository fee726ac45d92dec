//! A plugin built for ABI 2.0: source `future`, one leaf.
#![allow(non_local_definitions)]

use abi_stable::{
    export_root_module,
    prefix_type::PrefixTypeTrait,
    std_types::{RResult, RStr, RString},
    type_level::downcasting::TD_Opaque,
};
use frozen::{
    AbiCollected, AbiNode, AbiSource, AbiSource_TO, BoxedSource, PluginModule, PluginModule_Ref,
};

struct Source(f64);

impl AbiSource for Source {
    fn describe(&self) -> RString {
        "[[metric]]\npath = '/rounds'\nunit = '1'\nkind = 'gauge'\nhelp = 'Rounds so far.'\n".into()
    }

    fn collect(&mut self) -> AbiCollected {
        self.0 += 1.0;
        AbiCollected {
            outcome: 0,
            reason: RString::new(),
            tree: vec![AbiNode::float("rounds", self.0)].into(),
        }
    }
}

extern "C" fn name() -> RString {
    "future".into()
}

extern "C" fn version() -> RString {
    env!("CARGO_PKG_VERSION").into()
}

extern "C" fn new(_config: RStr<'_>) -> RResult<BoxedSource, RString> {
    RResult::ROk(AbiSource_TO::from_value(Source(0.0), TD_Opaque))
}

extern "C" fn default_interval_ms() -> u64 {
    700
}

#[export_root_module]
fn root() -> PluginModule_Ref {
    PluginModule {
        name,
        version,
        new,
        default_interval_ms,
    }
    .leak_into_prefix()
}
