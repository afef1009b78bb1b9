//! The WasmPlugins as they should be written, given which balances are in Redis. Pure.

use std::sync::Arc;

use api::WasmPlugin;

pub const GUARD: &str = "aiquota-guard";
pub const AI_QUOTA: &str = "aiquota-ai-quota";

/// What is to be written, in this order.
pub struct Program {
    pub plugins: Vec<PluginWrite>,
    /// For each verdict, whether each of its targets has its rule.
    pub(crate) rules: Vec<Vec<bool>>,
}

/// One WasmPlugin in the gateway's namespace.
pub struct PluginWrite {
    pub name: &'static str,
    /// As it is; to be replaced with its resourceVersion.
    pub found: Option<Arc<WasmPlugin>>,
    /// As it should be, with the foreign metadata of what was found; `None`: it should not be.
    pub wanted: Option<WasmPlugin>,
}

impl PluginWrite {
    /// Whether what was found means something else than what is wanted.
    #[must_use]
    pub fn differs(&self) -> bool {
        match (&self.found, &self.wanted) {
            (None, None) => false,
            (Some(found), Some(wanted)) => found.spec != wanted.spec || found.metadata.labels != wanted.metadata.labels,
            (Some(_), None) | (None, Some(_)) => true,
        }
    }
}
