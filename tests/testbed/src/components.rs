//! Where built components are kept, and how they are found or built.

use std::path::PathBuf;

/// The folder for what is built once and kept: `$AIQUOTA_CACHE`, else `aiquota` in the user's cache folder.
pub fn cache_dir() -> PathBuf {
    if let Some(folder) = std::env::var_os("AIQUOTA_CACHE") {
        return folder.into();
    }
    let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let caches = caches.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    caches.unwrap_or_else(std::env::temp_dir).join("aiquota")
}
