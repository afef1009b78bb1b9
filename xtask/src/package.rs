//! `cargo xtask package`: each module as an OCI image layout, as Higress loads it: one layer, a compressed archive with
//! `plugin.wasm`. Written, read back from the index on, and compared. The same module gives the same digests.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use flate2::{Compression, GzBuilder, read::GzDecoder};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::modules::{self, MODULES};
use crate::run::{root, say_done, target};

const FILE: &str = "plugin.wasm";
const BLOCK: usize = 512;
const VERSION: &str = env!("CARGO_PKG_VERSION");
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// What the chart's modules have as checksum, and its image as digest, unless the values say otherwise.
const DIGESTS: &str = "charts/aiquota/digests.yaml";
/// In the repository nothing is recorded: what is built from it is not what was released.
const UNRELEASED: &str =
    "# Digests of the released manifests, of image and modules: `cargo xtask package --record --image <digest>`.\n";

/// Builds the modules and packs them; `record`: also writes their checksums into the chart, and the digest of the
/// published image.
pub(crate) fn package(record: bool, image: Option<&str>) -> Result<()> {
    let mut digests = UNRELEASED.to_owned();
    if let Some(image) = image {
        digests.push_str(&format!("aiquota: {}\n", hexadecimal(image)?));
    }
    modules::modules()?;
    for (_, name) in MODULES {
        let module = fs::read(target().join("modules").join(name).with_extension("wasm"))?;
        let layout = target().join("package").join(name);
        if layout.exists() {
            fs::remove_dir_all(&layout)?;
        }
        let manifest = write(&layout, name, &module)?;
        ensure!(read(&layout)? == module, "{name} is not what was packed");
        let shown = layout.strip_prefix(root()).unwrap_or(&layout).display().to_string();
        say_done(&format!("{shown}:{VERSION}  sha256:{manifest}"));
        digests.push_str(&format!("{name}: {manifest}\n"));
    }
    if record {
        fs::write(root().join(DIGESTS), digests)?;
        say_done(DIGESTS);
    }
    Ok(())
}

/// The digits of a digest. A tag would name another image tomorrow.
fn hexadecimal(digest: &str) -> Result<&str> {
    let digits = digest
        .strip_prefix("sha256:")
        .filter(|digits| digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
    digits.with_context(|| format!("{digest} is not sha256: and 64 hexadecimal digits"))
}

/// Returns the digest of the manifest, which is what a gateway compares with a WasmPlugin's sha256.
fn write(layout: &Path, name: &str, module: &[u8]) -> Result<String> {
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    let archive = archive(module)?;
    let mut packed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    packed.write_all(&archive)?;
    let layer = blob(layout, LAYER, &packed.finish()?)?;
    let config = json!({
        "architecture": "wasm", "os": "wasip1", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&archive))]},
    });
    let config = blob(layout, CONFIG, &serde_json::to_vec(&config)?)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
        "annotations": {
            "module.wasm.image/variant": "compat",
            "org.opencontainers.image.title": name,
            "org.opencontainers.image.version": VERSION,
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    });
    let manifest = serde_json::to_vec(&manifest)?;
    let mut entry = blob(layout, MANIFEST, &manifest)?;
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": VERSION});
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    Ok(sha256(&manifest))
}

/// Stores content by its digest, and describes it.
fn blob(layout: &Path, media_type: &str, content: &[u8]) -> Result<Value> {
    let digest = sha256(content);
    fs::write(layout.join("blobs/sha256").join(&digest), content)?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len()}))
}

/// The module in a layout, found as a gateway finds it: in the last layer.
fn read(layout: &Path) -> Result<Vec<u8>> {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let manifest: Value = serde_json::from_slice(&described(layout, &index["manifests"][0], MANIFEST)?)?;
    described(layout, &manifest["config"], CONFIG)?;
    let layer = manifest["layers"].as_array().and_then(|layers| layers.last()).context("no layer")?;
    let mut archive = Vec::new();
    GzDecoder::new(described(layout, layer, LAYER)?.as_slice()).read_to_end(&mut archive)?;
    extracted(&archive)
}

/// The content that a descriptor describes, if it is that.
fn described(layout: &Path, descriptor: &Value, media_type: &str) -> Result<Vec<u8>> {
    let digest =
        descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:")).context("no digest")?;
    let content = fs::read(layout.join("blobs/sha256").join(digest))?;
    ensure!(descriptor["mediaType"] == media_type, "{digest} is no {media_type}");
    ensure!(descriptor["size"] == content.len(), "{digest} has {} bytes", content.len());
    ensure!(sha256(&content) == digest, "{digest} has another digest");
    Ok(content)
}

/// A ustar archive of one file, the same bytes for the same content: no owner, no time.
fn archive(content: &[u8]) -> Result<Vec<u8>> {
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, FILE);
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", content.len()));
    put(136, "00000000000");
    // The checksum is reckoned with blanks in its place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar");
    put(263, "00");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    ensure!(content.len() < 1 << 33, "too long for one header");
    let mut archive = [header.as_slice(), content].concat();
    // Whole blocks, and two empty ones at the end.
    archive.resize((archive.len().div_ceil(BLOCK) + 2) * BLOCK, 0);
    Ok(archive)
}

fn extracted(archive: &[u8]) -> Result<Vec<u8>> {
    let (header, rest) = archive.split_at_checked(BLOCK).context("no archive")?;
    ensure!(header.starts_with(format!("{FILE}\0").as_bytes()), "its first file is not {FILE}");
    let size = std::str::from_utf8(&header[124..135])?;
    match rest.get(..usize::from_str_radix(size, 8)?) {
        Some(content) => Ok(content.to_vec()),
        None => bail!("the archive ends within {FILE}"),
    }
}

fn sha256(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::process::Command;

    fn layout(name: &str) -> PathBuf {
        target().join("package-tests").join(name)
    }

    #[test]
    fn what_is_packed_is_read_back_and_gives_the_same_digest_every_time() {
        let module: Vec<u8> = b"\0asm\x01\0\0\0".iter().copied().cycle().take(1000).collect();
        let first = write(&layout("first"), "m", &module).unwrap();
        assert_eq!(read(&layout("first")).unwrap(), module);
        assert_eq!(write(&layout("second"), "m", &module).unwrap(), first);
        assert_ne!(write(&layout("other"), "m", &module[1..]).unwrap(), first);
    }

    #[test]
    fn an_image_is_recorded_by_its_digest_only() {
        let digits = "0123456789abcdef".repeat(4);
        assert_eq!(hexadecimal(&format!("sha256:{digits}")).unwrap(), digits);
        for other in ["latest", digits.as_str(), "sha256:", &format!("sha256:{}", digits.to_uppercase())] {
            assert!(hexadecimal(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_layout_whose_layer_was_changed_is_not_taken() {
        let folder = layout("changed");
        write(&folder, "m", b"module").unwrap();
        for blob in fs::read_dir(folder.join("blobs/sha256")).unwrap() {
            let path = blob.unwrap().path();
            let content = fs::read(&path).unwrap();
            fs::write(&path, [&content[..content.len() - 1], b"x"].concat()).unwrap();
            assert!(read(&folder).is_err(), "{}", path.display());
            fs::write(&path, content).unwrap();
        }
        assert_eq!(read(&folder).unwrap(), b"module");
    }

    #[test]
    fn tar_reads_the_archive_as_well() {
        let path = target().join("package-tests").join("archive.tar");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, archive(&[7; 700]).unwrap()).unwrap();
        let listed = Command::new("tar").arg("-tvf").arg(&path).output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.contains(FILE) && listed.contains(" 700 "), "{listed}");
    }
}
