//! Hashes the Lua library, so that `EVALSHA` needs no SHA-1 in the wasm modules.

const LUA: &[u8] = include_bytes!("src/redis/aiquota.lua");

fn main() {
    println!("cargo::rerun-if-changed=src/redis/aiquota.lua");
    println!("cargo::rustc-env=AIQUOTA_LUA_SHA1={}", sha1_smol::Sha1::from(LUA).digest());
}
