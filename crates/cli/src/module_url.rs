//! Where the module is loaded from, as given on the command line: refused unless it pins what runs. Pure.

use std::fmt;
use std::str::FromStr;

/// `oci://`, `http(s)://` or `file://`, as Higress reads it in a WasmPlugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModuleUrl {
    text: String,
    pinned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("a module is loaded from oci://, http://, https:// or file://")]
    Scheme,
    #[error("nothing stands after the scheme")]
    Empty,
    #[error("a module's url is visible ASCII without ${{")]
    Characters,
    #[error(
        "`latest` names another module tomorrow: name a version, as in oci://registry/ai-quota:1.0.0, or a digest @sha256:..."
    )]
    Latest,
    #[error("the digest is not sha256: and 64 hexadecimal digits")]
    Digest,
}

impl ModuleUrl {
    /// Whether the url itself names a version or digest; otherwise `--module-sha256` must.
    pub(crate) const fn is_pinned(&self) -> bool {
        self.pinned
    }
}

impl fmt::Display for ModuleUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for ModuleUrl {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let (scheme, rest) = text.split_once("://").ok_or(Refused::Scheme)?;
        if rest.is_empty() {
            return Err(Refused::Empty);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains("${") {
            return Err(Refused::Characters);
        }
        let pinned = match scheme {
            "oci" => image_is_pinned(rest)?,
            "http" | "https" | "file" => path_is_versioned(rest)?,
            _ => return Err(Refused::Scheme),
        };
        Ok(Self { text: text.to_owned(), pinned })
    }
}

/// `registry[:port]/name[:tag][@sha256:digest]`: a tag follows a colon after the last slash.
fn image_is_pinned(image: &str) -> Result<bool, Refused> {
    if let Some((_, digest)) = image.split_once('@') {
        return if digest.strip_prefix("sha256:").is_some_and(is_sha256) { Ok(true) } else { Err(Refused::Digest) };
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.split_once(':') {
        Some((_, "latest")) => Err(Refused::Latest),
        Some((_, tag)) => Ok(!tag.is_empty()),
        None => Ok(false),
    }
}

/// A path names a version in a segment such as `v1.2.3`, `1.0.0` or `ai-quota-1.0.0.wasm`.
fn path_is_versioned(path: &str) -> Result<bool, Refused> {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let segments = || path.split('/').skip(1);
    if segments().any(|segment| segment == "latest") {
        return Err(Refused::Latest);
    }
    Ok(segments().any(names_a_version))
}

/// Whether digits, a dot and digits stand somewhere in it.
fn names_a_version(segment: &str) -> bool {
    segment.as_bytes().windows(3).any(|three| matches!(three, [a, b'.', c] if a.is_ascii_digit() && c.is_ascii_digit()))
}

/// 64 hexadecimal digits.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_or_digest_pins_the_module() {
        let digest = format!("oci://registry.example/ai-quota@sha256:{}", "a".repeat(64));
        for url in [
            "oci://registry.example/plugins/ai-quota:1.0.0",
            "oci://registry.example:5000/ai-quota:v1",
            digest.as_str(),
            "https://example.com/v1.2.3/ai-quota.wasm",
            "file:///opt/modules/ai-quota-1.0.0.wasm",
        ] {
            assert!(url.parse::<ModuleUrl>().unwrap().is_pinned(), "{url}");
        }
    }

    #[test]
    fn an_unversioned_url_is_not_pinned() {
        for url in [
            "oci://registry.example/ai-quota",
            "oci://registry.example:5000/ai-quota",
            "oci://registry.example/ai-quota:",
            "https://10.0.0.7/ai-quota.wasm",
            "file:///opt/ai-quota.wasm",
        ] {
            assert!(!url.parse::<ModuleUrl>().unwrap().is_pinned(), "{url}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_for_its_reason() {
        for (url, reason) in [
            ("registry.example/ai-quota:1.0.0", Refused::Scheme),
            ("ftp://registry.example/ai-quota:1.0.0", Refused::Scheme),
            ("oci://", Refused::Empty),
            ("oci://registry.example/ai-quota:latest", Refused::Latest),
            ("https://example.com/latest/ai-quota.wasm", Refused::Latest),
            ("oci://registry.example/ai-quota@sha256:abc", Refused::Digest),
            ("oci://registry.example/ai quota:1.0.0", Refused::Characters),
            ("oci://registry.example/${secret.a/b.c}:1.0.0", Refused::Characters),
        ] {
            assert_eq!(url.parse::<ModuleUrl>(), Err(reason), "{url}");
        }
    }
}
