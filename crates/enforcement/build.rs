//! Takes out of the Lua libraries what Redis does not read, and hashes the rest: `EVALSHA` needs no SHA-1 in the wasm
//! modules, and these carry no comments.
#![expect(clippy::disallowed_methods, reason = "a build script hands over files; the crate itself does no I/O")]

use std::path::PathBuf;

const LIBRARIES: [(&str, &str); 4] = [
    ("aiquota", include_str!("src/redis/aiquota.lua")),
    ("limits", include_str!("src/redis/limits.lua")),
    ("overrides", include_str!("src/redis/overrides.lua")),
    ("loaded", include_str!("src/redis/loaded.lua")),
];

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    for (name, lua) in LIBRARIES {
        println!("cargo::rerun-if-changed=src/redis/{name}.lua");
        // No string of theirs has several lines.
        let lines = lua.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("--"));
        let lua: String = lines.flat_map(|line| [line, "\n"]).collect();
        std::fs::write(folder.join(format!("{name}.sha1")), sha1_smol::Sha1::from(&lua).digest().to_string())?;
        std::fs::write(folder.join(format!("{name}.lua")), lua)?;
    }
    Ok(())
}
