//! Hashes the Lua libraries, so that `EVALSHA` needs no SHA-1 in the wasm modules.
#![expect(clippy::disallowed_methods, reason = "a build script hands over files; the crate itself does no I/O")]

use std::path::PathBuf;

const LIBRARIES: [(&str, &[u8]); 3] = [
    ("aiquota", include_bytes!("src/redis/aiquota.lua")),
    ("limits", include_bytes!("src/redis/limits.lua")),
    ("overrides", include_bytes!("src/redis/overrides.lua")),
];

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    for (name, lua) in LIBRARIES {
        println!("cargo::rerun-if-changed=src/redis/{name}.lua");
        std::fs::write(folder.join(format!("{name}.sha1")), sha1_smol::Sha1::from(lua).digest().to_string())?;
    }
    Ok(())
}
